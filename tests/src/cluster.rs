//! Several real members on loopback, each behind a network that may be bad.

use std::{net::SocketAddr, path::PathBuf, process::Command, thread, time::Duration};

use anyhow::{Context, Result, ensure};
use conclave_proto::etcdserverpb as pb;

use crate::{
    client::{Client, PATIENCE},
    process::{Kind, Options, Role, Server, free_ports},
    proxy::Proxy,
};

/// How often a condition that only time brings about is looked at.
const LOOK: Duration = Duration::from_millis(20);

/// How a cluster is laid out.
#[derive(Clone, Debug)]
pub struct Layout {
    pub kind: Kind,
    pub size: usize,
    /// Of the proxies.
    pub seed: u64,
    /// For every member.
    pub flags: Vec<String>,
    /// Holds data folders and logs, and stays; without it they are temporary.
    pub folder: Option<PathBuf>,
    /// Where each member lives; if empty, on loopback behind a proxy each.
    pub places: Vec<Place>,
}

/// Where a member lives, and the program that brings it there.
#[derive(Clone, Debug)]
pub struct Place {
    pub client: SocketAddr,
    pub peer: SocketAddr,
    pub under: Vec<String>,
}

/// The members of one cluster, running or not.
#[derive(Debug)]
pub struct Cluster {
    pub members: Vec<Member>,
    kind: Kind,
    flags: Vec<String>,
    initial: String,
    _folder: Option<tempfile::TempDir>,
}

#[derive(Debug)]
pub struct Member {
    pub name: String,
    pub client: SocketAddr,
    pub peer: SocketAddr,
    pub data_dir: PathBuf,
    /// Where others reach it: its proxy, or itself.
    pub advertise: SocketAddr,
    pub proxy: Proxy,
    /// A program that runs it, if any.
    pub under: Vec<String>,
    /// Where its log is kept, if it is.
    pub log: Option<PathBuf>,
    /// None: it does not run.
    pub server: Option<Server>,
}

impl Member {
    #[must_use]
    pub fn url(&self) -> String {
        format!("http://{}", self.client)
    }
}

impl Cluster {
    /// Chooses ports and folders; starts nothing.
    ///
    /// # Errors
    /// If there are no ports left.
    pub fn plan(kind: Kind, size: usize, seed: u64) -> Result<Self> {
        let (flags, folder, places) = Default::default();
        Self::lay_out(&Layout { kind, size, seed, flags, folder, places })
    }

    /// As it is wanted; starts nothing.
    ///
    /// # Errors
    /// If there are no ports left.
    pub fn lay_out(layout: &Layout) -> Result<Self> {
        let (folder, temporary) = match &layout.folder {
            Some(folder) => (folder.clone(), None),
            None => {
                let folder = tempfile::Builder::new().prefix("conclave-cluster-").tempdir()?;
                (folder.path().to_owned(), Some(folder))
            }
        };
        let member = |n: usize| -> Result<Member> {
            let proxy = Proxy::start(layout.seed + n as u64)?;
            let (client, peer, advertise, under) = match layout.places.get(n) {
                Some(place) => (place.client, place.peer, place.peer, place.under.clone()),
                None => {
                    let (client, peer) = free_ports()?;
                    proxy.set_target(peer);
                    (client, peer, proxy.address, Vec::new())
                }
            };
            let name = format!("m{}", n + 1);
            let log = layout.folder.as_ref().map(|folder| folder.join(format!("{name}.log")));
            let data_dir = folder.join(&name);
            Ok(Member { name, client, peer, data_dir, advertise, proxy, under, log, server: None })
        };
        let members = (0..layout.size).map(member).collect::<Result<Vec<_>>>()?;
        let entry = |member: &Member| format!("{}=http://{}", member.name, member.advertise);
        let initial = members.iter().map(entry).collect::<Vec<_>>().join(",");
        Ok(Self { members, kind: layout.kind, flags: layout.flags.clone(), initial, _folder: temporary })
    }

    /// All of them, each as soon as the others let it.
    ///
    /// # Errors
    /// If one does not start; its log is in the error.
    pub fn start(kind: Kind, size: usize, seed: u64) -> Result<Self> {
        let all: Vec<_> = (0..size).collect();
        // As for a single server: a port may be taken between our look and the bind, and then all are chosen anew.
        let mut last = None;
        for _ in 0..3 {
            let mut cluster = Self::plan(kind, size, seed)?;
            match cluster.start_members(&all) {
                Ok(()) => return Ok(cluster),
                Err(e) if format!("{e:#}").to_lowercase().contains("address already in use") => last = Some(e),
                Err(e) => return Err(e),
            }
        }
        Err(last.expect("three rounds, each returned or left its error"))
    }

    fn role(&self, member: &Member) -> Role {
        Role { name: member.name.clone(), initial: self.initial.clone(), advertise: member.advertise }
    }

    fn options(&self, n: usize) -> Options {
        let member = &self.members[n];
        Options {
            flags: self.flags.clone(),
            data_dir: Some(member.data_dir.clone()),
            addresses: Some((member.client, member.peer)),
            cluster: Some(self.role(member)),
            under: member.under.clone(),
            log: member.log.clone(),
            ..Options::default()
        }
    }

