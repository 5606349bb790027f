//! Limits of a client. Every call has a deadline; nothing here can be infinite.

use std::time::Duration;

use escrow_grpc::Connector;

/// How a [`crate::Client`] connects, waits and retries.
#[derive(Debug, Clone)]
pub struct Options {
    /// HTTP/2 connections to each replica. One connection is one lock and one TCP window: with many cores a few help.
    pub connections: usize,
    /// How long a TCP connection may take to be made.
    pub connect_timeout: Duration,
    /// How long one attempt may take before it is given up and made again.
    pub attempt_timeout: Duration,
    /// Where a coordinator or shard has several replicas: how long one of them may take before the next one is asked, and twice
    /// as long each time that this was too short, up to `attempt_timeout`. A repetition joins what is under way already. An
    /// operator's verb is never repeated for being slow, and with one replica this means nothing. A stream notices within twice this
    /// time that its replica is silent.
    pub replica_timeout: Duration,
    /// How long a call may take with all its attempts and pauses. A transfer that names its own timeout has that and
    /// [`Options::grace`] instead.
    pub deadline: Duration,
    /// What a call is given beyond the timeout of its transaction, so that the server's own answer ("canceled:
    /// DEADLINE_EXCEEDED") comes before the client gives up.
    pub grace: Duration,
    /// The pauses between attempts.
    pub retry: RetryPolicy,
    /// The largest message sent or taken, in bytes.
    pub message_bytes_max: usize,
    /// Messages that wait between the sending half of a stream and the connection; then `send` waits too.
    pub stream_queue: usize,
    /// What connections are made of: TCP, unless a simulation has a network of its own.
    pub connector: Connector,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            connections: 1,
            connect_timeout: Duration::from_secs(2),
            attempt_timeout: Duration::from_secs(10),
            replica_timeout: Duration::from_secs(2),
            deadline: Duration::from_secs(30),
            grace: Duration::from_secs(1),
            retry: RetryPolicy::default(),
            message_bytes_max: 64 << 20,
            stream_queue: 1_024,
            connector: Connector::tcp(),
        }
    }
}

impl Options {
    /// Short limits, for tools that people wait for: `total` for a whole call, a third of it for an attempt.
    #[must_use]
    pub fn within(total: Duration) -> Self {
        Self {
            connect_timeout: Duration::from_secs(2).min(total),
            attempt_timeout: (total / 3).max(Duration::from_millis(500)).min(total),
            deadline: total,
            ..Self::default()
        }
    }

    /// One attempt that may take so long, connecting included: for whoever wants to know what one process says now, or that it says
    /// nothing.
    #[must_use]
    pub fn once(within: Duration) -> Self {
        Self {
            connect_timeout: within,
            attempt_timeout: within,
            deadline: within,
            retry: RetryPolicy::never(),
            ..Self::default()
        }
    }
}

/// Exponential pauses: each twice the last, up to a cap, each spread at random by half of itself both ways.
#[derive(Debug, Clone, Copy)]
pub struct RetryPolicy {
    /// The first pause.
    pub first: Duration,
    /// The longest pause.
    pub cap: Duration,
    /// Attempts at most, the first included; the deadline may end a call earlier. To go on to another replica because one does not
    /// lead, or cannot be reached, is part of the same attempt.
    pub attempts_max: u32,
}

impl Default for RetryPolicy {
    fn default() -> Self {
        Self { first: Duration::from_millis(20), cap: Duration::from_secs(1), attempts_max: u32::MAX }
    }
}

impl RetryPolicy {
    /// One attempt and no more.
    #[must_use]
    pub fn never() -> Self {
        Self { attempts_max: 1, ..Self::default() }
    }
}
