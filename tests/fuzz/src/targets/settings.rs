//! Configuration files and what people type: TOML of both servers, amounts, legs, spans of time, URLs.

use escrow_cli::config::{external_id, parse_named_url, parse_numbered_url};
use escrow_cli::money::{Side, format_overdraft, parse_leg, parse_overdraft};
use escrow_cli::time::{format_millis, parse_duration, relative};
use escrow_types::Currency;

/// One text as all of them.
pub(super) fn settings(input: &[u8]) {
    let Ok(text) = std::str::from_utf8(input) else { return };
    if let Ok(config) = toml::from_str::<escrow_coordinator::Config>(text)
        && let Ok(config) = config.validated()
    {
        assert_eq!(config.clone().validated().ok(), Some(config), "what is valid stays so");
    }
    if let Ok(config) = toml::from_str::<escrow_participant::Config>(text)
        && let Ok(config) = config.validated()
    {
        assert_eq!(config.clone().validated().ok(), Some(config), "what is valid stays so");
    }
    typed(text);
}

fn typed(text: &str) {
    if let Ok(span) = parse_duration(text) {
        let millis = u64::try_from(span.as_millis()).expect("it was counted in 64 bits");
        assert!(!format_millis(millis).is_empty() && !relative(millis, 1).is_empty());
    }
    for currency in [Currency::USD, "KWD".parse().unwrap_or(Currency::USD)] {
        if let Ok(leg) = parse_leg(currency, Side::Debit, text) {
            assert!(leg.amount > 0);
        }
        if let Ok(overdraft) = parse_overdraft(currency, text) {
            let written = format_overdraft(currency, overdraft);
            assert_eq!(parse_overdraft(currency, &written).ok(), Some(overdraft));
        }
    }
    if let Ok((name, _)) = parse_named_url(text) {
        assert!(external_id(&name) >= 4_096);
    }
    let _ = parse_numbered_url::<u16>(text);
}

pub(super) fn settings_seeds() -> Vec<(&'static str, Vec<u8>)> {
    let coordinator = escrow_coordinator::Config {
        participants: vec![escrow_coordinator::ParticipantConfig {
            id: 0,
            name: "zero".into(),
            endpoint: "http://127.0.0.1:7410".into(),
            kind: escrow_coordinator::ParticipantKind::Stream,
        }],
        ..escrow_coordinator::Config::default()
    };
    let toml = |text: Result<String, toml::ser::Error>| text.expect("plain data").into_bytes();
    vec![
        ("coordinator", toml(toml::to_string(&coordinator))),
        ("participant", toml(toml::to_string(&escrow_participant::Config::default()))),
        ("leg", b"a=b=12.50@bank".to_vec()),
        ("overdraft", b"unlimited".to_vec()),
        ("span", b"18446744073709551615ms".to_vec()),
        ("named-url", b"bank=http://127.0.0.1:9000".to_vec()),
        ("numbered-url", b"0=http://127.0.0.1:7410".to_vec()),
    ]
}
