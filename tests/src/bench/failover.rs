//! What clients feel of a leader that dies, and how soon it is one of three again.

use std::{
    sync::{Arc, Mutex},
    time::{Duration, Instant},
};

use anyhow::{Context, Result, ensure};
use conclave_proto::etcdserverpb as pb;

use super::sample::{Load, Target, load, measure};
use crate::{
    client::{Client, PATIENCE},
    cluster::{Cluster, eventually},
};

/// Probes begin at this interval, whatever became of the ones before: the precision of a gap.
const EVERY: Duration = Duration::from_millis(5);
/// Longer than any election; a probe that was lost with the leader counts for nothing.
const LOST: Duration = Duration::from_secs(10);
/// Acknowledgements before the kill, and after the first one behind it.
const STEADY: usize = 200;
/// What is written while a member is away.
const AWAY: Load = load("put while one is away", "put", 64, 10_000, 256);

/// When each acknowledged probe began and ended.
type Acks = Arc<Mutex<Vec<(Instant, Instant)>>>;

/// Milliseconds without an acknowledged write, when the leader is killed; and until it has caught up, from its start on.
pub(super) async fn measure_one(cluster: &mut Cluster, seconds: u32) -> Result<(f64, f64)> {
    let leader = cluster.leader().await?;
    let gap = gap(cluster, leader).await?;
    let survivors = cluster.members.iter().filter_map(|member| member.server.as_ref()).collect::<Vec<_>>();
    let endpoints = survivors.iter().map(|server| server.url()).collect();
    measure(&Target { servers: survivors, endpoints }, AWAY, None, seconds)?;
    let rejoined = rejoin(cluster, leader).await?;
    Ok((gap, rejoined))
}

async fn gap(cluster: &mut Cluster, leader: usize) -> Result<f64> {
    let acks = Acks::default();
    let mut survivors = Vec::new();
    for (_, member) in cluster.members.iter().enumerate().filter(|(n, _)| *n != leader) {
        survivors.push(Client::connect(&member.url()).await?);
    }
    let probes = tokio::spawn(probe(survivors, Arc::clone(&acks)));
    after(&acks, STEADY, None).await?;
    let killed = Instant::now();
    cluster.kill(leader)?;
    after(&acks, STEADY, Some(killed)).await?;
    probes.abort();
    let acks = acks.lock().expect("nobody panics with it").clone();
    let mut ended: Vec<_> = acks.iter().map(|(_, ended)| *ended).collect();
    ended.sort_unstable();
    let around = ended.windows(2).filter(|pair| pair[1] > killed);
    let longest = around.map(|pair| pair[1] - pair[0]).max().context("writes went on")?;
    Ok(longest.as_secs_f64() * 1_000.0)
}

async fn probe(survivors: Vec<Client>, acks: Acks) {
    let mut every = tokio::time::interval(EVERY);
    let mut under_way = tokio::task::JoinSet::new();
    for n in 0_u64.. {
        every.tick().await;
        while under_way.try_join_next().is_some() {}
        let (mut client, acks) = (survivors[n as usize % survivors.len()].clone(), Arc::clone(&acks));
        under_way.spawn(async move {
            let began = Instant::now();
            let put =
                pb::PutRequest { key: format!("probe/{}", n % 100).into(), value: "x".into(), ..Default::default() };
            if let Ok(Ok(_)) = tokio::time::timeout(LOST, client.kv.put(put)).await {
                acks.lock().expect("nobody panics with it").push((began, Instant::now()));
            }
        });
    }
}

/// Waits for so many acknowledgements of probes that began after a moment.
async fn after(acks: &Acks, enough: usize, began: Option<Instant>) -> Result<()> {
    eventually("acknowledged probes", async || {
        let acks = acks.lock().expect("nobody panics with it");
        let count = acks.iter().filter(|(at, _)| began.is_none_or(|began| *at > began)).count();
        ensure!(count >= enough, "{count} of {enough}");
        Ok(())
    })
    .await
}

async fn rejoin(cluster: &mut Cluster, n: usize) -> Result<f64> {
    let mut committed = 0;
    for url in cluster.urls() {
        let status = Client::connect(&url).await?.maintenance.status(pb::StatusRequest {}).await?.into_inner();
        committed = status.raft_index.max(committed);
    }
    let url = cluster.members[n].url();
    let started = Instant::now();
    cluster.spawn(n)?;
    let mut looks = tokio::time::interval(Duration::from_millis(2));
    let caught_up = async {
        loop {
            looks.tick().await;
            let Ok(mut client) = Client::connect(&url).await else { continue };
            let Ok(status) = client.maintenance.status(pb::StatusRequest {}).await else { continue };
            if status.into_inner().raft_applied_index >= committed {
                return;
            }
        }
    };
    tokio::time::timeout(PATIENCE, caught_up).await.context("it does not catch up")?;
    Ok(started.elapsed().as_secs_f64() * 1_000.0)
}
