//! The raw echo: a service that sends every message back, with the codec and the settings of the real servers.
//!
//! **Invariant:** it does nothing else: what it answers in a second is what gRPC itself allows here.

use std::convert::Infallible;
use std::future::{Ready, ready};
use std::task::{Context, Poll};

use escrow_proto::v1::{TransferColumnsRequest, TransferRequest};
use prost::Message;
use tonic::codegen::{Body, BoxFuture, Service, StdError, http};
use tonic::server::{Grpc, NamedService, StreamingService, UnaryService};
use tonic::service::Routes;
use tonic::{Request, Response, Status, Streaming};
use tonic_prost::ProstCodec;

/// A message of one transfer, one call.
pub(super) const UNARY: &str = "/escrow.bench.Echo/Unary";
/// Messages of one transfer.
pub(super) const STREAM: &str = "/escrow.bench.Echo/Stream";
/// Messages of thousands.
pub(super) const BULK: &str = "/escrow.bench.Echo/Bulk";
/// As the real servers.
pub(super) const MESSAGE_BYTES_MAX: usize = 64 << 20;

/// The service.
#[derive(Debug, Clone, Copy)]
pub struct Echo;

/// The service, to be served.
pub fn service() -> Routes {
    Routes::new(Echo)
}

impl NamedService for Echo {
    const NAME: &'static str = "escrow.bench.Echo";
}

impl<T> UnaryService<T> for Echo {
    type Response = T;
    type Future = Ready<Result<Response<T>, Status>>;

    fn call(&mut self, request: Request<T>) -> Self::Future {
        ready(Ok(Response::new(request.into_inner())))
    }
}

impl<T> StreamingService<T> for Echo {
    type Response = T;
    type ResponseStream = Streaming<T>;
    type Future = Ready<Result<Response<Streaming<T>>, Status>>;

    fn call(&mut self, request: Request<Streaming<T>>) -> Self::Future {
        ready(Ok(Response::new(request.into_inner())))
    }
}

fn grpc<T: Message + Default + 'static>() -> Grpc<ProstCodec<T, T>> {
    Grpc::new(ProstCodec::default())
        .max_decoding_message_size(MESSAGE_BYTES_MAX)
        .max_encoding_message_size(MESSAGE_BYTES_MAX)
}

impl<B> Service<http::Request<B>> for Echo
where
    B: Body + Send + 'static,
    B::Error: Into<StdError> + Send + 'static,
{
    type Response = http::Response<tonic::body::Body>;
    type Error = Infallible;
    type Future = BoxFuture<Self::Response, Infallible>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: http::Request<B>) -> Self::Future {
        match request.uri().path() {
            UNARY => Box::pin(async move { Ok(grpc::<TransferRequest>().unary(Self, request).await) }),
            STREAM => Box::pin(async move { Ok(grpc::<TransferRequest>().streaming(Self, request).await) }),
            BULK => {
                Box::pin(async move { Ok(grpc::<TransferColumnsRequest>().streaming(Self, request).await) })
            }
            _ => Box::pin(async { Ok(Status::unimplemented("there is no such echo").into_http()) }),
        }
    }
}
