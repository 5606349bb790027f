//! One log entry: everything an owner drained from its mailbox in one turn.
//!
//! ```text
//! u8   format version (2: close columns; 1 had none)
//! u64  time, Unix milliseconds: the owner's clock when it made the entry
//! ...  commands, one after the other, to the end of the payload
//! ```

use escrow_types::Millis;
use escrow_types::codec::{Malformed, Put as _, Take};

use crate::command::Command;

/// The format version that this build writes and reads.
const VERSION: u8 = 2;

/// One log entry.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Entry {
    /// When it was made, Unix milliseconds.
    pub time_ms: Millis,
    /// To be applied in this order.
    pub commands: Vec<Command>,
}

impl Entry {
    /// Begins an entry: append commands with [`Command::encode`].
    pub fn begin(time_ms: Millis, out: &mut Vec<u8>) {
        out.put_u8(VERSION);
        out.put_u64(time_ms);
    }

    /// The bytes of a whole entry.
    pub fn encode(&self) -> Vec<u8> {
        let mut out = Vec::new();
        Self::begin(self.time_ms, &mut out);
        for command in &self.commands {
            command.encode(&mut out);
        }
        out
    }

    /// Reads an entry back; never panics, whatever the bytes are.
    pub fn decode(bytes: &[u8]) -> Result<Self, Malformed> {
        let mut take = Take::new(bytes);
        if take.u8()? != VERSION {
            return Err(Malformed("a log entry of an unknown format version"));
        }
        let time_ms = take.u64()?;
        let mut commands = Vec::new();
        while take.remaining() > 0 {
            commands.push(Command::decode(&mut take)?);
        }
        Ok(Self { time_ms, commands })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::command::SetFrozen;
    use escrow_types::AccountKey;

    #[test]
    fn entries_round_trip() {
        let frozen = |frozen| Command::SetFrozen(SetFrozen { account: AccountKey(7), frozen });
        let entry = Entry { time_ms: 42, commands: vec![frozen(true), frozen(false)] };
        assert_eq!(Entry::decode(&entry.encode()), Ok(entry));
    }

    #[test]
    fn other_versions_are_refused() {
        let mut bytes = Entry { time_ms: 0, commands: vec![] }.encode();
        for version in 0..=u8::MAX {
            bytes[0] = version;
            assert_eq!(Entry::decode(&bytes).is_ok(), version == VERSION, "{version}");
        }
    }
}
