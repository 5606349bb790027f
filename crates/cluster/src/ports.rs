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

/// From the port of one replica to that of the next of the same partition or shard.
pub(crate) const REPLICA_STEP: u16 = 100;

/// The port of a process by its number; [`Spec::check`] refuses what would collide.
pub(crate) const fn of(base: u16, node: NodeId) -> u16 {
    let replica = REPLICA_STEP * node.replica.saturating_sub(1);
    match node.role {
        Role::Coordinator => base + replica + node.number,
        Role::Participant => base + replica + 10 + node.number,
    }
}

/// A port for every process, each free at this moment. Where free ones are picked, those of `before` are taken again if they still
/// are free: members of a group know each other by their endpoints.
pub(crate) fn choose(
    spec: &Spec,
    before: &BTreeMap<NodeId, u16>,
) -> Result<BTreeMap<NodeId, u16>, ClusterError> {
    let mut ports = BTreeMap::new();
    // All are held until all are chosen, so that none is chosen twice.
    let mut held = Vec::new();
    if spec.base_port != 0 {
        let mut taken = Vec::new();
        for node in spec.nodes() {
            let port = of(spec.base_port, node);
            match bind(port) {
                Ok(listener) => held.push(listener),
                Err(error) if error.kind() == io::ErrorKind::AddrInUse => taken.push(port),
                Err(error) => return Err(at(format!("port {port}"))(error)),
            }
            ports.insert(node, port);
        }
        return if taken.is_empty() { Ok(ports) } else { Err(ClusterError::PortsInUse(taken)) };
    }
    for (&node, &port) in before {
        if let Ok(listener) = bind(port) {
            held.push(listener);
            ports.insert(node, port);
        }
    }
    let mut candidates = candidates();
    for node in spec.nodes() {
        if ports.contains_key(&node) {
            continue;
        }
        let (listener, port) = candidates
            .find_map(|port| bind(port).ok().map(|listener| (listener, port)))
            .ok_or_else(|| ClusterError::Invalid("no free port was found".to_owned()))?;
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
        let ports = choose(&spec, &BTreeMap::new()).unwrap();
        let distinct: std::collections::BTreeSet<u16> = ports.values().copied().collect();
        assert_eq!((ports.len(), distinct.len()), (6, 6));
    }

    #[test]
    fn all_ports_in_use_are_named() {
        let spec = Spec { participants: 2, ..Spec::new("/d").unwrap() };
        let numbers: Vec<u16> = spec.nodes().map(|node| of(0, node)).collect();
        let [first, second, third] = numbers[..] else { panic!("{numbers:?}") };
        // The second is left free, as far as this test can say; the others are taken.
        let (base, _taken) = candidates()
            .find_map(|base| {
                let taken = [first, third].map(|number| bind(base + number));
                taken.iter().all(Result::is_ok).then_some((base, taken))
            })
            .unwrap();
        let error = choose(&Spec { base_port: base, ..spec }, &BTreeMap::new()).unwrap_err();
        let text = error.to_string();
        let ClusterError::PortsInUse(mut ports) = error else { panic!("{text}") };
        for port in &ports {
            assert!(text.contains(&port.to_string()), "{port} is missing: {text}");
        }
        ports.retain(|&port| port != base + second);
        assert_eq!(ports, [base + first, base + third]);
    }

    #[test]
    fn numbered_ports_do_not_collide() {
        let spec = Spec { coordinators: 10, participants: 90, replicas: 7, ..Spec::new("/d").unwrap() };
        let distinct: std::collections::BTreeSet<u16> = spec.nodes().map(|node| of(7_400, node)).collect();
        assert_eq!(distinct.len(), 700);
        assert_eq!(of(7_400, NodeId::participant(1)), of(7_400, NodeId::participant(1).replica(1)));
        assert_eq!(of(7_400, NodeId::participant(1).replica(3)), 7_611);
    }

    #[test]
    fn free_ports_stay_the_same_unless_one_is_taken() {
        let spec = Spec { replicas: 3, participants: 1, ..Spec::new("/d").unwrap() };
        let first = choose(&spec, &BTreeMap::new()).unwrap();
        assert_eq!(choose(&spec, &first).unwrap(), first);
        let (&node, &port) = first.first_key_value().unwrap();
        let _taken = bind(port).unwrap();
        let second = choose(&spec, &first).unwrap();
        let moved: Vec<NodeId> = first.keys().copied().filter(|node| first[node] != second[node]).collect();
        assert_eq!(moved, [node]);
    }
}
