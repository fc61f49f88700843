//! From an HTTP/2 request to the handler of its method, with grpc-go's checks in grpc-go's order.

use std::{rc::Rc, time::Duration};

use bytes::Bytes;
use http::{HeaderMap, HeaderValue, Request, Response, StatusCode, header::CONTENT_TYPE};

use super::{
    Api, Body, Method, Shape, cluster, frame,
    frame::{Framed, Messages},
    health, kv, lease, maintenance,
    metadata::{self, Metadata, Tally},
    method, range, range_stream,
    status::Status,
    watch,
};
use crate::error::{Code, Error};

const GRPC: HeaderValue = HeaderValue::from_static("application/grpc");

/// Whether a content type is gRPC's, with or without a subtype; the codec is protobuf whatever the subtype says.
#[must_use]
pub fn is_grpc(headers: &HeaderMap) -> bool {
    headers
        .get(CONTENT_TYPE)
        .and_then(|value| value.as_bytes().strip_prefix(b"application/grpc"))
        .is_some_and(|rest| matches!(rest.first(), None | Some(b'+' | b';')))
}

impl Api {
    /// Answers a request on the gRPC side of the port, whatever it holds.
    pub async fn call<B>(self: Rc<Self>, request: Request<B>) -> Response<Body>
    where
        B: http_body::Body<Data = Bytes> + Unpin + 'static,
    {
        let (parts, body) = request.into_parts();
        let (method, deadline) = match admit(&parts) {
            Ok(admitted) => admitted,
            Err((http, status)) => return refuse(http, &status),
        };
        let mut tally = Tally::start(&self.calls, method);
        let metadata = match self.welcome(method, &parts.headers) {
            Ok(metadata) => metadata,
            Err(status) => {
                tally.end(status.code);
                return refuse(StatusCode::OK, &status);
            }
        };
        let encoding = parts.headers.get("grpc-encoding").and_then(|value| value.to_str().ok()).map(str::to_owned);
        let messages = Messages::new(body, self.max_message_bytes(), encoding, method.shape() != Shape::Unary);
        if method.shape() == Shape::Unary {
            let outcome = within(deadline, self.unary(method, messages, metadata)).await;
            return match outcome {
                Ok(reply) => {
                    tally.sent(reply.len());
                    tally.end(Code::Ok);
                    reply_with(Body::unary(reply))
                }
                Err(status) => {
                    tally.end(status.code);
                    refuse(StatusCode::OK, &status)
                }
            };
        }
        reply_with(self.stream(method, messages, metadata, deadline, tally))
    }

    /// What etcd's interceptors check before any handler.
    fn welcome(&self, method: Method, headers: &HeaderMap) -> Result<Metadata, Status> {
        let metadata = Metadata::read(headers)?;
        if let Some(encoding) = headers.get("grpc-encoding")
            && !matches!(encoding.as_bytes(), b"" | b"identity")
        {
            return Err(frame::no_decompressor(&String::from_utf8_lossy(encoding.as_bytes())));
        }
        let status = self.handle.status();
        // A learner's Range is decided when its request is read: serializable ones are allowed.
        if status.learner && !matches!(method, Method::Status | Method::Range | Method::Snapshot) {
            return Err(Error::NotSupportedForLearner.into());
        }
        if metadata.require_leader && status.leader.is_none() {
            return Err(Error::NoLeader.into());
        }
        Ok(metadata)
    }

    async fn unary<B>(&self, method: Method, mut messages: Messages<B>, metadata: Metadata) -> Result<Framed, Status>
    where
        B: http_body::Body<Data = Bytes> + Unpin,
    {
        let message = messages.only().await?;
        self.calls.received(message.len());
        let reply = match method {
            Method::Range => return range::range(self, message).await,
            Method::Put => kv::put(self, message, metadata.idempotency).await,
            Method::DeleteRange => kv::delete_range(self, message, metadata.idempotency).await,
            Method::Txn => kv::txn(self, message, metadata.idempotency).await,
            Method::Compact => kv::compact(self, message, metadata.idempotency).await,
            Method::LeaseGrant => lease::grant(self, message, metadata.idempotency).await,
            Method::LeaseRevoke => lease::revoke(self, message, metadata.idempotency).await,
            Method::LeaseTimeToLive => lease::time_to_live(self, message).await,
            Method::LeaseLeases => lease::leases(self, message).await,
            Method::Status => maintenance::status(self, message),
            Method::Alarm => maintenance::alarm(self, message),
            Method::Defragment => maintenance::defragment(message),
            Method::HashKv => maintenance::hash_kv(self, message).await,
            Method::MoveLeader => maintenance::move_leader(self, message).await,
            Method::MemberList => cluster::member_list(self, message).await,
            Method::HealthCheck => health::check(message),
            Method::HealthList => health::list(message),
            other => Err(Status::not_built(&format!("{}/{}", other.service(), other.name()))),
        };
        reply.map(Framed::from)
    }

