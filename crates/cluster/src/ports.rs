//! Which ports the processes listen on.

use std::collections::BTreeMap;
use std::hash::{BuildHasher as _, RandomState};
use std::io;
use std::net::{Ipv4Addr, TcpListener};

use crate::error::{ClusterError, at};
use crate::spec::{NodeId, Role, Spec};

/// Free ports are looked for here: below the range from which the kernel takes the ports of outgoing connections, so that
/// none of those can sit on a server's port while that restarts (nor connect to itself there).
const FREE_FIRST: u16 = 10_000;
const FREE_COUNT: u16 = 22_000;

/// A port for every process, each free at this moment.
pub(crate) fn choose(spec: &Spec) -> Result<BTreeMap<NodeId, u16>, ClusterError> {
    let mut ports = BTreeMap::new();
    // All are held until all are chosen, so that none is chosen twice.
    let mut held = Vec::new();
    let mut candidates = candidates();
    for node in spec.nodes() {
        let (listener, port) = if spec.base_port == 0 {
            candidates
                .find_map(|port| bind(port).ok().map(|listener| (listener, port)))
                .ok_or_else(|| ClusterError::Invalid("no free port was found".to_owned()))?
        } else {
            let port = match node.role {
                Role::Coordinator => spec.base_port + node.number,
                Role::Participant => spec.base_port + 10 + node.number,
            };
            let listener = bind(port).map_err(|error| match error.kind() {
                io::ErrorKind::AddrInUse => ClusterError::PortInUse(port),
                _ => at(format!("port {port}"))(error),
            })?;
            (listener, port)
        };
        held.push(listener);
        ports.insert(node, port);
    }
    Ok(ports)
}

fn bind(port: u16) -> io::Result<TcpListener> {
    TcpListener::bind((Ipv4Addr::LOCALHOST, port))
}

/// Every port of the range once, from a random place on: clusters that start together do not race for the same.
fn candidates() -> impl Iterator<Item = u16> {
    let start = RandomState::new().hash_one(std::process::id()) as u16 % FREE_COUNT;
    (0..FREE_COUNT)
        .map(move |step| FREE_FIRST + ((u32::from(start) + u32::from(step)) % u32::from(FREE_COUNT)) as u16)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn free_ports_are_distinct() {
        let spec = Spec { participants: 5, ..Spec::new("/d").unwrap() };
        let ports = choose(&spec).unwrap();
        let distinct: std::collections::BTreeSet<u16> = ports.values().copied().collect();
        assert_eq!((ports.len(), distinct.len()), (6, 6));
    }

    #[test]
    fn a_port_in_use_is_named() {
        let taken = candidates().find_map(|port| bind(port).ok()).unwrap();
        let port = taken.local_addr().unwrap().port();
        let spec = Spec { base_port: port, ..Spec::new("/d").unwrap() };
        let error = choose(&spec).unwrap_err();
        assert!(matches!(error, ClusterError::PortInUse(in_use) if in_use == port), "{error}");
    }
}
