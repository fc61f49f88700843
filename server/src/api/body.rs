//! Reply bodies: as few frames as the protocol allows.

use std::{
    cell::RefCell,
    convert::Infallible,
    future::Future,
    pin::Pin,
    rc::Rc,
    task::{Context, Poll},
};

use bytes::Bytes;
use http_body::{Frame, SizeHint};

use super::{
    frame::Framed,
    metadata::Tally,
    status::{Status, ok_trailers},
};

/// The body of any reply of this server.
pub struct Body(Inner);

enum Inner {
    /// Nothing: a reply whose status stands in its headers.
    Empty,
    /// Plain HTTP.
    Whole(Bytes),
    /// A unary reply: one message, then trailers.
    Unary { message: Framed },
    /// The messages of a stream as its handler makes them, then trailers.
    Streamed(Streamed),
}

type Handler = Pin<Box<dyn Future<Output = Result<(), Status>>>>;

struct Streamed {
    /// Nothing once the handler has ended.
    handler: Option<Handler>,
    out: Outgoing,
    ended: Option<Result<(), Status>>,
    tally: Tally,
}

/// Where the handler of a stream puts what is to be sent.
///
/// It holds one chunk: the body is polled, and with it the handler, only when HTTP/2 flow control lets more out, so a
/// client that does not read stops its handler instead of filling memory.
#[derive(Clone)]
pub(super) struct Outgoing(Rc<RefCell<Option<Bytes>>>);

impl Outgoing {
    /// Waits until the chunk before this one was taken.
    pub(super) async fn send(&self, chunk: Bytes) {
        let mut chunk = Some(chunk);
        std::future::poll_fn(|_| {
            let mut slot = self.0.borrow_mut();
            if slot.is_some() {
                // The body takes the chunk and polls the handler again: nobody else needs to be woken.
                return Poll::Pending;
            }
            *slot = chunk.take();
            Poll::Ready(())
        })
        .await;
    }
}

impl Body {
    pub fn empty() -> Self {
        Self(Inner::Empty)
    }

    pub fn whole(bytes: impl Into<Bytes>) -> Self {
        Self(Inner::Whole(bytes.into()))
    }

    /// A framed message, then the trailers of success.
    pub(super) fn unary(message: Framed) -> Self {
        Self(Inner::Unary { message })
    }

    /// Runs `handler`, which sends through what it is given, as long as the body is polled.
    pub(super) fn streamed<F>(tally: Tally, handler: impl FnOnce(Outgoing) -> F) -> Self
    where
        F: Future<Output = Result<(), Status>> + 'static,
    {
        let out = Outgoing(Rc::default());
        let handler: Handler = Box::pin(handler(out.clone()));
        Self(Inner::Streamed(Streamed { handler: Some(handler), out, ended: None, tally }))
    }
}

impl Streamed {
    fn poll(&mut self, cx: &mut Context<'_>) -> Poll<Option<Frame<Bytes>>> {
        // A chunk may be left over from the poll before this one: it goes first.
        if self.out.0.borrow().is_none()
            && let Some(handler) = &mut self.handler
            && let Poll::Ready(outcome) = handler.as_mut().poll(cx)
        {
            self.handler = None;
            self.ended = Some(outcome);
        }
        if let Some(chunk) = self.out.0.borrow_mut().take() {
            self.tally.sent(chunk.len());
            return Poll::Ready(Some(Frame::data(chunk)));
        }
        if let Some(outcome) = self.ended.take() {
            let trailers = match &outcome {
                Ok(()) => ok_trailers(),
                Err(status) => {
                    let mut trailers = ok_trailers();
                    status.write(&mut trailers);
                    trailers
                }
            };
            self.tally.end(outcome.err().map_or(crate::error::Code::Ok, |status| status.code));
            return Poll::Ready(Some(Frame::trailers(trailers)));
        }
        if self.handler.is_none() { Poll::Ready(None) } else { Poll::Pending }
    }
}

impl http_body::Body for Body {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
        match &mut self.0 {
            Inner::Empty => Poll::Ready(None),
            Inner::Whole(bytes) if bytes.is_empty() => Poll::Ready(None),
            Inner::Whole(bytes) => Poll::Ready(Some(Ok(Frame::data(std::mem::take(bytes))))),
            Inner::Unary { message } => {
                if let Some(piece) = message.next_piece() {
                    return Poll::Ready(Some(Ok(Frame::data(piece))));
                }
                self.0 = Inner::Empty;
                Poll::Ready(Some(Ok(Frame::trailers(ok_trailers()))))
            }
            Inner::Streamed(streamed) => streamed.poll(cx).map(|frame| frame.map(Ok)),
        }
    }

    fn is_end_stream(&self) -> bool {
        match &self.0 {
            Inner::Empty => true,
            Inner::Whole(bytes) => bytes.is_empty(),
            Inner::Unary { .. } | Inner::Streamed(_) => false,
        }
    }

    fn size_hint(&self) -> SizeHint {
        match &self.0 {
            Inner::Empty => SizeHint::with_exact(0),
            Inner::Whole(bytes) => SizeHint::with_exact(bytes.len() as u64),
            // No exact size: hyper would add a content-length, which gRPC replies do not carry.
            Inner::Unary { .. } | Inner::Streamed(_) => SizeHint::default(),
        }
    }
}
