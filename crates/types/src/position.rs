//! What a read must include: a place in the log of each shard that it names.
//!
//! Callers pass it on as they got it, as text: `0@1234+7@99`.

use std::collections::BTreeMap;
use std::fmt;
use std::str::FromStr;

use crate::routing::ParticipantId;

/// As many shards as there may be.
const SHARDS_MAX: usize = crate::routing::SLOTS as usize;

/// Indexes of the logs of shards.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct ReadPosition(BTreeMap<ParticipantId, u64>);

/// A text that is no position.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("not a position of an earlier answer, such as 0@1234")]
pub struct NoPosition;

impl ReadPosition {
    /// Of one shard.
    pub fn of(shard: ParticipantId, index: u64) -> Self {
        Self(BTreeMap::from([(shard, index)]))
    }

    /// The place in the log of a shard; `None` if it does not name that one.
    pub fn get(&self, shard: ParticipantId) -> Option<u64> {
        self.0.get(&shard).copied()
    }
}

impl FromIterator<(ParticipantId, u64)> for ReadPosition {
    fn from_iter<I: IntoIterator<Item = (ParticipantId, u64)>>(places: I) -> Self {
        Self(places.into_iter().collect())
    }
}

impl fmt::Display for ReadPosition {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (at, (shard, index)) in self.0.iter().enumerate() {
            let separator = if at == 0 { "" } else { "+" };
            write!(f, "{separator}{}@{index}", shard.0)?;
        }
        Ok(())
    }
}

impl FromStr for ReadPosition {
    type Err = NoPosition;

    fn from_str(text: &str) -> Result<Self, NoPosition> {
        if text.is_empty() {
            return Ok(Self::default());
        }
        let mut places = BTreeMap::new();
        for part in text.split('+') {
            let (shard, index) = part.split_once('@').ok_or(NoPosition)?;
            let is_number = |text: &str| !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit());
            if !is_number(shard) || !is_number(index) || places.len() >= SHARDS_MAX {
                return Err(NoPosition);
            }
            let shard = ParticipantId(shard.parse().map_err(|_| NoPosition)?);
            if places.insert(shard, index.parse().map_err(|_| NoPosition)?).is_some() {
                return Err(NoPosition);
            }
        }
        Ok(Self(places))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_position_is_read_as_it_was_written() {
        for text in ["", "0@1", "0@1234+7@99", "65535@18446744073709551615"] {
            assert_eq!(text.parse::<ReadPosition>().unwrap().to_string(), text);
        }
        let position: ReadPosition = "0@12+7@99".parse().unwrap();
        assert_eq!((position.get(ParticipantId(7)), position.get(ParticipantId(1))), (Some(99), None));
    }

    #[test]
    fn other_texts_are_refused() {
        for text in [
            "@",
            "0@",
            "@1",
            "0@1+",
            "+0@1",
            "0@1+0@2",
            "0@-1",
            "0@+1",
            "65536@1",
            "0@18446744073709551616",
            "é@1",
        ] {
            assert_eq!(text.parse::<ReadPosition>(), Err(NoPosition), "{text}");
        }
    }
}
