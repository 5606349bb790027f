//! Connections: a small pool for each replica, made when first used and remade when broken.
//!
//! **Invariant:** which replica is asked is chosen here and in `escrow_service::replicas`, and nowhere else.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use escrow_grpc::{Channel, Endpoint, KeepAlive};
use escrow_service::Replicas;

use crate::error::ClientError;
use crate::options::Options;

/// The endpoints of a client, in order of their partitions, each a group of replicas.
#[derive(Debug, Clone)]
pub(crate) struct Pool {
    groups: Arc<[Group]>,
}

/// One replica of one partition: where an attempt goes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Route {
    pub(crate) partition: usize,
    pub(crate) replica: usize,
}

#[derive(Debug)]
struct Group {
    /// As it was given: all replicas.
    endpoint: String,
    replicas: Replicas,
    connections: Box<[Connections]>,
}

/// The connections to one replica.
#[derive(Debug)]
struct Connections {
    channels: Box<[Channel]>,
    next: AtomicUsize,
}

impl Pool {
    /// Checks the endpoints; connects to none of them. Must be called within a tokio runtime.
    pub(crate) fn new<E: Into<String>>(
        endpoints: impl IntoIterator<Item = E>,
        options: &Options,
    ) -> Result<Self, ClientError> {
        let groups: Vec<Group> = endpoints
            .into_iter()
            .map(|endpoint| Group::new(endpoint.into(), options))
            .collect::<Result<_, _>>()?;
        if groups.is_empty() {
            return Err(ClientError::Invalid("at least one endpoint is needed".to_owned()));
        }
        Ok(Self { groups: groups.into() })
    }

    pub(crate) fn len(&self) -> usize {
        self.groups.len()
    }

    fn group(&self, partition: usize) -> &Group {
        &self.groups[partition % self.groups.len()]
    }

    /// All replicas of a partition, as they were given.
    pub(crate) fn endpoint(&self, partition: usize) -> &str {
        &self.group(partition).endpoint
    }

    pub(crate) fn replicas(&self, partition: usize) -> &Replicas {
        &self.group(partition).replicas
    }

    /// One replica, for messages.
    pub(crate) fn endpoint_at(&self, route: Route) -> &str {
        &self.replicas(route.partition).endpoints()[route.replica]
    }

    /// A connection to a replica, in turn.
    pub(crate) fn channel(&self, route: Route) -> Channel {
        let connections = &self.group(route.partition).connections[route.replica];
        let turn = connections.next.fetch_add(1, Ordering::Relaxed);
        connections.channels[turn % connections.channels.len()].clone()
    }
}

impl Group {
    fn new(endpoint: String, options: &Options) -> Result<Self, ClientError> {
        let replicas = Replicas::parse(&endpoint)
            .map_err(|why| ClientError::Invalid(format!("'{endpoint}' is not an endpoint: {why}")))?;
        let keep_alive = if replicas.is_alone() { KEEP_ALIVE } else { options.replica_timeout };
        let connections = replicas
            .endpoints()
            .iter()
            .map(|replica| Connections::new(replica, keep_alive, options))
            .collect::<Result<_, _>>()?;
        Ok(Self { endpoint, replicas, connections })
    }
}

/// How long a connection may be silent, and how long the answer to a ping may take, where there is nobody else to ask.
const KEEP_ALIVE: Duration = Duration::from_secs(10);

impl Connections {
    fn new(endpoint: &str, keep_alive: Duration, options: &Options) -> Result<Self, ClientError> {
        let endpoint = Endpoint::parse(endpoint).map_err(|error| ClientError::Invalid(error.to_string()))?;
        let keep_alive = KeepAlive { silent: keep_alive, answered: keep_alive };
        let endpoint = endpoint.connect_within(options.connect_timeout).keep_alive(keep_alive);
        let channel = |_| Channel::new(endpoint.clone(), options.connector.clone());
        let channels = (0..options.connections.max(1)).map(channel).collect();
        Ok(Self { channels, next: AtomicUsize::new(0) })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn what_is_not_an_endpoint_is_refused() {
        let twice = "http://127.0.0.1:7400+http://127.0.0.1:7401+http://127.0.0.1:7400";
        for endpoint in [
            "",
            "127.0.0.1:7400",
            "http://",
            "ftp://x",
            "http://x y",
            "http://host:1/path",
            "http://host:1+",
            "http://host:1+host:2",
            twice,
        ] {
            let error = Pool::new([endpoint], &Options::default()).unwrap_err();
            assert!(error.has_no_effect() && !error.is_retryable(), "{endpoint}: {error}");
        }
        assert!(Pool::new(Vec::<String>::new(), &Options::default()).is_err());
        assert!(Pool::new(["http://127.0.0.1:7400", "http://localhost:7401/"], &Options::default()).is_ok());
    }

    #[tokio::test]
    async fn replicas_are_of_one_partition() {
        let pool = Pool::new(["http://a:1+http://b:1", "http://c:1"], &Options::default()).unwrap();
        assert_eq!((pool.len(), pool.endpoint(0)), (2, "http://a:1+http://b:1"));
        assert_eq!(pool.endpoint_at(Route { partition: 0, replica: 1 }), "http://b:1");
        assert_eq!(pool.endpoint_at(Route { partition: 1, replica: 0 }), "http://c:1");
    }
}
