//! Proposals on their way from the owner to Raft.
//!
//! **Invariant:** what is proposed in a term is sent in order, and again from what was refused on, until it is applied or the term is over.

use std::collections::VecDeque;
use std::time::Duration;

use bytes::Bytes;
use openraft::impls::ProgressResponder;
use openraft::raft::ClientWriteResult;
use tokio::sync::{mpsc, watch};

use crate::group::RaftOf;
use crate::runtime;
use crate::standing::Standing;
use crate::types::{Commands, Types};

/// Proposals handed to Raft in one go.
const PROPOSALS_PER_TURN: usize = 64;

/// What one leader has proposed in one term and is not applied yet.
#[derive(Default)]
struct Window {
    term: u64,
    /// Of the next proposal.
    next: u64,
    proposals: VecDeque<Commands>,
    /// One for each of the proposals, in their order.
    answers: VecDeque<Answer>,
}

type Answer = tokio::sync::oneshot::Receiver<ClientWriteResult<Types>>;

impl Window {
    async fn send(&mut self, raft: &RaftOf, commands: Commands) -> bool {
        let (responder, answer) = ProgressResponder::complete_only();
        self.answers.push_back(answer);
        raft.write(commands).with_leader(self.term).responder(responder).await.is_ok()
    }

    /// Resolves when the oldest proposal is answered: true if it is applied.
    async fn answered(&mut self) -> bool {
        match self.answers.front_mut() {
            Some(answer) => matches!(answer.await, Ok(Ok(_))),
            None => std::future::pending().await,
        }
    }
}

/// Takes proposals to Raft, in order. Raft refuses one when its lease has lapsed, and may take the next: that one is void, so all are sent again
/// from the refused one on (go back N), until the term is over.
pub(crate) async fn keep_proposing(
    raft: RaftOf,
    mut proposed: mpsc::UnboundedReceiver<(u64, Bytes)>,
    standing: watch::Receiver<Standing>,
) {
    const PAUSE: Duration = Duration::from_millis(5);
    let mut window = Window::default();
    let mut batch = Vec::with_capacity(PROPOSALS_PER_TURN);
    loop {
        let is_applied = tokio::select! {
            biased;
            is_applied = window.answered() => is_applied,
            count = proposed.recv_many(&mut batch, PROPOSALS_PER_TURN) => {
                if count == 0 {
                    return;
                }
                for (term, bytes) in batch.drain(..) {
                    if term != window.term {
                        window = Window { term, next: 1, ..Window::default() };
                    }
                    let commands = Commands { sequence: window.next, bytes };
                    window.next += 1;
                    window.proposals.push_back(commands.clone());
                    if !window.send(&raft, commands).await {
                        return;
                    }
                }
                continue;
            }
        };
        if is_applied {
            window.answers.pop_front();
            window.proposals.pop_front();
            continue;
        }
        window.answers.clear();
        let leads = {
            let standing = standing.borrow();
            standing.leads && standing.term == window.term
        };
        if !leads {
            // Whoever comes later in this term is refused by Raft.
            window.proposals.clear();
            continue;
        }
        runtime::sleep(PAUSE).await;
        for commands in window.proposals.clone() {
            if !window.send(&raft, commands).await {
                return;
            }
        }
    }
}
