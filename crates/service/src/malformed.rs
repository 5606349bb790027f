//! Requests that cannot even be decoded: the transport's errors as refusals of ours.
//!
//! tonic answers bytes that are not the message (an id that is not UTF-8, say) with INTERNAL, and a message above the limit with
//! OUT_OF_RANGE. Neither is the server's fault nor has it had any effect: callers get INVALID_ARGUMENT and RESOURCE_EXHAUSTED
//! with a reason, like for any other bad input.

use escrow_types::Reason;
use tonic::body::Body;
use tonic::codegen::http::Response;
use tonic::{Code, Status};

use crate::status::refusal;

/// The refusal that stands for an error of the transport's decoder; `None` for any other status.
pub fn refusal_of(status: &Status) -> Option<Status> {
    let text = status.message();
    match status.code() {
        Code::Internal if text.contains("decode Protobuf message") => {
            Some(refusal(Reason::InvalidArgument, format!("the message cannot be read: {text}")))
        }
        Code::OutOfRange if text.contains("message length too large") => {
            Some(refusal(Reason::MessageTooLarge, text))
        }
        _ => None,
    }
}

/// Rewrites a response that says so in its headers; streams that fail later say so by [`refusal_of`] themselves.
pub(crate) fn rewrite(response: Response<Body>) -> Response<Body> {
    if !response.headers().contains_key(Status::GRPC_STATUS) {
        return response;
    }
    match Status::from_header_map(response.headers()).as_ref().and_then(refusal_of) {
        Some(refusal) => refusal.into_http(),
        None => response,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::status::reason_of;

    #[test]
    fn the_decoders_errors_become_refusals() {
        let not_utf8 = Status::internal(
            "failed to decode Protobuf message: invalid string value: data is not UTF-8 encoded",
        );
        let rewritten = rewrite(not_utf8.into_http());
        let status = Status::from_header_map(rewritten.headers()).unwrap();
        assert_eq!(
            (status.code(), reason_of(&status)),
            (Code::InvalidArgument, Some(Reason::InvalidArgument))
        );

        let too_large = Status::out_of_range(
            "Error, decoded message length too large: found 9 bytes, the limit is: 4 bytes",
        );
        let status = Status::from_header_map(rewrite(too_large.into_http()).headers()).unwrap();
        assert_eq!(
            (status.code(), reason_of(&status)),
            (Code::ResourceExhausted, Some(Reason::MessageTooLarge))
        );
    }

    #[test]
    fn other_errors_stay_as_they_are() {
        for status in [Status::internal("a bug"), Status::not_found("no"), Status::out_of_range("page")] {
            assert!(refusal_of(&status).is_none(), "{status}");
        }
    }
}
