//! Listening sockets, and the hand-over of accepted connections to the workers.

use std::{
    io,
    net::{IpAddr, Ipv4Addr, SocketAddr, TcpListener, ToSocketAddrs},
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering::Relaxed},
    },
    time::Duration,
};

use socket2::{Domain, Protocol, Socket, TcpKeepalive, Type};
use tokio::sync::watch::Receiver;

use super::worker::Workers;
use crate::config::Url;

/// Connections that wait to be accepted (Go's: `net.core.somaxconn`, 4096 on Linux, which also caps this).
const BACKLOG: i32 = 4096;

/// Go's keepalive, and so etcd's: a peer that vanished without a word is noticed within minutes.
const KEEPALIVE: Duration = Duration::from_secs(15);

/// How long accepting rests after it failed for want of descriptors or memory: trying again at once would only spin.
const REST: Duration = Duration::from_millis(100);

/// Binds one of `--{flag}`'s URLs. The error says which, and what the system said.
pub(super) fn bind(url: &Url, flag: &str, reuse_port: bool) -> Result<TcpListener, String> {
    let address = resolve(url).map_err(|error| format!("cannot resolve {url} (--{flag}): {error}"))?;
    let listen = || -> io::Result<TcpListener> {
        let socket = Socket::new(Domain::for_address(address), Type::STREAM, Some(Protocol::TCP))?;
        // A member that restarts must not wait for its old connections to be forgotten; Go sets it too.
        socket.set_reuse_address(true)?;
        if reuse_port {
            socket.set_reuse_port(true)?;
        }
        if address.is_ipv6() {
            socket.set_only_v6(false)?;
        }
        // Accepted connections inherit both.
        socket.set_tcp_keepalive(&TcpKeepalive::new().with_time(KEEPALIVE).with_interval(KEEPALIVE))?;
        socket.set_tcp_nodelay(true)?;
        socket.set_nonblocking(true)?;
        socket.bind(&address.into())?;
        socket.listen(BACKLOG)?;
        Ok(socket.into())
    };
    listen().map_err(|error| format!("cannot listen on {url} (--{flag}): {error}"))
}

fn resolve(url: &Url) -> io::Result<SocketAddr> {
    if let Ok(address) = url.host.parse::<IpAddr>() {
        return Ok((address, url.port).into());
    }
    // Of several addresses Go's listener takes the first of version 4.
    let addresses: Vec<SocketAddr> = (url.host.as_str(), url.port).to_socket_addrs()?.collect();
    let fallback = (Ipv4Addr::LOCALHOST, url.port).into();
    Ok(addresses.iter().find(|address| address.is_ipv4()).or(addresses.first()).copied().unwrap_or(fallback))
}

/// How many connections there may be, and are.
#[derive(Debug)]
pub(super) struct Places {
    taken: AtomicUsize,
    max: usize,
}

/// The place of one connection; free again when it is dropped.
pub(super) struct Place(Arc<Places>);

impl Places {
    pub(super) fn new(max: usize) -> Arc<Self> {
        Arc::new(Self { taken: AtomicUsize::new(0), max })
    }

    pub(super) fn take(self: &Arc<Self>) -> Option<Place> {
        let place = Place(Arc::clone(self));
        // Taken before it is compared: a place too many is given back by the drop.
        (self.taken.fetch_add(1, Relaxed) < self.max).then_some(place)
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        self.0.taken.fetch_sub(1, Relaxed);
    }
}

/// Accepts until the member stops. A connection beyond the bound is closed at once, so that its client learns of it.
pub(super) async fn accept(
    listener: TcpListener,
    workers: Arc<Workers>,
    places: Arc<Places>,
    mut stopping: Receiver<bool>,
) -> io::Result<()> {
    let listener = tokio::net::TcpListener::from_std(listener)?;
    let mut refusing = false;
    loop {
        let accepted = tokio::select! {
            accepted = listener.accept() => accepted,
            _ = stopping.wait_for(|stopping| *stopping) => return Ok(()),
        };
        match accepted {
            Ok((stream, _)) => {
                let place = places.take();
                // Said once when it begins, not for each connection refused.
                if place.is_none() && !refusing {
                    tracing::warn!(max_connections = places.max, "refusing connections: there are too many");
                }
                refusing = place.is_none();
                if let Some(place) = place {
                    workers.hand_over(stream.into_std()?, place);
                }
            }
            // The client went before it was accepted.
            Err(error) if error.kind() == io::ErrorKind::ConnectionAborted => {}
            Err(error) => {
                tracing::warn!(error = %error, "cannot accept a connection");
                tokio::time::sleep(REST).await;
            }
        }
    }
}
