//! A service whose calls are too many for the router: they go straight to it.
//!
//! The router finds a service by matching its path against all, puts what it matched into the request, and boxes request and
//! answer on the way: some twelve allocations a call. For a stream that is nothing; for a call of one transfer it is a tenth of all
//! that the server does for it (docs/performance.md).
//!
//! **Invariant:** nothing but the way is different: the same service is what the router would find.

use std::convert::Infallible;
use std::task::{Context, Poll};

use tonic::body::Body;
use tonic::codegen::http::{Request, Response};
use tonic::codegen::{BoxFuture, Service};
use tonic::server::NamedService;
use tonic::service::Routes;

/// One service beside the router of all.
#[derive(Debug, Clone)]
pub(crate) struct Direct<S> {
    service: S,
    routes: Routes,
}

impl<S: NamedService> Direct<S> {
    pub(crate) fn new(service: S, routes: Routes) -> Self {
        Self { service, routes: routes.prepare() }
    }

    /// Whether a path is one of the service's methods.
    fn is_its_own(path: &str) -> bool {
        let name = path.strip_prefix('/').and_then(|path| path.strip_prefix(S::NAME));
        name.is_some_and(|rest| rest.starts_with('/'))
    }
}

impl<S> Service<Request<Body>> for Direct<S>
where
    S: NamedService + Service<Request<Body>, Response = Response<Body>, Error = Infallible>,
    S: Service<Request<Body>, Future = BoxFuture<Response<Body>, Infallible>>,
{
    type Response = Response<Body>;
    type Error = Infallible;
    type Future = BoxFuture<Response<Body>, Infallible>;

    fn poll_ready(&mut self, context: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        let service = self.service.poll_ready(context);
        if service.is_pending() {
            service
        } else {
            Service::<Request<Body>>::poll_ready(&mut self.routes, context)
        }
    }

    fn call(&mut self, request: Request<Body>) -> Self::Future {
        if Self::is_its_own(request.uri().path()) {
            return self.service.call(request);
        }
        Box::pin(self.routes.call(request))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Says that it was found.
    #[derive(Clone)]
    struct Found<const IS_BUSY: bool>;

    impl NamedService for Found<true> {
        const NAME: &'static str = "escrow.v1.Busy";
    }

    impl NamedService for Found<false> {
        const NAME: &'static str = "escrow.v1.BusyToo";
    }

    impl<const IS_BUSY: bool> Service<Request<Body>> for Found<IS_BUSY> {
        type Response = Response<Body>;
        type Error = Infallible;
        type Future = BoxFuture<Response<Body>, Infallible>;

        fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
            Poll::Ready(Ok(()))
        }

        fn call(&mut self, request: Request<Body>) -> Self::Future {
            let found = if IS_BUSY { "directly" } else { "by the router" };
            let found = format!("{} {found}", request.uri().path());
            Box::pin(async { Ok(Response::builder().header("found", found).body(Body::empty()).unwrap()) })
        }
    }

    async fn ask(path: &str) -> Response<Body> {
        let mut service = Direct::new(Found::<true>, Routes::new(Found::<false>));
        std::future::poll_fn(|context| service.poll_ready(context)).await.unwrap();
        service.call(Request::builder().uri(path).body(Body::empty()).unwrap()).await.unwrap()
    }

    #[tokio::test]
    async fn each_service_gets_its_own_calls() {
        let found = ask("/escrow.v1.Busy/Do").await;
        assert_eq!(found.headers()["found"], "/escrow.v1.Busy/Do directly");
        let found = ask("/escrow.v1.BusyToo/Do").await;
        assert_eq!(found.headers()["found"], "/escrow.v1.BusyToo/Do by the router");
    }

    #[tokio::test]
    async fn whoever_means_nobody_is_told_by_the_router() {
        for path in ["/escrow.v1.Busy", "/escrow.v1.Bus/Do", "/", "/escrow.v1.busy/Do"] {
            let response = ask(path).await;
            assert!(!response.headers().contains_key("found"), "{path}");
            let status = tonic::Status::from_header_map(response.headers()).unwrap();
            assert_eq!(status.code(), tonic::Code::Unimplemented, "{path}");
        }
    }
}
