//! A call of one message: what is sent, and what each kind of answer comes to.

use bytes::Bytes;
use escrow_grpc::was_not_sent;
use h2::Reason;
use http::uri::PathAndQuery;
use http::{HeaderMap, Response};
use tonic::{Code, Status};

use crate::server::{Text, answering, channel, framed, head, ok, read, say, text, trailers};

const PATH: &str = "/escrow.v1.Test/Do";
const BYTES_MAX: usize = 1 << 20;

/// What a call comes to that is answered with these headers, pieces of a body, and trailers.
async fn answered(head: Response<()>, pieces: Vec<Bytes>, end: Option<HeaderMap>) -> Result<Text, Status> {
    let (channel, listener) = channel(|endpoint| endpoint);
    answering(listener, move |(_, mut respond)| {
        let (head, pieces, end) = (head.clone(), pieces.clone(), end.clone());
        async move {
            let is_all = pieces.is_empty() && end.is_none();
            let mut stream = respond.send_response(head, is_all).unwrap();
            let last = pieces.len();
            for (at, piece) in pieces.into_iter().enumerate() {
                stream.send_data(piece, end.is_none() && at + 1 == last).unwrap();
            }
            if let Some(end) = end {
                stream.send_trailers(end).unwrap();
            }
        }
    });
    channel.unary(PathAndQuery::from_static(PATH), &text("a"), BYTES_MAX).await
}

#[tokio::test]
async fn a_message_arrives_as_grpc_has_it_and_so_does_its_answer() {
    let (channel, listener) = channel(|endpoint| endpoint);
    answering(listener, |(request, mut respond)| async move {
        let (head, mut body) = request.into_parts();
        assert_eq!(
            (head.method.as_str(), head.uri.to_string()),
            ("POST", format!("http://wallet:7400{PATH}"))
        );
        assert_eq!(
            (&head.headers["te"], &head.headers["content-type"]),
            (&"trailers".parse().unwrap(), &"application/grpc".parse().unwrap())
        );
        assert!(head.headers["user-agent"].to_str().unwrap().starts_with("escrow/"));
        assert_eq!(read(&mut body).await.unwrap(), framed(&text("Günther")));
        say(&mut respond, &text("Grüße"));
    });
    for _ in 0..3 {
        let answer: Text =
            channel.unary(PathAndQuery::from_static(PATH), &text("Günther"), BYTES_MAX).await.unwrap();
        assert_eq!(answer, text("Grüße"));
    }
}

#[tokio::test]
async fn an_answer_may_come_in_pieces_and_may_be_empty() {
    let long = text("x".repeat(100_000));
    let bytes = framed(&long);
    let pieces: Vec<Bytes> = [0..3, 3..70_000, 70_000..bytes.len()].map(|range| bytes.slice(range)).into();
    assert_eq!(answered(head(), pieces, Some(ok())).await.unwrap(), long);
    assert_eq!(answered(head(), vec![framed(&text(""))], Some(ok())).await.unwrap(), text(""));
}

#[tokio::test]
async fn a_refusal_keeps_its_details_wherever_it_is_said() {
    let refusal =
        Status::with_details(Code::FailedPrecondition, "no: 50 % of nothing", Bytes::from_static(b"why"));
    let mut at_once = head();
    refusal.add_header(at_once.headers_mut()).unwrap();
    let at_the_end = answered(head(), vec![], Some(trailers(&refusal))).await;
    let after_a_message = answered(head(), vec![framed(&text("half"))], Some(trailers(&refusal))).await;
    for answer in [answered(at_once, vec![], None).await, at_the_end, after_a_message] {
        let status = answer.unwrap_err();
        assert_eq!(
            (status.code(), status.message(), status.details()),
            (Code::FailedPrecondition, "no: 50 % of nothing", &b"why"[..])
        );
        assert!(was_not_sent(&status).is_none());
    }
}

