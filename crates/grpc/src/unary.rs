//! A call of one message and one answer, without the layers that a stream needs.

use bytes::{Buf as _, BufMut as _, Bytes, BytesMut};
use http::header::{CONTENT_TYPE, HeaderValue, TE, USER_AGENT};
use http::uri::PathAndQuery;
use http::{HeaderMap, Method, Request, StatusCode, Version};
use prost::Message;
use tonic::{Code, Status};

use crate::channel::{Channel, user_agent};
use crate::download::Download;
use crate::status::{NotSent, broken_off, of_http};

/// Before each message: whether it is compressed, and its length.
const PREFIX_BYTES: usize = 5;

impl Channel {
    /// Calls a method, such as `/escrow.v1.TransferService/Transfer`, with one message and gives its answer, both of at most
    /// `bytes_max` bytes. What [`was_not_sent`](crate::was_not_sent) may be sent again; what else fails with anything but the server's own
    /// refusal may have been carried out. Dropped, it cancels the call.
    pub async fn unary<Q: Message, A: Message + Default>(
        &self,
        path: PathAndQuery,
        request: &Q,
        bytes_max: usize,
    ) -> Result<A, Status> {
        let message = encode(request, bytes_max)?;
        let mut head = Request::new(());
        (*head.method_mut(), *head.version_mut()) = (Method::POST, Version::HTTP_2);
        *head.uri_mut() = self.address(path);
        let headers = head.headers_mut();
        headers.reserve(3);
        headers.insert(TE, HeaderValue::from_static("trailers"));
        headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/grpc"));
        headers.insert(USER_AGENT, user_agent());
        let (response, mut stream) = self.begin(head).await?;
        // An error means that the server ended the call already; its answer says why.
        let _ = stream.send_data(message, true);
        let (head, body) = response.await.map_err(broken_off)?.into_parts();
        check_head(head.status, &head.headers)?;
        let mut body = Download::new(body, None);
        let message = one_message(&mut body, bytes_max).await?;
        let trailers = std::future::poll_fn(|context| body.poll_trailers(context)).await?;
        match trailers.as_ref().and_then(Status::from_header_map) {
            Some(status) if status.code() != Code::Ok => return Err(status),
            Some(_) => {}
            None => return Err(Status::internal("the answer ended without a status")),
        }
        let message = message.ok_or_else(|| Status::internal("the answer ended without a message"))?;
        A::decode(message).map_err(|error| Status::internal(format!("the answer cannot be read: {error}")))
    }
}

/// A message as it is sent; one that is too large never is.
fn encode(message: &impl Message, bytes_max: usize) -> Result<Bytes, Status> {
    let length = message.encoded_len();
    // Below what a stream of h2 takes in all, 2^31 bytes.
    let prefix = i32::try_from(length).ok().filter(|_| length <= bytes_max).ok_or_else(|| {
        let why = format!("the message has {length} bytes, the limit is {bytes_max}");
        NotSent::for_good(&Status::out_of_range(why))
    })?;
    let mut bytes = BytesMut::with_capacity(PREFIX_BYTES + length);
    bytes.put_u8(0);
    bytes.put_i32(prefix);
    message.encode(&mut bytes).expect("there is room for it");
    Ok(bytes.freeze())
}

/// An answer that is an error from its beginning.
fn check_head(status: StatusCode, headers: &HeaderMap) -> Result<(), Status> {
    match Status::from_header_map(headers) {
        Some(status) if status.code() != Code::Ok => Err(status),
        _ if status != StatusCode::OK => Err(of_http(status)),
        _ => Ok(()),
    }
}

/// The one message of a body; `None` if it has none.
async fn one_message(body: &mut Download, bytes_max: usize) -> Result<Option<Bytes>, Status> {
    let mut next = async || std::future::poll_fn(|context| body.poll_bytes(context)).await.transpose();
    let Some(mut bytes) = next().await? else { return Ok(None) };
    // In one piece, but for answers that are larger than a frame.
    while let Some(more) = next().await? {
        if bytes.len() + more.len() > PREFIX_BYTES.saturating_add(bytes_max) {
            return Err(too_large(bytes.len() + more.len(), bytes_max));
        }
        let mut joined = bytes.try_into_mut().unwrap_or_else(|bytes| BytesMut::from(&bytes[..]));
        joined.extend_from_slice(&more);
        bytes = joined.freeze();
    }
    if bytes.len() < PREFIX_BYTES {
        return Err(Status::internal("the answer ended within a message"));
    }
    let (is_compressed, length) = (bytes.get_u8() != 0, bytes.get_u32() as usize);
    if is_compressed {
        return Err(Status::internal("the answer is compressed, which was not asked for"));
    }
    if length > bytes_max {
        return Err(too_large(length, bytes_max));
    }
    if bytes.len() != length {
        return Err(Status::internal(format!(
            "the answer has {} bytes of one message of {length}",
            bytes.len()
        )));
    }
    Ok(Some(bytes))
}

/// Of an answer: the call was carried out, so this is no refusal.
fn too_large(length: usize, bytes_max: usize) -> Status {
    Status::internal(format!("the answer has {length} bytes or more, the limit is {bytes_max}"))
}
