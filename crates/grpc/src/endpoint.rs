//! Where a channel leads, and within which limits.

use std::time::Duration;

use http::Uri;
use http::uri::Authority;

/// The address of one server, and the limits of connections to it.
#[derive(Debug, Clone)]
pub struct Endpoint {
    authority: Authority,
    pub(crate) connect_timeout: Duration,
    pub(crate) keep_alive: KeepAlive,
}

/// When a silent connection is given up. Both are at least a millisecond.
#[derive(Debug, Clone, Copy)]
pub struct KeepAlive {
    /// After so much silence the server is sent a ping.
    pub silent: Duration,
    /// So long it may take to say anything then.
    pub answered: Duration,
}

/// What is given is not the address of a server.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("'{address}' is not an endpoint: {why}; expected such as http://127.0.0.1:7400")]
pub struct EndpointError {
    address: String,
    why: String,
}

impl Endpoint {
    /// The server at an address such as `http://127.0.0.1:7400`. Connections are made within 2 s, and given up when nothing was heard
    /// for 10 s and a ping is not answered within 10 s more.
    pub fn parse(address: &str) -> Result<Self, EndpointError> {
        let refused = |why: &str| EndpointError { address: address.to_owned(), why: why.to_owned() };
        if !address.starts_with("http://") {
            return Err(refused("it must begin with http://"));
        }
        let uri: Uri = address.parse().map_err(|error: http::uri::InvalidUri| refused(&error.to_string()))?;
        if uri.host().is_none_or(str::is_empty) || uri.path() != "/" || uri.query().is_some() {
            return Err(refused("it needs a host and a port, and no path"));
        }
        let authority = uri.into_parts().authority.expect("it has a host");
        let is_port = |rest: &str| rest.strip_prefix(':').is_some_and(|port| port.parse::<u16>().is_ok());
        match authority.as_str().strip_prefix(authority.host()) {
            Some(rest) if rest.is_empty() || is_port(rest) => {}
            Some(_) => return Err(refused("its port is not a number up to 65535")),
            None => return Err(refused("it needs a host and a port, and no user")),
        }
        let within = Duration::from_secs(10);
        let keep_alive = KeepAlive { silent: within, answered: within };
        Ok(Self { authority, connect_timeout: Duration::from_secs(2), keep_alive })
    }

    /// The same, with another time for making a connection.
    #[must_use]
    pub fn connect_within(self, connect_timeout: Duration) -> Self {
        Self { connect_timeout, ..self }
    }

    /// The same, with another measure of silence.
    #[must_use]
    pub fn keep_alive(self, keep_alive: KeepAlive) -> Self {
        Self { keep_alive, ..self }
    }

    /// Host and port, as they were given.
    pub fn authority(&self) -> &Authority {
        &self.authority
    }

    /// The host; of an IPv6 address what is between the brackets.
    pub fn host(&self) -> &str {
        self.authority.host().trim_start_matches('[').trim_end_matches(']')
    }

    /// The port: 80, as URLs have it, if none was given.
    pub fn port(&self) -> u16 {
        self.authority.port_u16().unwrap_or(80)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_address_has_a_host_and_a_port() {
        for (address, host, port) in [
            ("http://127.0.0.1:7400", "127.0.0.1", 7400),
            ("http://localhost:7401/", "localhost", 7401),
            ("http://[::1]:7400", "::1", 7400),
            ("http://wallet", "wallet", 80),
        ] {
            let endpoint = Endpoint::parse(address).unwrap();
            assert_eq!((endpoint.host(), endpoint.port()), (host, port), "{address}");
        }
    }

    #[test]
    fn what_is_not_an_address_is_refused_and_says_why() {
        for address in [
            "",
            "127.0.0.1:7400",
            "http://",
            "https://x",
            "ftp://x",
            "http://x y",
            "http://h/p",
            "http://h?q",
            "http://h:99999",
            "http://h:",
            "http://user@h:7400",
        ] {
            let error = Endpoint::parse(address).unwrap_err().to_string();
            assert!(error.starts_with(&format!("'{address}' is not an endpoint")), "{error}");
        }
    }
}
