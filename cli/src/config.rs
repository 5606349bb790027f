//! Configuration of the servers: a flag wins over the environment, that over the file, that over the default.
//!
//! Files are TOML with the fields of the server's own `Config`; a key that is none is an error that names the file, the
//! place, and the keys there are. clap knows flags and environment; [`load`] gives file and default, and the commands put
//! the former over the latter.

use std::path::Path;
use std::str::FromStr;

use serde::de::value::{Error, StrDeserializer};
use serde::de::{DeserializeOwned, IntoDeserializer as _};

use crate::exit::Failure;

/// A server's configuration from a file, or its default without one.
pub fn load<T: DeserializeOwned + Default>(file: Option<&Path>) -> Result<T, Failure> {
    let Some(path) = file else { return Ok(T::default()) };
    let wrong = |what: &dyn std::fmt::Display| Failure::bad_config(format!("{}: {what}", path.display()));
    let text = std::fs::read_to_string(path).map_err(|error| wrong(&error))?;
    toml::from_str(&text).map_err(|error| wrong(&error.to_string().trim_end()))
}

/// Puts a value that was given over another.
pub fn set<T>(field: &mut T, given: Option<T>) {
    if let Some(given) = given {
        *field = given;
    }
}

/// Parses `NAME=URL`, for clap.
pub fn parse_named_url(text: &str) -> Result<(String, String), String> {
    match text.split_once('=') {
        Some((name, url)) if !name.is_empty() && url.starts_with("http://") => {
            Ok((name.to_owned(), url.to_owned()))
        }
        _ => Err(format!("'{text}' is not NAME=URL, such as bank=http://127.0.0.1:9000")),
    }
}

/// Parses `N=URL`, for clap.
pub fn parse_numbered_url<N: FromStr>(text: &str) -> Result<(N, String), String> {
    let wrong = || format!("'{text}' is not N=URL, such as 1=http://127.0.0.1:7410");
    let (number, url) = text.split_once('=').ok_or_else(wrong)?;
    if !url.starts_with("http://") {
        return Err(wrong());
    }
    Ok((number.parse().map_err(|_| wrong())?, url.to_owned()))
}

/// The number of an external participant, from its name: numbers are part of the log, so they must not depend on the
/// order of flags. Wallet shards have the numbers below 4,096.
pub fn external_id(name: &str) -> u16 {
    const FIRST: u128 = 4_096;
    const KIND: u64 = 1;
    (FIRST + escrow_types::Digest::of_text(KIND, name).0 % (u128::from(u16::MAX) - FIRST)) as u16
}

/// What becomes of old log segments, by flag as in a file: both servers name the three policies alike.
pub(crate) fn parse_archive<T: DeserializeOwned>(text: &str) -> Result<T, String> {
    let text: StrDeserializer<'_, Error> = text.into_deserializer();
    T::deserialize(text).map_err(|_| "expected keep, compress or delete".to_owned())
}

#[cfg(test)]
mod tests {
    use serde::Deserialize;

    use super::*;

    #[derive(Debug, Default, Deserialize)]
    #[serde(default, deny_unknown_fields)]
    struct Config {
        listen: String,
        partition: u16,
    }

    fn load_text(text: &str) -> Result<Config, String> {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("escrow.toml");
        std::fs::write(&path, text).unwrap();
        load(Some(&path)).map_err(|failure| failure.message)
    }

    #[test]
    fn what_is_not_in_the_file_has_its_default() {
        let config = load_text("listen = 'here'").unwrap();
        assert_eq!((config.listen.as_str(), config.partition), ("here", 0));
    }

    #[test]
    fn an_unknown_key_names_file_place_and_alternatives() {
        let message = load_text("listen = 'here'\nlisten_on = 'there'").unwrap_err();
        for part in ["escrow.toml", "line 2", "listen_on", "`listen` or `partition`"] {
            assert!(message.contains(part), "'{part}' is missing: {message}");
        }
    }

    #[test]
    fn a_missing_file_is_named() {
        let failure = load::<Config>(Some(Path::new("/no/such.toml"))).unwrap_err();
        assert!(failure.message.contains("/no/such.toml") && failure.code == "CONFIG_INVALID", "{failure}");
    }

    #[test]
    fn external_participants_keep_their_number() {
        assert_eq!(external_id("bank"), external_id("bank"));
        assert_ne!(external_id("bank"), external_id("post"));
        assert!(external_id("bank") >= 4_096);
    }
}
