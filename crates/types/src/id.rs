//! Ids that callers choose, and the 128-bit keys that stand for them inside.
//!
//! An id is an opaque string of 1-64 bytes; two ids are the same only if they are the same bytes. Inside, an id is
//! a 128-bit key: a canonical UUID (lower case, hyphenated, RFC 9562 variant) is its own key, any other string is
//! hashed with BLAKE3. The variant bits of a hashed key are set to a value that no such UUID has, so that nobody can
//! write down a UUID that stands for somebody else's string.

use std::fmt;
use std::str::FromStr;

/// The longest id, in bytes.
pub const ID_BYTES_MAX: usize = 64;

/// Bits 62-63 of a key: `10` in every RFC 9562 UUID, `11` in every hashed key.
const VARIANT_SHIFT: u32 = 62;
const VARIANT_MASK: u128 = 0b11 << VARIANT_SHIFT;
const VARIANT_UUID: u128 = 0b10 << VARIANT_SHIFT;
const VARIANT_HASHED: u128 = 0b11 << VARIANT_SHIFT;

/// Why a string is not an id.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum IdError {
    /// The empty string.
    #[error("an id must not be empty")]
    Empty,
    /// More than [`ID_BYTES_MAX`] bytes.
    #[error("an id has at most {ID_BYTES_MAX} bytes, this one has {0}")]
    TooLong(usize),
    /// A control character would garble logs and terminals.
    #[error("an id must not contain control characters")]
    ControlCharacter,
}

fn check(id: &str) -> Result<(), IdError> {
    if id.is_empty() {
        return Err(IdError::Empty);
    }
    if id.len() > ID_BYTES_MAX {
        return Err(IdError::TooLong(id.len()));
    }
    if id.chars().any(char::is_control) {
        return Err(IdError::ControlCharacter);
    }
    Ok(())
}

/// The key of a string: see the module's documentation.
fn key_of(id: &str) -> u128 {
    if let Some(uuid) = canonical_uuid(id) {
        return uuid;
    }
    let hash = blake3::hash(id.as_bytes());
    let mut bytes = [0u8; 16];
    bytes.copy_from_slice(&hash.as_bytes()[..16]);
    (u128::from_be_bytes(bytes) & !VARIANT_MASK) | VARIANT_HASHED
}

fn canonical_uuid(id: &str) -> Option<u128> {
    if id.len() != 36 || id.bytes().any(|byte| byte.is_ascii_uppercase()) {
        return None;
    }
    let uuid = uuid::Uuid::try_parse(id).ok()?.as_u128();
    (uuid & VARIANT_MASK == VARIANT_UUID).then_some(uuid)
}

macro_rules! id_and_key {
    ($id:ident, $key:ident, $what:literal) => {
        #[doc = concat!("The caller's ", $what, ": an opaque string of 1-64 bytes without control characters.")]
        #[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub struct $id(Box<str>);

        impl $id {
            /// Checks the string. A refusal has no effect; the same string is always refused.
            pub fn new(id: &str) -> Result<Self, IdError> {
                check(id)?;
                Ok(Self(id.into()))
            }

            /// The string as the caller gave it.
            pub fn as_str(&self) -> &str {
                &self.0
            }

            /// The 128-bit key that stands for this id inside.
            pub fn key(&self) -> $key {
                $key(key_of(&self.0))
            }
        }

        impl fmt::Display for $id {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(&self.0)
            }
        }

        impl FromStr for $id {
            type Err = IdError;
            fn from_str(id: &str) -> Result<Self, IdError> {
                Self::new(id)
            }
        }

        #[doc = concat!("The 128-bit key of a ", $what, ".")]
        #[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
        pub struct $key(pub u128);

        impl $key {
            /// From its two halves, as they travel in columns.
            pub const fn from_halves(high: u64, low: u64) -> Self {
                Self(((high as u128) << 64) | low as u128)
            }

            /// Its two halves, high first.
            pub const fn halves(self) -> (u64, u64) {
                ((self.0 >> 64) as u64, self.0 as u64)
            }

            /// The id as text when the key itself says it (a UUID), `None` for a hashed id.
            pub fn to_uuid_text(self) -> Option<String> {
                self.is_uuid().then(|| uuid::Uuid::from_u128(self.0).to_string())
            }

            /// Whether the key alone says the id: keys of UUIDs do, hashed keys do not.
            pub const fn is_uuid(self) -> bool {
                self.0 & VARIANT_MASK == VARIANT_UUID
            }

            /// Whether this can be the key of any id: a UUID's or a hashed one.
            pub const fn is_valid(self) -> bool {
                let variant = self.0 & VARIANT_MASK;
                variant == VARIANT_UUID || variant == VARIANT_HASHED
            }

            /// The Unix milliseconds that a UUIDv7 bears; `None` for any other key.
            pub const fn uuid_v7_millis(self) -> Option<u64> {
                let version = (self.0 >> 76) & 0xF;
                if self.0 & VARIANT_MASK == VARIANT_UUID && version == 7 {
                    Some((self.0 >> 80) as u64)
                } else {
                    None
                }
            }
        }

        impl fmt::Display for $key {
            /// The UUID, or `#` and 32 hex digits for a hashed id.
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                match self.to_uuid_text() {
                    Some(text) => f.write_str(&text),
                    None => write!(f, "#{:032x}", self.0),
                }
            }
        }

        impl fmt::Debug for $key {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                fmt::Display::fmt(self, f)
            }
        }
    };
}