    /// Starts one and waits for nothing: it may need others before it is ready.
    ///
    /// # Errors
    /// If it cannot be started at all.
    pub fn spawn(&mut self, n: usize) -> Result<()> {
        self.members[n].server = Some(Server::spawn(self.kind, &self.options(n))?);
        Ok(())
    }

    /// Starts these at the same time, and waits until they are ready.
    ///
    /// # Errors
    /// If one does not start.
    pub fn start_members(&mut self, which: &[usize]) -> Result<()> {
        let kind = self.kind;
        let starting: Vec<_> = which
            .iter()
            .map(|&n| {
                let options = self.options(n);
                (n, thread::spawn(move || Server::start(kind, &options)))
            })
            .collect();
        for (n, starting) in starting {
            let server = starting.join().expect("starting does not panic");
            self.members[n].server = Some(server.with_context(|| self.members[n].name.clone())?);
        }
        Ok(())
    }

    /// The command that starts a member, for those that are expected to end.
    ///
    /// # Errors
    /// If the program cannot be built.
    pub fn command(&self, n: usize) -> Result<Command> {
        let member = &self.members[n];
        let mut command = Command::new(self.kind.program()?);
        command.args(self.role(member).flags(&member.data_dir, member.client, member.peer));
        command.args(&self.flags);
        Ok(command)
    }

    /// Ends one without warning.
    ///
    /// # Errors
    /// If it cannot be waited for.
    pub fn kill(&mut self, n: usize) -> Result<()> {
        self.members[n].server.take().context("it runs")?.kill()
    }

    /// The last lines that each running member logged, for the message of a failure.
    #[must_use]
    pub fn logs(&self) -> String {
        let running = self.members.iter().filter_map(|member| Some((&member.name, member.server.as_ref()?)));
        running.map(|(name, server)| format!("{name}:\n{}\n", server.log())).collect()
    }

    /// Client endpoints of those that run.
    #[must_use]
    pub fn urls(&self) -> Vec<String> {
        self.members.iter().filter(|member| member.server.is_some()).map(Member::url).collect()
    }

    /// The member that all running ones take for the leader.
    ///
    /// # Errors
    /// If they do not agree in time.
    pub async fn leader(&self) -> Result<usize> {
        eventually("agreement on a leader", async || {
            let mut found = Vec::new();
            for (n, member) in self.members.iter().enumerate().filter(|(_, member)| member.server.is_some()) {
                let status = Client::connect(&member.url()).await?.maintenance.status(pb::StatusRequest {}).await?;
                let status = status.into_inner();
                found.push((n, status.header.context("a header")?.member_id, status.leader));
            }
            let leader = found.first().context("one runs")?.2;
            ensure!(leader != 0 && found.iter().all(|(.., other)| *other == leader), "{found:?}");
            Ok(found.iter().find(|(_, id, _)| *id == leader).context("the leader runs")?.0)
        })
        .await
    }

    /// Waits until every running member has applied what is committed now, while writes go on.
    ///
    /// # Errors
    /// If one does not in time.
    pub async fn caught_up(&self) -> Result<()> {
        let mut committed = 0;
        for url in self.urls() {
            let status = Client::connect(&url).await?.maintenance.status(pb::StatusRequest {}).await?.into_inner();
            committed = status.raft_index.max(committed);
        }
        eventually("members that caught up", async || {
            for url in self.urls() {
                let status = Client::connect(&url).await?.maintenance.status(pb::StatusRequest {}).await?.into_inner();
                let applied = status.raft_applied_index;
                ensure!(applied >= committed, "{url} has applied {applied} of {committed}");
            }
            Ok(())
        })
        .await
    }

    /// Waits until all running members hold the same key space, and checks that by its hash.
    ///
    /// # Errors
    /// If they do not come to agree in time.
    pub async fn agree(&self) -> Result<i64> {
        eventually("agreement on the hash of the key space", async || {
            let mut found = Vec::new();
            for url in self.urls() {
                let mut client = Client::connect(&url).await?;
                let hash = client.maintenance.hash_kv(pb::HashKvRequest { revision: 0 }).await?.into_inner();
                found.push((hash.hash_revision, hash.hash));
            }
            ensure!(found.windows(2).all(|pair| pair[0] == pair[1]), "{found:?}");
            Ok(found.first().context("one runs")?.0)
        })
        .await
    }
}

/// Looks again until it succeeds.
///
/// # Errors
/// The last failure, if none of them succeeds in time.
pub async fn eventually<T>(what: &str, look: impl AsyncFn() -> Result<T>) -> Result<T> {
    let until = tokio::time::Instant::now() + PATIENCE;
    let mut looks = tokio::time::interval(LOOK);
    loop {
        looks.tick().await;
        let outcome =
            tokio::time::timeout_at(until, look()).await.unwrap_or_else(|_| Err(anyhow::anyhow!("no answer")));
        match outcome {
            Ok(found) => return Ok(found),
            Err(error) if tokio::time::Instant::now() >= until => return Err(error.context(format!("no {what}"))),
            Err(_) => {}
        }
    }
}
