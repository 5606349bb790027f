//! One entry of the recovery log: a version, the time at which it was made, and the commands of one turn.

use escrow_types::Millis;
use escrow_types::codec::{Malformed, Put as _, Take};

use crate::command::Command;

/// The version of the format (2: close columns; 1 had none). Readers refuse others.
const VERSION: u8 = 2;

/// The commands of one turn of the owner, in order.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Entry {
    /// When the owner made it; the only time that the state machine ever sees.
    pub time_ms: Millis,
    /// In order.
    pub commands: Vec<Command>,
}

impl Entry {
    /// Its bytes.
    pub fn encode(&self) -> Vec<u8> {
        let mut out = Vec::with_capacity(256);
        self.encode_into(&mut out);
        out
    }

    /// Appends its bytes to a buffer that is used again and again.
    pub fn encode_into(&self, out: &mut Vec<u8>) {
        out.put_u8(VERSION);
        out.put_u64(self.time_ms);
        out.put_u32(self.commands.len() as u32);
        for command in &self.commands {
            command.encode(out);
        }
    }

    /// Reads an entry; all bytes must belong to it.
    pub fn decode(bytes: &[u8]) -> Result<Self, Malformed> {
        let mut take = Take::new(bytes);
        if take.u8()? != VERSION {
            return Err(Malformed("unknown version of a log entry"));
        }
        let time_ms = take.u64()?;
        let count = take.u32()? as usize;
        if count > take.remaining() {
            return Err(Malformed("more commands than bytes"));
        }
        let mut commands = Vec::with_capacity(count.min(1_024));
        for _ in 0..count {
            commands.push(Command::decode(&mut take)?);
        }
        take.finish()?;
        Ok(Self { time_ms, commands })
    }
}
