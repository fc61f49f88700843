//! The runtimes that serve clients: one thread each, so that what a connection does never moves between cores.

use std::{
    io,
    net::TcpStream,
    rc::Rc,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering::Relaxed},
    },
    thread::{self, JoinHandle},
    time::Duration,
};

use tokio::{
    runtime,
    sync::{mpsc, watch::Receiver},
    task::{JoinSet, LocalSet},
};

use super::{
    connection::{self, Service, Settings},
    listen::{Place, Places},
};
use crate::node::{Handle, Node};

/// Connections handed over and not taken. A worker takes them as they come; one that does not for so long is stuck in
/// something, and closing connections is all that can be done for their clients.
const HANDED_OVER: usize = 1024;

/// How long calls under way may take to end when the member stops. etcd waits as long for its gRPC server.
const DRAIN: Duration = Duration::from_secs(5);

/// Makes the service of one worker, on its thread, from that thread's handle.
pub(super) type MakeService = Box<dyn FnOnce(Handle) -> Service + Send>;

/// Workers with equal services.
pub(super) struct Workers {
    workers: Vec<Worker>,
}

struct Worker {
    connections: mpsc::Sender<(TcpStream, Place)>,
    open: Arc<AtomicUsize>,
}

impl Workers {
    /// Starts a thread for each service. They end when the member stops and their connections are done.
    pub(super) fn start(
        name: &str,
        makers: Vec<MakeService>,
        node: &Node,
        settings: Settings,
        stopping: &Receiver<bool>,
    ) -> io::Result<(Self, Vec<JoinHandle<()>>)> {
        let mut workers = Vec::new();
        let mut threads = Vec::new();
        for (number, make) in makers.into_iter().enumerate() {
            let (connections, handed_over) = mpsc::channel(HANDED_OVER);
            let open = Arc::new(AtomicUsize::new(0));
            workers.push(Worker { connections, open: Arc::clone(&open) });
            let stopping = stopping.clone();
            let runtime = runtime::Builder::new_current_thread().enable_all().build()?;
            // The handle's own task is to run on the worker's runtime.
            let handle = {
                let _worker = runtime.enter();
                node.handle()
            };
            let thread = thread::Builder::new().name(format!("{name}-{number}")).spawn(move || {
                LocalSet::new().block_on(&runtime, async move {
                    let service = Rc::new(make(handle));
                    work(handed_over, service, settings, stopping, open).await;
                });
            })?;
            threads.push(thread);
        }
        Ok((Self { workers }, threads))
    }

    /// Takes a connection that somebody else accepted; closes it when there is no place.
    pub(super) fn take_in(&self, stream: TcpStream, places: &Arc<Places>) {
        if let Some(place) = places.take() {
            self.hand_over(stream, place);
        }
    }

    /// Gives a connection to the worker that has the fewest.
    pub(super) fn hand_over(&self, stream: TcpStream, place: Place) {
        let worker =
            self.workers.iter().min_by_key(|worker| worker.open.load(Relaxed)).expect("there is at least one worker");
        worker.open.fetch_add(1, Relaxed);
        if worker.connections.try_send((stream, place)).is_err() {
            worker.open.fetch_sub(1, Relaxed);
        }
    }
}

async fn work(
    mut handed_over: mpsc::Receiver<(TcpStream, Place)>,
    service: Rc<Service>,
    settings: Settings,
    stopping: Receiver<bool>,
    open: Arc<AtomicUsize>,
) {
    let mut connections = JoinSet::new();
    let mut stop = stopping.clone();
    loop {
        tokio::select! {
            Some((stream, place)) = handed_over.recv() => {
                let (service, stopping, open) = (Rc::clone(&service), stopping.clone(), Arc::clone(&open));
                connections.spawn_local(async move {
                    let _place = place;
                    if let Err(error) = serve(stream, service, settings, stopping).await {
                        // What clients and networks do to connections is nothing to act upon.
                        tracing::debug!(error, "connection ended");
                    }
                    open.fetch_sub(1, Relaxed);
                });
            }
            Some(_) = connections.join_next() => {}
            _ = stop.wait_for(|stopping| *stopping) => break,
        }
    }
    let drained = tokio::time::timeout(DRAIN, async { while connections.join_next().await.is_some() {} }).await;
    if drained.is_err() {
        tracing::warn!(connections = connections.len(), "closing connections whose calls did not end in time");
    }
}

async fn serve(
    stream: TcpStream,
    service: Rc<Service>,
    settings: Settings,
    stopping: Receiver<bool>,
) -> Result<(), String> {
    let stream = tokio::net::TcpStream::from_std(stream).map_err(|error| error.to_string())?;
    connection::serve(stream, service, settings, stopping).await.map_err(|error| error.to_string())
}