    fn stream<B>(
        self: Rc<Self>,
        method: Method,
        messages: Messages<B>,
        metadata: Metadata,
        deadline: Option<Duration>,
        tally: Tally,
    ) -> Body
    where
        B: http_body::Body<Data = Bytes> + Unpin + 'static,
    {
        Body::streamed(tally, |out| async move {
            let stopping = stopping(self.signals.clone(), metadata.require_leader);
            let work = async {
                match method {
                    Method::Watch => watch::watch(&self, messages, &out).await,
                    Method::LeaseKeepAlive => lease::keep_alive(&self, messages, &out).await,
                    Method::RangeStream => range_stream::range_stream(&self, messages, &out).await,
                    Method::HealthWatch => health::watch(messages, &out).await,
                    other => Err(Status::not_built(&format!("{}/{}", other.service(), other.name()))),
                }
            };
            tokio::select! {
                biased;
                outcome = within(deadline, work) => outcome,
                status = stopping => Err(status),
            }
        })
    }
}

/// Ends when a stream has to: the member stops, or a client that insists on a leader has been without one for long.
async fn stopping(signals: super::Signals, require_leader: bool) -> Status {
    let super::Signals { mut leader_lost, mut stopping } = signals;
    tokio::select! {
        biased;
        // A sender that is gone means that the member is gone with it.
        _ = stopping.wait_for(|stopping| *stopping) => Error::Stopped.into(),
        _ = leader_lost.wait_for(|lost| *lost), if require_leader => Error::NoLeader.into(),
    }
}

async fn within<T>(deadline: Option<Duration>, work: impl Future<Output = Result<T, Status>>) -> Result<T, Status> {
    match deadline {
        None => work.await,
        // The timer is armed only when the work does not end at its first poll.
        Some(deadline) => tokio::time::timeout(deadline, work)
            .await
            .unwrap_or(Err(Status::new(Code::DeadlineExceeded, "context deadline exceeded"))),
    }
}

type Refusal = (StatusCode, Status);

/// grpc-go's checks of a request's headers, with the HTTP status that goes with each.
fn admit(parts: &http::request::Parts) -> Result<(Method, Option<Duration>), Refusal> {
    if !is_grpc(&parts.headers) {
        let given = parts.headers.get(CONTENT_TYPE).map_or(&b""[..], HeaderValue::as_bytes);
        let text = format!("invalid gRPC request content-type {:?}", String::from_utf8_lossy(given));
        return Err((StatusCode::UNSUPPORTED_MEDIA_TYPE, Status::with(Code::InvalidArgument, text)));
    }
    let deadline = match parts.headers.get("grpc-timeout") {
        None => None,
        Some(value) => {
            let value = String::from_utf8_lossy(value.as_bytes());
            Some(metadata::timeout(&value).map_err(|why| {
                (StatusCode::BAD_REQUEST, Status::with(Code::Internal, format!("malformed grpc-timeout: {why}")))
            })?)
        }
    };
    if parts.method != http::Method::POST {
        let text = format!("Received a HEADERS frame with :method {:?} which should be POST", parts.method.as_str());
        return Err((StatusCode::METHOD_NOT_ALLOWED, Status::with(Code::Internal, text)));
    }
    let method = method::lookup(parts.uri.path()).map_err(|status| (StatusCode::OK, status))?;
    Ok((method, deadline))
}

fn reply_with(body: Body) -> Response<Body> {
    let mut response = Response::new(body);
    response.headers_mut().insert(CONTENT_TYPE, GRPC);
    response
}

/// A reply that is all headers: status included, no body, no trailers.
fn refuse(http: StatusCode, status: &Status) -> Response<Body> {
    let mut response = reply_with(Body::empty());
    *response.status_mut() = http;
    status.write(response.headers_mut());
    response
}