id_and_key!(AccountId, AccountKey, "account id");

impl AccountKey {
    /// The key of an account of this name on an external participant: another one than that of the wallet account of the same
    /// name, and than on any other participant.
    #[must_use]
    pub fn on_external(self, participant: crate::ParticipantId) -> Self {
        let (high, low) = self.halves();
        let mixed = crate::Digest::of(&[u64::from(participant.0), high, low]).0;
        Self((mixed & !VARIANT_MASK) | VARIANT_HASHED)
    }
}
id_and_key!(TransactionId, TransactionKey, "transaction id (idempotency key)");

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bounds_are_checked() {
        assert_eq!(AccountId::new(""), Err(IdError::Empty));
        assert_eq!(AccountId::new(&"x".repeat(65)), Err(IdError::TooLong(65)));
        assert_eq!(AccountId::new("a\nb"), Err(IdError::ControlCharacter));
        assert!(AccountId::new(&"x".repeat(64)).is_ok());
        assert!(AccountId::new("ünïcode and spaces").is_ok());
    }

    #[test]
    fn a_uuid_is_its_own_key_and_comes_back_as_text() {
        let text = "0198c0de-0000-7abc-8def-0123456789ab";
        let key = TransactionId::new(text).unwrap().key();
        assert_eq!(key.0, 0x0198c0de_0000_7abc_8def_0123456789ab);
        assert_eq!(key.to_string(), text);
        assert_eq!(key.uuid_v7_millis(), Some(0x0198_c0de_0000));
    }

    #[test]
    fn upper_case_and_nil_uuids_are_ordinary_strings() {
        for text in ["0198C0DE-0000-7ABC-8DEF-0123456789AB", "00000000-0000-0000-0000-000000000000"] {
            let key = AccountId::new(text).unwrap().key();
            assert_eq!(key.to_uuid_text(), None, "{text}");
            assert!(key.is_valid());
        }
    }

    #[test]
    fn no_uuid_can_stand_for_a_hashed_id() {
        let key = AccountId::new("alice").unwrap().key();
        let forged = uuid::Uuid::from_u128(key.0).to_string();
        assert_ne!(AccountId::new(&forged).unwrap().key(), key);
    }

    #[test]
    fn an_external_account_is_another_account() {
        use crate::ParticipantId;
        let alice = AccountId::new("alice").unwrap().key();
        let (one, two) = (alice.on_external(ParticipantId(1)), alice.on_external(ParticipantId(2)));
        assert!(one != alice && one != two && one.is_valid() && !one.is_uuid());
    }

    #[test]
    fn halves_round_trip() {
        let key = AccountId::new("bob").unwrap().key();
        let (high, low) = key.halves();
        assert_eq!(AccountKey::from_halves(high, low), key);
    }
}
