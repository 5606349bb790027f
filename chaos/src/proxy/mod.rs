//! A TCP proxy that makes the network bad: one for each process that calls and each that it calls.
//!
//! Each way has its own [`Conditions`], changed at any moment and felt by connections that exist: bytes pass, wait, or are
//! swallowed; they may be late, and few a second. New connections can be refused, and all can be reset.
//!
//! What TCP makes of a lossy network is lateness and broken connections, so those are what this makes: no byte that is passed on
//! is ever out of order or damaged, and a connection that lost bytes is reset before any later byte passes.
//!
//! **Invariant:** listens on loopback; knows nothing of what it carries.

mod conditions;
mod pipe;

pub use conditions::{Conditions, Flow, Way};

use std::io;
use std::net::{Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use tokio::task::{JoinHandle, JoinSet};

use crate::chance::Chance;
use pipe::carry;

/// A proxy before one process. Its connections end when it is dropped.
#[derive(Debug)]
pub struct Proxy {
    address: SocketAddr,
    switches: Arc<Switches>,
    task: JoinHandle<()>,
}

/// What can be changed while it runs.
#[derive(Debug)]
struct Switches {
    target: SocketAddr,
    to: watch::Sender<Conditions>,
    from: watch::Sender<Conditions>,
    /// Counts resets.
    resets: watch::Sender<u64>,
    refuses: AtomicBool,
}

impl Proxy {
    /// Listens on a free port and carries everything to `target`. `seed` chooses the jitter.
    pub async fn start(target: SocketAddr, seed: u64) -> io::Result<Self> {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await?;
        let address = listener.local_addr()?;
        let switches = Arc::new(Switches {
            target,
            to: watch::channel(Conditions::default()).0,
            from: watch::channel(Conditions::default()).0,
            resets: watch::channel(0).0,
            refuses: AtomicBool::new(false),
        });
        let task = tokio::spawn(accept(listener, Arc::clone(&switches), Chance::new(seed)));
        Ok(Self { address, switches, task })
    }

    /// Where it listens.
    pub const fn address(&self) -> SocketAddr {
        self.address
    }

    /// Changes what one way is like, from now on and for connections that exist.
    pub fn set(&self, way: Way, conditions: Conditions) {
        self.switches.way(way).send_replace(conditions);
    }

    /// Changes both ways.
    pub fn set_both(&self, conditions: Conditions) {
        self.set(Way::To, conditions);
        self.set(Way::From, conditions);
    }

    /// Whether new connections are refused from now on.
    pub fn refuse(&self, refuses: bool) {
        self.switches.refuses.store(refuses, Ordering::Relaxed);
    }

    /// Resets every connection there is.
    pub fn reset_connections(&self) {
        self.switches.resets.send_modify(|count| *count += 1);
    }

    /// As a good network again.
    pub fn heal(&self) {
        self.refuse(false);
        self.set_both(Conditions::default());
    }
}

impl Drop for Proxy {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl Switches {
    const fn way(&self, way: Way) -> &watch::Sender<Conditions> {
        match way {
            Way::To => &self.to,
            Way::From => &self.from,
        }
    }
}

/// Takes connections for ever. Those that exist end with the task.
async fn accept(listener: TcpListener, switches: Arc<Switches>, mut chance: Chance) {
    let mut connections = JoinSet::new();
    loop {
        tokio::select! {
            accepted = listener.accept() => match accepted {
                Ok((inbound, _)) if switches.refuses.load(Ordering::Relaxed) => reset(&inbound),
                Ok((inbound, _)) => {
                    let chance = Chance::new(chance.next());
                    connections.spawn(connection(inbound, Arc::clone(&switches), chance));
                }
                Err(error) => tracing::warn!(%error, "the proxy cannot take a connection"),
            },
            Some(_) = connections.join_next() => {}
        }
    }
}

/// One connection, until one side ends it or it is reset.
async fn connection(mut inbound: TcpStream, switches: Arc<Switches>, mut chance: Chance) {
    // Both sides write whole messages: none waits for the next.
    let _ = inbound.set_nodelay(true);
    let Ok(mut outbound) = TcpStream::connect(switches.target).await else {
        return reset(&inbound);
    };
    let _ = outbound.set_nodelay(true);
    let mut resets = switches.resets.subscribe();
    let lost_bytes = AtomicBool::new(false);
    let broken = {
        let (from_caller, to_caller) = inbound.split();
        let (from_target, to_target) = outbound.split();
        let to =
            carry(from_caller, to_target, switches.to.subscribe(), &lost_bytes, Chance::new(chance.next()));
        let from =
            carry(from_target, to_caller, switches.from.subscribe(), &lost_bytes, Chance::new(chance.next()));
        tokio::select! {
            // Both ways ended in order, or one broke.
            ended = async { tokio::try_join!(to, from) } => ended.is_err(),
            _ = resets.changed() => true,
            () = healed(&switches, &lost_bytes) => true,
        }
    };
    if broken {
        reset(&inbound);
        reset(&outbound);
    }
}

/// Waits until a connection that lost bytes could go on: it must not.
async fn healed(switches: &Switches, lost_bytes: &AtomicBool) {
    let (mut to, mut from) = (switches.to.subscribe(), switches.from.subscribe());
    loop {
        tokio::select! {
            _ = to.changed() => {}
            _ = from.changed() => {}
        }
        let passes = |way: &watch::Receiver<Conditions>| way.borrow().flow == Flow::Pass;
        if passes(&to) && passes(&from) && lost_bytes.load(Ordering::Relaxed) {
            return;
        }
    }
}

/// Has the other side see a reset when the socket is closed, not an end in order.
fn reset(socket: &TcpStream) {
    // It may be closed already.
    let _ = socket.set_zero_linger();
}

#[cfg(test)]
mod tests;
