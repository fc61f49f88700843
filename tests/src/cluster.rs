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

/// The members of one cluster, running or not.
#[derive(Debug)]
pub struct Cluster {
    pub members: Vec<Member>,
    kind: Kind,
    initial: String,
    _folder: tempfile::TempDir,
}

#[derive(Debug)]
pub struct Member {
    pub name: String,
    pub client: SocketAddr,
    pub peer: SocketAddr,
    pub data_dir: PathBuf,
    pub proxy: Proxy,
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
        let folder = tempfile::Builder::new().prefix("conclave-cluster-").tempdir()?;
        let member = |n: usize| -> Result<Member> {
            let (client, peer) = free_ports()?;
            let proxy = Proxy::start(seed + n as u64)?;
            proxy.set_target(peer);
            let name = format!("m{}", n + 1);
            Ok(Member { data_dir: folder.path().join(&name), name, client, peer, proxy, server: None })
        };
        let members = (0..size).map(member).collect::<Result<Vec<_>>>()?;
        let entry = |member: &Member| format!("{}=http://{}", member.name, member.proxy.address);
        let initial = members.iter().map(entry).collect::<Vec<_>>().join(",");
        Ok(Self { members, kind, initial, _folder: folder })
    }

    /// All of them, each as soon as the others let it.
    ///
    /// # Errors
    /// If one does not start; its log is in the error.
    pub fn start(kind: Kind, size: usize, seed: u64) -> Result<Self> {
        let mut cluster = Self::plan(kind, size, seed)?;
        let all: Vec<_> = (0..size).collect();
        cluster.start_members(&all)?;
        Ok(cluster)
    }

    fn role(&self, member: &Member) -> Role {
        Role { name: member.name.clone(), initial: self.initial.clone(), advertise: member.proxy.address }
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
                let member = &self.members[n];
                let options = Options {
                    data_dir: Some(member.data_dir.clone()),
                    addresses: Some((member.client, member.peer)),
                    cluster: Some(self.role(member)),
                    ..Options::default()
                };
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
        Ok(command)
    }

    /// Ends one without warning.
    ///
    /// # Errors
    /// If it cannot be waited for.
    pub fn kill(&mut self, n: usize) -> Result<()> {
        self.members[n].server.take().context("it runs")?.kill()
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
