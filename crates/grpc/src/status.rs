//! What went wrong with a call, as a gRPC status.

use std::error::Error;
use std::sync::Arc;

use h2::Reason;
use http::StatusCode;
use tonic::{Code, Status};

/// A call never left, not even in part. It has had no effect, so a retry is always safe.
#[derive(Debug, Clone, thiserror::Error)]
#[error("{message}")]
pub struct NotSent {
    message: Arc<str>,
    is_for_good: bool,
}

impl NotSent {
    /// There is no connection, and none could be made: UNAVAILABLE.
    pub(crate) fn for_now(message: String) -> Self {
        Self { message: message.into(), is_for_good: false }
    }

    /// The call itself cannot be sent: as `status` has it.
    pub(crate) fn for_good(status: &Status) -> Status {
        let message = status.message().into();
        let mut not_sent = Status::new(status.code(), status.message());
        not_sent.set_source(Arc::new(Self { message, is_for_good: true }));
        not_sent
    }

    /// Whether a retry is useless: it is not for want of a connection.
    pub fn is_for_good(&self) -> bool {
        self.is_for_good
    }
}

impl From<NotSent> for Status {
    fn from(error: NotSent) -> Self {
        let mut status = Status::unavailable(error.to_string());
        status.set_source(Arc::new(error));
        status
    }
}

/// Why a call never left, if that is what its status says.
pub fn was_not_sent(status: &Status) -> Option<&NotSent> {
    let mut cause = status.source();
    while let Some(error) = cause {
        if let Some(not_sent) = error.downcast_ref::<NotSent>() {
            return Some(not_sent);
        }
        cause = error.source();
    }
    None
}

/// A call that had left and was broken off: by the server, or with its connection. What became of it is not known.
pub(crate) fn broken_off(error: h2::Error) -> Status {
    // As the specification has it (grpc/doc/PROTOCOL-HTTP2.md, "Errors"); a lost connection as tonic has it.
    // None of these codes may be one that says "no" to the request itself: that only the service can know.
    let code = match error.reason() {
        _ if error.is_go_away() && error.is_remote() => Code::Unavailable,
        Some(Reason::REFUSED_STREAM) => Code::Unavailable,
        Some(Reason::CANCEL) => Code::Cancelled,
        Some(Reason::ENHANCE_YOUR_CALM) => Code::ResourceExhausted,
        Some(
            Reason::NO_ERROR
            | Reason::PROTOCOL_ERROR
            | Reason::INTERNAL_ERROR
            | Reason::FLOW_CONTROL_ERROR
            | Reason::SETTINGS_TIMEOUT
            | Reason::FRAME_SIZE_ERROR
            | Reason::COMPRESSION_ERROR
            | Reason::CONNECT_ERROR,
        ) => Code::Internal,
        _ => Code::Unknown,
    };
    let what = if error.is_io() { "the connection was lost" } else { "the call was broken off" };
    let message = format!("{what}: {error}");
    let mut status = Status::new(code, message);
    status.set_source(Arc::new(error));
    status
}

/// What an answer means that is not gRPC's but HTTP's (grpc/doc/http-grpc-status-mapping.md).
pub(crate) fn of_http(status: StatusCode) -> Status {
    let code = match status.as_u16() {
        400 => Code::Internal,
        401 => Code::Unauthenticated,
        403 => Code::PermissionDenied,
        404 => Code::Unimplemented,
        429 | 502 | 503 | 504 => Code::Unavailable,
        _ => Code::Unknown,
    };
    Status::new(code, format!("the server answered HTTP {status} instead of gRPC"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_never_left_can_be_told_from_what_may_have_arrived() {
        let status = Status::from(NotSent::for_now("refused".into()));
        assert_eq!((status.code(), status.message()), (Code::Unavailable, "refused"));
        let not_sent = was_not_sent(&status).unwrap();
        assert_eq!((not_sent.to_string().as_str(), not_sent.is_for_good()), ("refused", false));
        let status = NotSent::for_good(&Status::out_of_range("too large"));
        assert_eq!((status.code(), status.message()), (Code::OutOfRange, "too large"));
        assert!(was_not_sent(&status).unwrap().is_for_good());
        for status in [Status::unavailable("refused"), broken_off(Reason::REFUSED_STREAM.into())] {
            assert!(was_not_sent(&status).is_none(), "{status:?}");
        }
    }
}
