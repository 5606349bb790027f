//! What a command gives back. The same command applied again to the same state gives the same.

use escrow_types::{Answer, Epoch, Sequence};

/// The answers to the branches of one batch, as columns of equal length, in the order of the batch.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct BranchAnswers {
    /// The epoch of the xids.
    pub epoch: Epoch,
    /// The sequence of each branch.
    pub sequences: Vec<Sequence>,
    /// One byte a branch, as [`Answer::to_byte`] makes it.
    pub bytes: Vec<u8>,
}

impl BranchAnswers {
    pub(crate) fn with_capacity(epoch: Epoch, branches: usize) -> Self {
        Self { epoch, sequences: Vec::with_capacity(branches), bytes: Vec::with_capacity(branches) }
    }

    pub(crate) fn push(&mut self, sequence: Sequence, answer: Answer) {
        self.sequences.push(sequence);
        self.bytes.push(answer.to_byte());
    }

    /// Row by row.
    pub fn iter(&self) -> impl Iterator<Item = (Sequence, Answer)> + '_ {
        self.sequences.iter().zip(&self.bytes).map(|(&sequence, &byte)| {
            (sequence, Answer::from_byte(byte).expect("only bytes of answers are pushed"))
        })
    }
}

/// What became of one row of an opening.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Opened {
    /// By this command.
    Opened,
    /// It was there already, with the same properties.
    Existed,
    /// It is there with other properties: refused, nothing changed.
    Differs,
}

/// What a command gives back.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Answers {
    /// To a hello.
    Hello {
        /// Whether its epoch is the open one now.
        accepted: bool,
        /// The open epoch.
        epoch: Epoch,
    },
    /// To Try, TryAndConfirm, Confirm, Cancel.
    Branches(BranchAnswers),
    /// To a watermark: nothing to say.
    Watermark,
    /// To an opening of accounts: one result a row.
    Opened(Vec<Opened>),
    /// To freezing or unfreezing.
    Frozen {
        /// Whether there is such an account.
        found: bool,
    },
}

impl Answers {
    /// The answers to branches; `None` for other commands.
    pub fn branches(&self) -> Option<&BranchAnswers> {
        match self {
            Self::Branches(answers) => Some(answers),
            _ => None,
        }
    }
}
