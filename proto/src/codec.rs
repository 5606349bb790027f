//! How messages become bytes: prost's encoding, in buffers that fit.
//!
//! tonic allocates a buffer for each direction of each call before it knows what for, 8 KiB unless told otherwise. A transfer takes a
//! hundred bytes, and with a thousand calls in flight such buffers are most of what goes through the cache. And columns of
//! thousands of rows made a buffer grow by doubling, which copies all that is in it. Here calls begin with little, a message gets
//! as much room as it needs at once, and a stream gets room for all that is handed on together.
//!
//! **Invariant:** the bytes are the same as with [`tonic_prost::ProstCodec`].

use std::marker::PhantomData;

use prost::Message;
use prost::bytes::BufMut as _;
use tonic::Status;
use tonic::codec::{BufferSettings, Codec, EncodeBuf, Encoder};
use tonic_prost::ProstDecoder;

/// What a call begins with, in bytes.
const FIRST_BYTES: usize = 1 << 10;
/// Messages of a stream that are ready are handed on together, so many bytes at most (tonic's own default).
const TOGETHER_BYTES: usize = 32 << 10;

/// The codec of all services of the package.
#[derive(Debug)]
pub struct FittingCodec<T, U>(PhantomData<(T, U)>);

impl<T, U> Default for FittingCodec<T, U> {
    fn default() -> Self {
        Self(PhantomData)
    }
}

impl<T, U> Codec for FittingCodec<T, U>
where
    T: Message + Send + 'static,
    U: Message + Default + Send + 'static,
{
    type Encode = T;
    type Decode = U;
    type Encoder = FittingEncoder<T>;
    type Decoder = ProstDecoder<U>;

    fn encoder(&mut self) -> Self::Encoder {
        FittingEncoder { is_stream: false, message: PhantomData }
    }

    fn decoder(&mut self) -> Self::Decoder {
        ProstDecoder::new(settings())
    }
}

/// Encodes the messages of one call, in one direction.
#[derive(Debug)]
pub struct FittingEncoder<T> {
    /// Whether this call had a message before: more are likely to follow.
    is_stream: bool,
    message: PhantomData<T>,
}

impl<T: Message> Encoder for FittingEncoder<T> {
    type Item = T;
    type Error = Status;

    fn encode(&mut self, item: T, buffer: &mut EncodeBuf<'_>) -> Result<(), Status> {
        let bytes = item.encoded_len();
        if buffer.chunk_mut().len() < bytes {
            buffer.reserve(if self.is_stream { bytes.max(TOGETHER_BYTES) } else { bytes });
        }
        self.is_stream = true;
        item.encode(buffer).map_err(|error| Status::internal(error.to_string()))
    }

    fn buffer_settings(&self) -> BufferSettings {
        settings()
    }
}

fn settings() -> BufferSettings {
    BufferSettings::new(FIRST_BYTES, TOGETHER_BYTES)
}

#[cfg(test)]
mod tests {
    use std::pin::pin;
    use std::task::{Context, Poll, Waker};

    use prost::bytes::Bytes;
    use tonic::codec::EncodeBody;
    use tonic::codegen::Body as _;
    use tonic_prost::ProstCodec;

    use super::*;
    use crate::v1::TransferColumnsRequest;

    fn columns(rows: u64) -> TransferColumnsRequest {
        TransferColumnsRequest { amount: (0..rows).collect(), ..TransferColumnsRequest::default() }
    }

    /// What a call with these messages sends, in pieces.
    fn sent(
        encoder: impl Encoder<Item = TransferColumnsRequest, Error = Status>,
        messages: &[TransferColumnsRequest],
    ) -> Vec<Bytes> {
        let source = futures_util::stream::iter(messages.iter().cloned().map(Ok::<_, Status>));
        let mut body = pin!(EncodeBody::new_client(encoder, source, None, None));
        let mut pieces = Vec::new();
        // What is ready never waits.
        while let Poll::Ready(Some(frame)) = body.as_mut().poll_frame(&mut Context::from_waker(Waker::noop()))
        {
            pieces.push(frame.unwrap().into_data().expect("a client sends no trailers"));
        }
        pieces
    }

    #[test]
    fn what_is_sent_is_what_prost_makes_of_it() {
        type Message = TransferColumnsRequest;
        for sizes in [&[0][..], &[1], &[100_000], &[1, 2, 3, 2_000, 100_000, 5, 100_000], &[40; 1_000]] {
            let messages: Vec<Message> = sizes.iter().map(|rows| columns(*rows)).collect();
            let ours = sent(FittingCodec::<Message, Message>::default().encoder(), &messages);
            let theirs = sent(ProstCodec::<Message, Message>::default().encoder(), &messages);
            assert_eq!(ours.concat(), theirs.concat(), "{sizes:?}");
            assert!(!ours.concat().is_empty());
        }
    }

    #[test]
    fn a_large_message_gets_as_much_room_as_it_needs() {
        let encoder = FittingCodec::<TransferColumnsRequest, TransferColumnsRequest>::default().encoder();
        let [piece] = sent(encoder, &[columns(70_000)]).try_into().unwrap();
        // A buffer that doubles would be of a mebibyte.
        assert!((560_000..580_000).contains(&piece.len()), "{}", piece.len());
        assert!(piece.try_into_mut().unwrap().capacity() < 600_000);
    }

    #[test]
    fn small_messages_that_are_ready_go_together() {
        let messages = vec![columns(40); 10_000];
        let encoder = FittingCodec::<TransferColumnsRequest, TransferColumnsRequest>::default().encoder();
        let pieces = sent(encoder, &messages);
        let bytes = pieces.concat().len();
        assert!(bytes > 10 * TOGETHER_BYTES);
        assert!(pieces.len() <= bytes.div_ceil(TOGETHER_BYTES), "{} pieces of {bytes} bytes", pieces.len());
    }
}
