//! Plain gRPC stubs to one server; nothing here knows which kind it is, and nothing retries.

use std::{fmt, future::Future, pin::Pin, time::Duration};

use anyhow::{Context, Result};
use conclave_proto::etcdserverpb::{
    self as pb, cluster_client::ClusterClient, kv_client::KvClient, lease_client::LeaseClient,
    maintenance_client::MaintenanceClient, watch_client::WatchClient,
};
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Response, Status, Streaming, transport::Channel};

/// Longer than any answer takes, shorter than a person's patience: no answer is a failure, not a hang.
pub const PATIENCE: Duration = Duration::from_secs(30);
/// Answers may be larger than tonic's default of 4 MiB; etcd's own bound is the size of an int.
const MAX_MESSAGE: usize = 256 << 20;

/// One connection, all services.
#[derive(Clone, Debug)]
pub struct Client {
    pub kv: KvClient<Channel>,
    pub watch: WatchClient<Channel>,
    pub lease: LeaseClient<Channel>,
    pub maintenance: MaintenanceClient<Channel>,
    pub cluster: ClusterClient<Channel>,
}

impl Client {
    /// Connects to `http://host:port`.
    ///
    /// # Errors
    /// If nobody answers there.
    pub async fn connect(url: &str) -> Result<Self> {
        let endpoint = Channel::from_shared(url.to_owned())?.tcp_nodelay(true);
        let endpoint = endpoint.initial_stream_window_size(8 << 20).initial_connection_window_size(16 << 20);
        let channel = endpoint.connect().await.with_context(|| format!("connecting to {url}"))?;
        Ok(Self {
            kv: KvClient::new(channel.clone()).max_decoding_message_size(MAX_MESSAGE),
            watch: WatchClient::new(channel.clone()).max_decoding_message_size(MAX_MESSAGE),
            lease: LeaseClient::new(channel.clone()).max_decoding_message_size(MAX_MESSAGE),
            maintenance: MaintenanceClient::new(channel.clone()).max_decoding_message_size(MAX_MESSAGE),
            cluster: ClusterClient::new(channel).max_decoding_message_size(MAX_MESSAGE),
        })
    }

    /// Opens a watch stream.
    #[must_use]
    pub fn watch_stream(&self) -> (mpsc::Sender<pb::WatchRequest>, WatchResponses) {
        // A script has few requests under way; a full queue would only make the sender wait.
        let (requests, queue) = mpsc::channel(64);
        let mut watch = self.watch.clone();
        let opening = async move { watch.watch(ReceiverStream::new(queue)).await.map(Response::into_inner) };
        (requests, WatchResponses::Opening(Box::pin(opening)))
    }

    /// Renews a lease once, on a stream of its own.
    ///
    /// # Errors
    /// What the server answers.
    pub async fn keep_alive(&self, id: i64) -> Result<pb::LeaseKeepAliveResponse, Status> {
        let (requests, queue) = mpsc::channel(1);
        requests.send(pb::LeaseKeepAliveRequest { id }).await.expect("the queue has room for one");
        let mut responses = self.lease.clone().lease_keep_alive(ReceiverStream::new(queue)).await?.into_inner();
        responses.message().await?.ok_or_else(|| Status::unknown("the stream ended without an answer"))
    }
}

/// The answering half of a watch stream.
///
/// A server may send its response headers only with the first response, so opening the stream is awaited with that.
pub enum WatchResponses {
    Opening(Pin<Box<dyn Future<Output = Result<Streaming<pb::WatchResponse>, Status>> + Send>>),
    Open(Box<Streaming<pb::WatchResponse>>),
}

impl WatchResponses {
    /// The next response; `None` at the end of the stream.
    ///
    /// # Errors
    /// How the stream ended, if not well.
    pub async fn message(&mut self) -> Result<Option<pb::WatchResponse>, Status> {
        if let Self::Opening(opening) = self {
            *self = Self::Open(Box::new(opening.await?));
        }
        match self {
            Self::Opening(_) => unreachable!("it was just opened"),
            Self::Open(responses) => responses.message().await,
        }
    }
}

impl fmt::Debug for WatchResponses {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Opening(_) => "Opening",
            Self::Open(_) => "Open",
        })
    }
}

/// Awaits with a bound.
///
/// # Errors
/// If the bound passes.
pub async fn in_time<T>(what: &str, future: impl Future<Output = T>) -> Result<T> {
    tokio::time::timeout(PATIENCE, future).await.with_context(|| format!("no {what} after {PATIENCE:?}"))
}