#[tokio::test]
async fn an_answer_that_is_none_says_what_is_wrong_with_it() {
    let message = || framed(&text("b"));
    let compressed = Bytes::from([&[1], &message()[1..]].concat());
    let twice = Bytes::from([message(), message()].concat());
    let not_utf8 = Bytes::from_static(&[0, 0, 0, 0, 3, 0x0A, 1, 0xFF]);
    let huge = Bytes::from_static(&[0, 0xFF, 0xFF, 0xFF, 0xFF]);
    // It was carried out, whatever came back: none of this may look like a refusal.
    for (pieces, end, says) in [
        (vec![message()], None, "without a status"),
        (vec![message()], Some(HeaderMap::new()), "without a status"),
        (vec![], Some(ok()), "without a message"),
        (vec![compressed], Some(ok()), "compressed"),
        (vec![message().slice(..4)], Some(ok()), "within a message"),
        (vec![message().slice(..6)], Some(ok()), "one message of"),
        (vec![twice], Some(ok()), "one message of"),
        (vec![not_utf8], Some(ok()), "cannot be read"),
        (vec![huge], Some(ok()), "the limit is"),
        (vec![Bytes::from(vec![0; BYTES_MAX]), Bytes::from(vec![0; 6])], Some(ok()), "the limit is"),
    ] {
        let status = answered(head(), pieces, end).await.unwrap_err();
        assert!(status.message().contains(says), "{says}: {status:?}");
        assert_eq!(status.code(), Code::Internal, "{status:?}");
        assert!(was_not_sent(&status).is_none());
    }
}

#[tokio::test]
async fn a_server_that_does_not_speak_grpc_is_told_by_its_code() {
    for (http, code) in [(503, Code::Unavailable), (404, Code::Unimplemented), (500, Code::Unknown)] {
        let head = Response::builder().status(http).body(()).unwrap();
        let status = answered(head, vec![Bytes::from_static(b"<html>")], None).await.unwrap_err();
        assert_eq!(status.code(), code);
        assert!(status.message().contains(&http.to_string()), "{status:?}");
    }
}

#[tokio::test]
async fn a_call_that_is_given_up_is_canceled() {
    let (channel, mut listener) = channel(|endpoint| endpoint);
    let path = PathAndQuery::from_static(PATH);
    let request = text("a");
    let mut call = Box::pin(channel.unary::<Text, Text>(path, &request, BYTES_MAX));
    let mut connection = tokio::select! {
        connection = listener.serve() => connection,
        _ = &mut call => panic!("nobody has answered"),
    };
    let (_request, mut respond) = tokio::select! {
        accepted = connection.accept() => accepted.unwrap().unwrap(),
        _ = &mut call => panic!("nobody has answered"),
    };
    drop(call);
    let reset = tokio::select! {
        reset = std::future::poll_fn(|context| respond.poll_reset(context)) => reset.unwrap(),
        _ = connection.accept() => panic!("there is no other call"),
    };
    assert_eq!(reset, Reason::CANCEL);
}

#[tokio::test]
async fn a_message_that_is_too_large_is_never_sent() {
    let (channel, listener) = channel(|endpoint| endpoint);
    let path = PathAndQuery::from_static(PATH);
    let status = channel.unary::<Text, Text>(path, &text("x".repeat(20)), 10).await.unwrap_err();
    assert_eq!(status.code(), Code::OutOfRange);
    assert!(was_not_sent(&status).unwrap().is_for_good());
    assert_eq!(listener.asked.load(std::sync::atomic::Ordering::Relaxed), 0);
}

/// Of what no transport says may be heard that the request itself is bad: only the service can know.
#[tokio::test]
async fn no_reset_looks_like_a_refusal() {
    for reason in (0..=14).map(Reason::from) {
        let (channel, listener) = channel(|endpoint| endpoint);
        answering(listener, move |(_, mut respond)| async move { respond.send_reset(reason) });
        let path = PathAndQuery::from_static(PATH);
        let status = channel.unary::<Text, Text>(path, &text("a"), BYTES_MAX).await.unwrap_err();
        let allowed =
            [Code::Internal, Code::Unavailable, Code::Cancelled, Code::ResourceExhausted, Code::Unknown];
        assert!(
            allowed.contains(&status.code()) && was_not_sent(&status).is_none(),
            "{reason:?}: {status:?}"
        );
    }
}
