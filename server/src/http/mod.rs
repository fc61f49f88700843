//! etcd's HTTP endpoints: `/version`, `/health`, `/livez`, `/readyz`, `/metrics`.
//!
//! Probes and dashboards made for etcd read these, so bodies, status codes and header fields are etcd 3.7's
//! (`tests`, and recorded from a running etcd). They stand on the client port beside gRPC and on
//! `--listen-metrics-urls`; the peer port has only `/version`.
//!
//! *Invariants*
//! - No answer takes longer than [`READ_TIMEOUT`], whatever state the member is in: a probe that hangs tells nothing.
//! - Only GET is answered; everything else is refused with `Allow` (`tests::only_get`).
//!
//! *Not here*: the JSON gateway under `/v3`, and Go's debugging pages.

mod health;
mod metrics;

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests;

use std::{
    sync::{Arc, atomic::AtomicU64},
    time::Duration,
};

use bytes::Bytes;
use http::{HeaderValue, Method, Request, Response, StatusCode, header};

pub use metrics::MethodLabels;

use crate::{error::Error, metrics::Calls, node::Handle};

/// How long a health check's read may take: etcd's request timeout with default elections, 5 s and two timeouts.
const READ_TIMEOUT: Duration = Duration::from_secs(7);

/// Versions as etcd reports them.
#[derive(Clone, Copy, Debug)]
pub struct Versions {
    pub server: &'static str,
    pub cluster: &'static str,
}

/// What all runtimes share.
pub struct Shared {
    pub versions: Versions,
    pub methods: Vec<MethodLabels>,
    /// The calls of each runtime.
    pub calls: Vec<Arc<Calls>>,
    pub quota_bytes: i64,
    pub health: Checks,
}

/// Results of health checks, for `/metrics`.
#[derive(Debug, Default)]
pub struct Checks {
    success: AtomicU64,
    failures: AtomicU64,
    probes: [health::Counts; health::PROBES.len()],
}

/// The endpoints of one runtime.
pub struct Http {
    handle: Handle,
    shared: Arc<Shared>,
}

/// Which endpoints a listener has.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Face {
    /// Clients' port and the port for metrics: all of them.
    Client,
    /// Other members' port.
    Peer,
}

impl Http {
    pub fn new(handle: Handle, shared: Arc<Shared>) -> Self {
        Self { handle, shared }
    }

    /// Answers a request whose body is not looked at.
    pub async fn call<B>(&self, face: Face, request: Request<B>) -> Response<Bytes> {
        let (parts, _) = request.into_parts();
        let path = parts.uri.path();
        let query = parts.uri.query().unwrap_or("");
        let probe = path.strip_prefix('/').unwrap_or("");
        let known = match face {
            Face::Client => {
                matches!(path, "/version" | "/health" | "/metrics") || health::Selection::parse(probe).is_some()
            }
            Face::Peer => path == "/version",
        };
        if !known {
            return plain(StatusCode::NOT_FOUND, "404 page not found\n");
        }
        if parts.method != Method::GET {
            let mut response = plain(StatusCode::METHOD_NOT_ALLOWED, "Method Not Allowed\n");
            response.headers_mut().insert(header::ALLOW, HeaderValue::from_static("GET"));
            return response;
        }
        match path {
            "/version" => self.version(),
            "/metrics" => self.metrics(),
            "/health" => self.health(query).await,
            _ => {
                let selection = health::Selection::parse(probe).expect("it was found known above");
                self.probe(selection, query).await
            }
        }
    }

    fn version(&self) -> Response<Bytes> {
        let Versions { server, cluster } = self.shared.versions;
        let cluster = if self.handle.status().leader.is_some() { cluster } else { "not_decided" };
        let body = format!(
            "{{\"etcdserver\":\"{server}\",\"etcdcluster\":\"{cluster}\",\"storage\":\"{}\"}}",
            self.shared.versions.cluster
        );
        reply(StatusCode::OK, "application/json", body)
    }

    fn metrics(&self) -> Response<Bytes> {
        let text = metrics::render(&self.handle, &self.shared);
        reply(StatusCode::OK, "text/plain; version=0.0.4; charset=utf-8; escaping=underscores", text)
    }

    /// A read of the local store, or one that holds everything acknowledged.
    async fn read(&self, serializable: bool) -> Result<(), Error> {
        let view = if serializable {
            self.handle.read_view()
        } else {
            tokio::time::timeout(READ_TIMEOUT, self.handle.linearizable()).await.unwrap_or(Err(Error::Timeout))?
        };
        // The smallest key there can be: what is found does not matter, that the store answers does.
        let _ = crate::mvcc::get(&view.view, &[0]);
        Ok(())
    }
}

fn reply(status: StatusCode, content_type: &'static str, body: impl Into<Bytes>) -> Response<Bytes> {
    let mut response = Response::new(body.into());
    *response.status_mut() = status;
    response.headers_mut().insert(header::CONTENT_TYPE, HeaderValue::from_static(content_type));
    response
}

/// Text as Go's `http.Error` sends it.
fn plain(status: StatusCode, body: impl Into<Bytes>) -> Response<Bytes> {
    let mut response = reply(status, "text/plain; charset=utf-8", body);
    response.headers_mut().insert(header::X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff"));
    response
}
