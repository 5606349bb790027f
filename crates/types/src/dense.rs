//! Sequences that follow each other without a gap, which under load nearly all do: the first one and their number say it all.

use crate::xid::Sequence;

/// So many sequences at most are said by their first one alone, where nothing else in a message is as long as they are: a few bytes
/// must not make much of memory.
pub const ROWS_MAX: usize = 1 << 14;

/// The first of some sequences, if each is one more than the one before it; `None` if they are not so, or there are none.
pub fn first_of(sequences: &[Sequence]) -> Option<Sequence> {
    let &first = sequences.first()?;
    let is_dense = sequences.windows(2).all(|pair| pair[0].checked_add(1) == Some(pair[1]));
    is_dense.then_some(first)
}

/// So many sequences from the first one on; `None` if they would go beyond the last number. The caller bounds how many.
pub fn from(first: Sequence, rows: usize) -> Option<Vec<Sequence>> {
    let end = first.checked_add(rows as u64)?;
    Some((first..end).collect())
}

/// The sequences of a message whose rows have them one by one, or only the first one's. `None` where there are more or fewer than
/// `rows`, or no such numbers.
pub fn of_message(one_by_one: Vec<Sequence>, first: Sequence, rows: usize) -> Option<Vec<Sequence>> {
    if one_by_one.is_empty() {
        return from(first, rows);
    }
    (one_by_one.len() == rows).then_some(one_by_one)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_has_no_gap_is_dense() {
        assert_eq!(first_of(&[7, 8, 9]), Some(7));
        assert_eq!(first_of(&[u64::MAX - 1]), Some(u64::MAX - 1));
        for other in [&[][..], &[7, 7], &[7, 9], &[8, 7], &[u64::MAX, 0]] {
            assert_eq!(first_of(other), None, "{other:?}");
        }
    }

    #[test]
    fn the_first_and_the_number_say_it_all() {
        let sequences = vec![40, 41, 42];
        assert_eq!(from(first_of(&sequences).unwrap(), 3), Some(sequences.clone()));
        assert_eq!(of_message(vec![], 40, 3), Some(sequences.clone()));
        assert_eq!(of_message(sequences.clone(), 0, 3), Some(sequences));
        assert_eq!(of_message(vec![], 9, 0), Some(vec![]));
        assert_eq!(of_message(vec![1], 0, 2), None);
        assert_eq!(from(u64::MAX - 1, 2), None);
        assert_eq!(from(u64::MAX - 2, 2), Some(vec![u64::MAX - 2, u64::MAX - 1]));
    }
}
