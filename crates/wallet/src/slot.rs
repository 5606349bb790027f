//! What is remembered of one branch, in four bytes.

use escrow_types::Reason;

/// What became of a branch.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum State {
    /// Nothing was heard of it.
    Unseen,
    /// Funds are held; the number is its place in the table of branches.
    Reserved(u32),
    /// Posted.
    Confirmed,
    /// Released.
    Canceled,
    /// Canceled before any Try came: a late Try is refused.
    EmptyCanceled,
    /// Its Try was refused.
    Rejected(Reason),
}

/// A [`State`] in four bytes: bit 31 and a place, or a code that is also the byte in checkpoints.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Slot(u32);

const RESERVED: u32 = 1 << 31;
const REJECTED: u8 = 0x40;

/// The most branches that can be reserved at a time: their places have 31 bits, and the last one marks a slot that
/// waits for its branch while a checkpoint is read.
pub(crate) const PLACES_MAX: u32 = RESERVED - 1;

impl Slot {
    pub(crate) const UNSEEN: Slot = Slot(0);
    /// A reserved branch whose record has not been read yet.
    pub(crate) const AWAITED: Slot = Slot(RESERVED | PLACES_MAX);
    /// The byte of a reserved branch in checkpoints; its record says the rest.
    pub(crate) const RESERVED_BYTE: u8 = 0xFF;

    #[inline]
    pub(crate) const fn of(state: State) -> Self {
        Self(match state {
            State::Unseen => 0,
            State::Confirmed => 1,
            State::Canceled => 2,
            State::EmptyCanceled => 3,
            State::Rejected(reason) => (REJECTED | reason as u8) as u32,
            State::Reserved(place) => RESERVED | place,
        })
    }

    #[inline]
    pub(crate) fn state(self) -> State {
        match self.0 {
            0 => State::Unseen,
            1 => State::Confirmed,
            2 => State::Canceled,
            3 => State::EmptyCanceled,
            code if code & RESERVED != 0 => State::Reserved(code & !RESERVED),
            code => State::Rejected(
                Reason::from_number(code as u8 & !REJECTED).expect("a slot is only made from a state"),
            ),
        }
    }

    pub(crate) const fn is_unseen(self) -> bool {
        self.0 == 0
    }

    pub(crate) const fn reserved(self) -> Option<u32> {
        if self.0 & RESERVED == 0 { None } else { Some(self.0 & !RESERVED) }
    }

    /// The byte that stands for it in checkpoints and digests.
    pub(crate) const fn to_byte(self) -> u8 {
        if self.0 & RESERVED == 0 { self.0 as u8 } else { Self::RESERVED_BYTE }
    }

    /// The slot that a byte stands for; [`Slot::AWAITED`] for a reserved one.
    pub(crate) const fn from_byte(byte: u8) -> Option<Self> {
        match byte {
            0..=3 => Some(Self(byte as u32)),
            Self::RESERVED_BYTE => Some(Self::AWAITED),
            _ if byte & REJECTED == REJECTED && byte & 0x3F < 16 && byte < 0x80 => {
                match Reason::from_number(byte & 0x3F) {
                    Some(_) => Some(Self(byte as u32)),
                    None => None,
                }
            }
            _ => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn states_round_trip() {
        let states = [
            State::Unseen,
            State::Reserved(0),
            State::Reserved(PLACES_MAX - 1),
            State::Confirmed,
            State::Canceled,
            State::EmptyCanceled,
            State::Rejected(Reason::AccountNotFound),
            State::Rejected(Reason::ParticipantRejected),
        ];
        for state in states {
            let slot = Slot::of(state);
            assert_eq!(slot.state(), state);
            match state {
                State::Reserved(_) => assert_eq!(Slot::from_byte(slot.to_byte()), Some(Slot::AWAITED)),
                _ => assert_eq!(Slot::from_byte(slot.to_byte()), Some(slot)),
            }
        }
    }

    #[test]
    fn bytes_of_no_state_are_refused() {
        let known = (0..=255u8).filter(|&byte| Slot::from_byte(byte).is_some()).count();
        assert_eq!(known, 4 + 6 + 1, "four plain states, six branch reasons, reserved");
    }
}
