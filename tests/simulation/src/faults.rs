//! Which faults there are in one simulation, and how strong: a swarm. Each seed draws its own, because some bugs need a lot
//! of one thing and none of another (Groce et al., "Swarm Testing", ISSTA 2012).

use crate::chance::Chance;
use crate::time::{MS, SECOND, Time};

/// What one seed draws. Rates are per mille of the occasions.
#[derive(Debug, Clone)]
pub(crate) struct Faults {
    // The network.
    /// Longest delay of a message.
    pub(crate) delay_max: Time,
    /// Messages that take ten to a hundred times as long.
    pub(crate) slow_permille: u64,
    /// Messages of one stream overtake each other.
    pub(crate) reorder: bool,
    pub(crate) duplicate_permille: u64,
    /// Requests and answers of callers and external participants that are lost.
    pub(crate) lose_permille: u64,
    /// Mean time between broken connections; 0: none.
    pub(crate) disconnect_every: Time,
    /// Mean time between partitions of one link, in one direction or both; 0: none.
    pub(crate) partition_every: Time,
    // Processes.
    /// Mean time between kills; 0: none.
    pub(crate) kill_every: Time,
    /// Kills that are power losses.
    pub(crate) power_loss_permille: u64,
    /// Kills in the middle of what the process writes next.
    pub(crate) in_write_permille: u64,
    pub(crate) pause_every: Time,
    pub(crate) clock_jump_every: Time,
    pub(crate) clock_jump_max_ms: u64,
    // Disks.
    /// Longest write and sync.
    pub(crate) sync_max: Time,
    pub(crate) sync_error_permille: u64,
    pub(crate) disk_full_every: Time,
    /// Restarts that find a flipped bit in a file.
    pub(crate) flip_permille: u64,
    /// Restarts of a participant that find the view lost.
    pub(crate) view_lost_permille: u64,
    // Work.
    pub(crate) jobs: usize,
    pub(crate) job_every: Time,
    /// Everybody uses the same two accounts.
    pub(crate) hot: bool,
    pub(crate) external: bool,
    pub(crate) operator_every: Time,
    pub(crate) freeze_every: Time,
    pub(crate) checkpoint_every: Time,
    // Replicas.
    /// Mean time between disks that are lost; 0: none.
    pub(crate) lose_disk_every: Time,
    /// Mean time between changes of who belongs to a group, and who leads it; 0: none.
    pub(crate) change_every: Time,
    /// Bytes of a group's log that stay when a checkpoint includes them: whoever lacks older ones gets a snapshot.
    pub(crate) bytes_kept: usize,
    /// How long faults and new work go on.
    pub(crate) duration: Time,
}

/// A mean time between faults, often none at all.
fn every(chance: &mut Chance, least: Time, most: Time) -> Time {
    if chance.one_in(2) { 0 } else { chance.between(least, most) }
}

fn rate(chance: &mut Chance, most: u64) -> u64 {
    if chance.one_in(2) { 0 } else { 1 + chance.below(most) }
}

impl Faults {
    /// Without what would cost a group more than it can bear, or a replica its promises: damage on disk is for the simulation of
    /// processes that are alone.
    pub(crate) fn of_replicas(self, chance: &mut Chance) -> Self {
        Self {
            flip_permille: 0,
            view_lost_permille: 0,
            sync_error_permille: 0,
            disk_full_every: 0,
            lose_disk_every: every(chance, 300 * MS, 2 * SECOND),
            change_every: every(chance, 200 * MS, 2 * SECOND),
            bytes_kept: chance.one_of(&[0, 2 << 10, 32 << 20]),
            ..self
        }
    }

    pub(crate) fn draw(chance: &mut Chance) -> Self {
        Self {
            delay_max: chance.one_of(&[MS / 5, MS, 10 * MS, 100 * MS]),
            slow_permille: rate(chance, 60),
            reorder: chance.one_in(3),
            duplicate_permille: rate(chance, 100),
            lose_permille: rate(chance, 150),
            disconnect_every: every(chance, 30 * MS, SECOND),
            partition_every: every(chance, 100 * MS, 2 * SECOND),
            kill_every: every(chance, 50 * MS, 2 * SECOND),
            power_loss_permille: chance.one_of(&[0, 500, 1_000]),
            in_write_permille: chance.one_of(&[0, 300, 800]),
            pause_every: every(chance, 200 * MS, 2 * SECOND),
            clock_jump_every: every(chance, 200 * MS, 2 * SECOND),
            clock_jump_max_ms: chance.one_of(&[50, 2_000, 60_000]),
            sync_max: chance.one_of(&[MS / 5, MS, 20 * MS, 200 * MS]),
            sync_error_permille: if chance.one_in(4) { 1 + chance.below(20) } else { 0 },
            disk_full_every: if chance.one_in(4) { chance.between(300 * MS, 2 * SECOND) } else { 0 },
            flip_permille: chance.one_of(&[0, 0, 200]),
            view_lost_permille: chance.one_of(&[0, 0, 300]),
            jobs: 10 + chance.index(50),
            job_every: chance.one_of(&[2 * MS, 20 * MS, 60 * MS]),
            hot: chance.one_in(4),
            external: chance.one_in(3),
            operator_every: every(chance, 50 * MS, 500 * MS),
            freeze_every: every(chance, 200 * MS, SECOND),
            checkpoint_every: every(chance, 30 * MS, 500 * MS),
            lose_disk_every: 0,
            change_every: 0,
            bytes_kept: 0,
            duration: chance.between(SECOND, 3 * SECOND),
        }
    }
}
