//! What can be logged: every change of a wallet is one of these, so that replaying the log rebuilds it.
//!
//! On disk a command is one byte that names its kind, then the fields in the order of its file. Commands hold what was
//! received; whether it is allowed is decided when it is applied, so that a refusal is replayed as a refusal.

mod end_batch;
mod hello;
mod open_accounts;
mod set_frozen;
mod try_batch;
mod watermark;

pub use end_batch::{EndBatch, Partial};
pub use hello::Hello;
pub use open_accounts::OpenAccount;
pub use set_frozen::SetFrozen;
pub use try_batch::{LEGS_MAX, TryBatch, kind_of};
pub use watermark::Watermark;

pub(crate) use try_batch::CREDIT;

use escrow_types::codec::{Malformed, Put, Take};
use escrow_types::{Epoch, Partition};

/// Columns that should have equal length do not, or have too many rows.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct UnequalColumns;

impl std::fmt::Display for UnequalColumns {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("columns of unequal length")
    }
}

impl std::error::Error for UnequalColumns {}

/// Who sends: a coordinator partition, and the epoch of the leader that speaks for it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Sender {
    /// The partition; also that of all xids in the message.
    pub partition: Partition,
    /// The epoch of the sender, which may be newer than that of the xids.
    pub epoch: Epoch,
}

impl Sender {
    /// Puts the two together.
    pub const fn new(partition: Partition, epoch: Epoch) -> Self {
        Self { partition, epoch }
    }

    fn encode(self, out: &mut Vec<u8>) {
        out.put_u16(self.partition.0);
        out.put_u32(self.epoch.0);
    }

    fn decode(take: &mut Take<'_>) -> Result<Self, Malformed> {
        Ok(Self { partition: Partition(take.u16()?), epoch: Epoch(take.u32()?) })
    }
}

/// One change of a wallet.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Command {
    /// Opens a newer epoch of a coordinator partition.
    Hello(Hello),
    /// Reserves branches.
    Try(TryBatch),
    /// Reserves and posts branches at once.
    TryAndConfirm(TryBatch),
    /// Posts reserved branches.
    Confirm(EndBatch),
    /// Releases branches, or fences those never tried.
    Cancel(EndBatch),
    /// Lets slots of finished branches be dropped.
    Watermark(Watermark),
    /// Opens accounts, or further currencies of accounts.
    OpenAccounts(Vec<OpenAccount>),
    /// Freezes or unfreezes an account.
    SetFrozen(SetFrozen),
    /// Fences branches that were never tried; what is reserved or has ended stays so.
    Fence(EndBatch),
}

impl Command {
    /// Appends the bytes.
    pub fn encode(&self, out: &mut Vec<u8>) {
        match self {
            Self::Hello(hello) => {
                out.put_u8(1);
                hello.encode(out);
            }
            Self::Try(batch) => {
                out.put_u8(2);
                batch.encode(out);
            }
            Self::TryAndConfirm(batch) => {
                out.put_u8(3);
                batch.encode(out);
            }
            Self::Confirm(batch) => {
                out.put_u8(4);
                batch.encode(out);
            }
            Self::Cancel(batch) => {
                out.put_u8(5);
                batch.encode(out);
            }
            Self::Watermark(watermark) => {
                out.put_u8(6);
                watermark.encode(out);
            }
            Self::OpenAccounts(rows) => {
                out.put_u8(7);
                open_accounts::encode(rows, out);
            }
            Self::SetFrozen(frozen) => {
                out.put_u8(8);
                frozen.encode(out);
            }
            Self::Fence(batch) => {
                out.put_u8(9);
                batch.encode(out);
            }
        }
    }

    /// Reads one command off the front.
    pub fn decode(take: &mut Take<'_>) -> Result<Self, Malformed> {
        Ok(match take.u8()? {
            1 => Self::Hello(Hello::decode(take)?),
            2 => Self::Try(TryBatch::decode(take)?),
            3 => Self::TryAndConfirm(TryBatch::decode(take)?),
            4 => Self::Confirm(EndBatch::decode(take)?),
            5 => Self::Cancel(EndBatch::decode_whole(take)?),
            6 => Self::Watermark(Watermark::decode(take)?),
            7 => Self::OpenAccounts(open_accounts::decode(take)?),
            8 => Self::SetFrozen(SetFrozen::decode(take)?),
            9 => Self::Fence(EndBatch::decode_whole(take)?),
            _ => return Err(Malformed("a command of an unknown kind")),
        })
    }

    /// The size of its bytes, near enough to bound mailboxes and buffers.
    pub fn bytes_estimate(&self) -> usize {
        64 + match self {
            Self::Hello(hello) => hello.unfinished.len() * 12,
            Self::Try(batch) | Self::TryAndConfirm(batch) => batch.rows() * 34,
            Self::Confirm(batch) | Self::Cancel(batch) | Self::Fence(batch) => {
                batch.sequences().len() * 8
                    + batch.partial().map_or(0, |partial| partial.legs.len() * 4 + partial.amounts.len() * 8)
            }
            Self::Watermark(watermark) => watermark.except.len() * 8,
            Self::OpenAccounts(rows) => rows.iter().map(|row| row.id.as_str().len() + 24).sum(),
            Self::SetFrozen(_) => 17,
        }
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;

    /// Round trip, and every truncation is an error.
    pub(crate) fn check_codec(command: &Command) {
        let mut bytes = Vec::new();
        command.encode(&mut bytes);
        let mut take = Take::new(&bytes);
        assert_eq!(Command::decode(&mut take).as_ref(), Ok(command));
        assert_eq!(take.finish(), Ok(()));
        assert!(bytes.len() <= command.bytes_estimate(), "{command:?}");
        for length in 0..bytes.len() {
            assert!(Command::decode(&mut Take::new(&bytes[..length])).is_err(), "cut at {length}");
        }
    }

    #[test]
    fn an_unknown_kind_is_refused() {
        assert!(Command::decode(&mut Take::new(&[0])).is_err());
        assert!(Command::decode(&mut Take::new(&[10])).is_err());
    }
}
