//! Messages of columns: between coordinator and shards, and from callers in bulk.

use escrow_proto::v1;
use escrow_proto::v1::exchange_request::Message as Request;
use escrow_proto::v1::exchange_response::Message as Response;
use escrow_types::{Answer, Currency};
use prost::Message;

use super::{BATCH, account, batches, key, mix};
use crate::Operation;
use crate::meter::Meter;

pub(crate) const ALL: &[Operation] = &[
    Operation {
        name: "wire/transfer/encode",
        what: "transfer in bulk, as a caller sends it",
        work: transfers,
    },
    Operation { name: "wire/transfer/decode", what: "the same, read", work: transfers },
    Operation { name: "wire/try/encode", what: "branch in a message of Trys", work: tries },
    Operation { name: "wire/try/decode", what: "the same, read", work: tries },
    Operation {
        name: "wire/confirm/encode",
        what: "branch in a message of Confirms, each sequence named",
        work: confirms,
    },
    Operation { name: "wire/confirm/decode", what: "the same, read", work: confirms },
    Operation {
        name: "wire/answer/encode",
        what: "branch in a message of answers, each sequence named",
        work: answers,
    },
    Operation { name: "wire/answer/decode", what: "the same, read", work: answers },
];

/// Writes and reads each message.
fn there_and_back<M: Message + Default + PartialEq>(
    meter: &mut Meter,
    [encode, decode]: [&str; 2],
    message: impl Fn(std::ops::Range<u64>) -> M,
) {
    let mut bytes = Vec::new();
    for (number, is_warm) in batches(BATCH).enumerate() {
        meter.batch(BATCH, is_warm);
        let first = (number * BATCH) as u64;
        let message = message(first..first + BATCH as u64);
        bytes.clear();
        meter.step(encode, || message.encode(&mut bytes)).expect("a vector grows");
        let read = meter.step(decode, || M::decode(bytes.as_slice()));
        assert!(read.is_ok_and(|read| read == message), "{decode}");
    }
}

fn transfers(meter: &mut Meter) {
    there_and_back(meter, ["wire/transfer/encode", "wire/transfer/decode"], |rows| {
        let halves = |number: u64| account(mix(number) % 10_000).halves();
        v1::TransferColumnsRequest {
            first_tag: rows.start,
            transaction_id_high: rows.clone().map(|number| (key(number).0 >> 64) as u64).collect(),
            transaction_id_low: rows.clone().map(|number| key(number).0 as u64).collect(),
            from_account_high: rows.clone().map(|number| halves(number).0).collect(),
            from_account_low: rows.clone().map(|number| halves(number).1).collect(),
            to_account_high: rows.clone().map(|number| halves(number + 1).0).collect(),
            to_account_low: rows.clone().map(|number| halves(number + 1).1).collect(),
            amount: rows.map(|_| 5).collect(),
            currency: u32::from(Currency::USD.numeric()),
            wait: v1::Wait::Completed.into(),
            timeout_ms: 0,
        }
    });
}

fn tries(meter: &mut Meter) {
    there_and_back(meter, ["wire/try/encode", "wire/try/decode"], |rows| {
        let halves = |number: u64| account(mix(number) % 10_000).halves();
        let columns = v1::TryColumns {
            epoch: 1,
            deadline_ms: 1_800_000_000_000,
            // Where a turn begins nothing else, its sequences have no gap.
            sequence: vec![],
            account_high: rows.clone().map(|number| halves(number).0).collect(),
            account_low: rows.clone().map(|number| halves(number).1).collect(),
            amount: rows.clone().map(|_| 5).collect(),
            kind: rows.clone().flat_map(|_| Currency::USD.numeric().to_le_bytes()).collect(),
            first_sequence: rows.start,
        };
        v1::ExchangeRequest { message: Some(Request::Try(columns)) }
    });
}

fn confirms(meter: &mut Meter) {
    there_and_back(meter, ["wire/confirm/encode", "wire/confirm/decode"], |rows| {
        let sequence = rows.map(|number| 2 * number).collect();
        let columns = v1::EndColumns { epoch: 1, sequence, ..v1::EndColumns::default() };
        v1::ExchangeRequest { message: Some(Request::Confirm(columns)) }
    });
}

fn answers(meter: &mut Meter) {
    there_and_back(meter, ["wire/answer/encode", "wire/answer/decode"], |rows| {
        let answer = rows.clone().map(|_| Answer::Reserved.to_byte()).collect();
        let sequence = rows.map(|number| 2 * number).collect();
        let columns = v1::AnswerColumns { epoch: 1, sequence, answer, first_sequence: 0 };
        v1::ExchangeResponse { message: Some(Response::Tried(columns)), position: 7 }
    });
}
