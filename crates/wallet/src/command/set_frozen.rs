//! SetFrozen: whether an account takes part in new transactions.
//!
//! ```text
//! u128 account key, u8 frozen
//! ```

use escrow_types::AccountKey;
use escrow_types::codec::{Malformed, Put as _, Take};

/// Freezes or unfreezes an account. What is already reserved still ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct SetFrozen {
    /// Which account.
    pub account: AccountKey,
    /// Frozen from now on, or no longer.
    pub frozen: bool,
}

impl SetFrozen {
    pub(super) fn encode(self, out: &mut Vec<u8>) {
        out.put_u128(self.account.0);
        out.put_u8(u8::from(self.frozen));
    }

    pub(super) fn decode(take: &mut Take<'_>) -> Result<Self, Malformed> {
        let account = AccountKey(take.u128()?);
        Ok(Self { account, frozen: take.flag()? })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::command::{Command, tests::check_codec};

    #[test]
    fn bytes() {
        check_codec(&Command::SetFrozen(SetFrozen { account: AccountKey(u128::MAX), frozen: true }));
    }
}
