//! `escrow_types`: the codec that all formats are made of, and everything that is text.

use escrow_types::codec::{Put as _, Take};
use escrow_types::{AccountId, Answer, Currency, ParticipantId, Partition, Reason, TransactionId, Xid};

use crate::memory;

/// The first byte says how many reads follow; one byte each says which; the rest is what is read.
pub(super) fn codec(input: &[u8]) {
    let Some((&count, rest)) = input.split_first() else { return };
    let (reads, bytes) = rest.split_at(usize::from(count).min(rest.len()));
    memory::bounded(memory::for_input(input), || {
        let mut take = Take::new(bytes);
        let mut out = Vec::new();
        for read in reads {
            if copy(&mut take, *read, &mut out).is_none() {
                return;
            }
        }
        let read = bytes.len() - take.remaining();
        assert!(out == bytes[..read], "what was read is written again as it was");
        assert_eq!(take.clone().finish().is_ok(), take.remaining() == 0);
    });
}

/// Reads one value and writes it again.
fn copy(take: &mut Take<'_>, read: u8, out: &mut Vec<u8>) -> Option<()> {
    match read % 10 {
        0 => out.put_u8(take.u8().ok()?),
        1 => out.put_u16(take.u16().ok()?),
        2 => out.put_u32(take.u32().ok()?),
        3 => out.put_u64(take.u64().ok()?),
        4 => out.put_u128(take.u128().ok()?),
        5 => out.put_bytes(take.text().ok()?.as_bytes()),
        6 => out.put_column_u64(&take.column_u64().ok()?),
        7 => out.put_column_u128(&take.column_u128().ok()?),
        8 => out.put_column_u32(&take.column_u32().ok()?),
        _ => out.put_column_u16(&take.column_u16().ok()?),
    }
    Some(())
}

pub(super) fn codec_seeds() -> Vec<(&'static str, Vec<u8>)> {
    let mut all = vec![10, 0, 1, 2, 3, 4, 5, 6, 7, 8, 9];
    all.put_u8(1);
    all.put_u16(2);
    all.put_u32(3);
    all.put_u64(4);
    all.put_u128(5);
    all.put_bytes("sechs".as_bytes());
    all.put_column_u64(&[7, u64::MAX]);
    all.put_column_u128(&[8]);
    all.put_column_u32(&[9, 10, 11]);
    all.put_column_u16(&[12]);
    let lie = |read: u8| [&[1, read][..], &u32::MAX.to_le_bytes(), &[0; 15]].concat();
    vec![("all", all), ("length-of-4-gib", lie(5)), ("column-of-4-gib", lie(7)), ("empty", vec![])]
}

/// Any text as any of the things that people and callers write.
pub(super) fn text(input: &[u8]) {
    for &byte in input.iter().take(4) {
        assert!(Answer::from_byte(byte).is_none_or(|answer| answer.to_byte() == byte));
        assert!(Reason::from_number(byte).is_none_or(|reason| reason as u8 == byte));
    }
    let Ok(text) = std::str::from_utf8(input) else { return };
    memory::bounded(memory::for_input(input), || {
        id(text);
        xid(text);
        amount(text);
    });
}

fn id(text: &str) {
    let Ok(account) = AccountId::new(text) else {
        assert!(TransactionId::new(text).is_err(), "both ids have one form");
        return;
    };
    let key = account.key();
    assert!(account.as_str() == text && key.is_valid());
    assert_eq!(key.to_uuid_text(), key.is_uuid().then(|| text.to_owned()), "a UUID says itself");
    let external = key.on_external(ParticipantId(1));
    assert!(external.is_valid() && !external.is_uuid());
}

fn xid(text: &str) {
    if let Ok(xid) = text.parse::<Xid>() {
        assert_eq!(xid.to_string().parse(), Ok(xid));
    }
}

fn amount(text: &str) {
    let code = text.get(..3).unwrap_or(text);
    let currency: Currency = code.parse().unwrap_or(Currency::USD);
    assert_eq!(Currency::from_numeric(currency.numeric()), Some(currency));
    let text = text.get(3..).unwrap_or(text);
    if let Ok(amount) = currency.parse_amount(text) {
        assert!(amount > 0);
        assert_eq!(currency.parse_amount(&currency.format(i128::from(amount))), Ok(amount));
    }
    let signed = i128::from(text.len() as u64).wrapping_mul(i128::MAX / 3);
    assert!(currency.format(signed).len() > usize::from(currency.decimals()));
}

pub(super) fn text_seeds() -> Vec<(&'static str, Vec<u8>)> {
    let text = |text: &str| text.as_bytes().to_vec();
    vec![
        ("id", text("ünïcode and spaces")),
        ("id-of-64-bytes", text(&"x".repeat(64))),
        ("uuid", text("0198c0de-0000-7abc-8def-0123456789ab")),
        ("uuid-in-capitals", text("0198C0DE-0000-7ABC-8DEF-0123456789AB")),
        ("xid", text(&Xid::new(Partition(2), escrow_types::Epoch(u32::MAX), u64::MAX).to_string())),
        ("dollars", text("USD12.34")),
        ("dinars", text("KWD18446744073709551.615")),
        ("yen", text("JPY18446744073709551615")),
        ("negative", text("EUR-1")),
    ]
}
