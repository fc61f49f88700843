//! One connection: HTTP/2 or HTTP/1 by its first bytes, until it ends or the member stops.

use std::{
    convert::Infallible,
    future::Future,
    io,
    pin::Pin,
    rc::Rc,
    task::{Context, Poll},
    time::Duration,
};

use bytes::{Buf, Bytes, BytesMut};
use http::{Method, Request, Response, Version};
use hyper::{
    body::Incoming,
    server::conn::{http1, http2},
    service::service_fn,
};
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::{
    io::{AsyncRead, AsyncReadExt, AsyncWrite, ReadBuf},
    net::TcpStream,
    sync::watch::Receiver,
};

use crate::{
    api::{self, Api, Body},
    http::{Face, Http},
};

/// What every HTTP/2 connection begins with (RFC 9113, 3.4).
const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";

/// How long a new connection may take to say what it speaks, and an HTTP/1 request to send its headers. A connection
/// costs memory, so those that say nothing must not stay.
const PATIENCE: Duration = Duration::from_secs(10);

/// Largest header list taken: grpc-go's clients send a few hundred bytes, tokens included.
const HEADER_LIST: u32 = 16 * 1024;

/// Streams that a client may open and reset before the server has looked at them (CVE-2023-44487; h2's own default).
const PENDING_RESETS: usize = 20;

/// What a client may send before the server has read it: half of the largest request a stream, so that large requests
/// flow without a stop, and as much as two of the largest requests over all streams of a connection.
const STREAM_WINDOW: u32 = 1024 * 1024;
const CONNECTION_WINDOW: u32 = 4 * 1024 * 1024;

/// What hyper may hold of one stream beyond what flow control lets out. Chunks are up to 64 KiB.
const SEND_BUFFER: usize = 128 * 1024;

/// How connections are kept.
#[derive(Clone, Copy, Debug)]
pub(super) struct Settings {
    pub(super) max_concurrent_streams: u32,
    pub(super) keepalive_interval: Option<Duration>,
    pub(super) keepalive_timeout: Duration,
}

/// What a connection's requests go to.
pub(super) struct Service {
    /// Nothing on ports that are not for clients.
    pub(super) api: Option<Rc<Api>>,
    pub(super) http: Http,
    pub(super) face: Face,
}

impl Service {
    async fn call(self: Rc<Self>, request: Request<Incoming>) -> Response<Body> {
        // etcd gives whatever comes over HTTP/2 to gRPC; plain GETs are answered here as well, which harms nobody.
        let for_grpc = request.version() == Version::HTTP_2
            && (api::is_grpc(request.headers()) || request.method() != Method::GET);
        match &self.api {
            Some(api) if for_grpc => Rc::clone(api).call(request).await,
            _ => self.http.call(self.face, request).await.map(Body::whole),
        }
    }
}

/// Serves a connection to its end.
pub(super) async fn serve(
    mut stream: TcpStream,
    service: Rc<Service>,
    settings: Settings,
    stopping: Receiver<bool>,
) -> Result<(), Box<dyn std::error::Error + Send + Sync>> {
    stream.set_nodelay(true)?;
    let (first, is_http2) = tokio::time::timeout(PATIENCE, first_bytes(&mut stream)).await??;
    let io = TokioIo::new(Resumed { first, stream });
    let respond = service_fn(move |request| {
        let service = Rc::clone(&service);
        async move { Ok::<_, Infallible>(service.call(request).await) }
    });
    if is_http2 {
        let mut builder = http2::Builder::new(LocalExecutor);
        builder
            .timer(TokioTimer::new())
            .max_concurrent_streams(settings.max_concurrent_streams)
            .max_pending_accept_reset_streams(PENDING_RESETS)
            .max_header_list_size(HEADER_LIST)
            .initial_stream_window_size(STREAM_WINDOW)
            .initial_connection_window_size(CONNECTION_WINDOW)
            .max_send_buf_size(SEND_BUFFER)
            .keep_alive_interval(settings.keepalive_interval)
            .keep_alive_timeout(settings.keepalive_timeout)
            .auto_date_header(false);
        let connection = builder.serve_connection(io, respond);
        run(connection, stopping, |connection| connection.graceful_shutdown()).await?;
    } else {
        let mut builder = http1::Builder::new();
        builder.timer(TokioTimer::new()).header_read_timeout(PATIENCE).title_case_headers(true);
        let connection = builder.serve_connection(io, respond);
        run(connection, stopping, |connection| connection.graceful_shutdown()).await?;
    }
    Ok(())
}

/// Polls a connection to its end; when the member stops, tells it to finish what is under way and take nothing new.
async fn run<C: Future>(connection: C, mut stopping: Receiver<bool>, finish: impl Fn(Pin<&mut C>)) -> C::Output {
    let mut connection = std::pin::pin!(connection);
    tokio::select! {
        biased;
        outcome = &mut connection => return outcome,
        // A sender that is gone means that the member is gone with it.
        _ = stopping.wait_for(|stopping| *stopping) => {}
    }
    finish(connection.as_mut());
    connection.await
}

/// Reads until it is clear what the client speaks. What was read goes with the answer.
async fn first_bytes(stream: &mut TcpStream) -> io::Result<(Bytes, bool)> {
    // A client's preface comes with its settings, together about 100 bytes.
    let mut first = BytesMut::with_capacity(512);
    loop {
        if stream.read_buf(&mut first).await? == 0 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        let seen = first.len().min(PREFACE.len());
        if first[..seen] != PREFACE[..seen] {
            return Ok((first.freeze(), false));
        }
        if seen == PREFACE.len() {
            return Ok((first.freeze(), true));
        }
    }
}

/// The tasks of HTTP/2 streams stay on the thread of their connection.
#[derive(Clone, Copy)]
struct LocalExecutor;

impl<F: Future<Output: 'static> + 'static> hyper::rt::Executor<F> for LocalExecutor {
    fn execute(&self, future: F) {
        tokio::task::spawn_local(future);
    }
}

/// A stream whose first bytes were read already.
struct Resumed {
    first: Bytes,
    stream: TcpStream,
}

impl AsyncRead for Resumed {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buffer: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        if self.first.is_empty() {
            return Pin::new(&mut self.stream).poll_read(cx, buffer);
        }
        let length = self.first.len().min(buffer.remaining());
        buffer.put_slice(&self.first[..length]);
        self.first.advance(length);
        Poll::Ready(Ok(()))
    }
}

impl AsyncWrite for Resumed {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write(cx, bytes)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        slices: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write_vectored(cx, slices)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }
}
