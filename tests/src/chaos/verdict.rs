//! When all is healed: does it live, and was all of it true?

use std::time::Duration;

use anyhow::{Context, Result, ensure};
use conclave_proto::{etcdserverpb as pb, mvccpb::Event};

use super::{clients, watchers};
use crate::{
    client::Client,
    cluster::{Cluster, eventually},
    history::{Answer, Call, Op, Outcome, Summary, Truth, check},
};

/// Every member answers a linearizable read, in so much time from the heal on. How long the last one took.
///
/// # Errors
/// The member that does not.
pub async fn lives(cluster: &Cluster, bound: Duration) -> Result<Duration> {
    let healed = tokio::time::Instant::now();
    let until = healed + bound;
    for member in &cluster.members {
        let url = member.url();
        let read = async {
            eventually("answer", async || {
                let range = pb::RangeRequest { key: "alive".into(), ..Default::default() };
                let answer = async { Ok::<_, anyhow::Error>(Client::connect(&url).await?.kv.range(range).await?) };
                tokio::time::timeout(Duration::from_secs(1), answer).await??;
                Ok(())
            })
            .await
        };
        let log = || member.server.as_ref().map(crate::process::Server::log).unwrap_or_default();
        let answered = tokio::time::timeout_at(until, read).await;
        answered.with_context(|| format!("{} answers nothing {bound:?} after the heal\n{}", member.name, log()))??;
    }
    Ok(healed.elapsed())
}

/// One more write by a client of its own; its revision is the last one.
///
/// # Errors
/// If it is not answered.
pub async fn last_write(cluster: &Cluster, zero: std::time::Instant, client: usize) -> Result<(Op, i64)> {
    let called = clients::now(zero);
    let call = Call::Put { key: "last".into(), value: "last".into() };
    let (revision, answer) = clients::ask(&mut Client::connect(&cluster.members[0].url()).await?, &call).await?;
    let done = Outcome::Done { returned: clients::now(zero), revision, answer };
    Ok((Op { client, member: 0, called, call, outcome: done }, revision))
}

/// The history, each member's watch, each watcher, each member's keys and hash, at one revision.
///
/// # Errors
/// The first thing that is not as it must be.
pub async fn judge(cluster: &Cluster, ops: &[Op], seen: &[Vec<Event>], last: i64) -> Result<Summary> {
    let mut hashes = Vec::new();
    let mut truth: Option<(Vec<Event>, Truth)> = None;
    for member in &cluster.members {
        let url = member.url();
        let name = &member.name;
        eventually("a member that has caught up", async || {
            let mut client = Client::connect(&url).await?;
            let range = pb::RangeRequest { key: "last".into(), serializable: true, ..Default::default() };
            let revision = client.kv.range(range).await?.into_inner().header.context("a header")?.revision;
            ensure!(revision >= last, "{name} is at {revision}, not at {last}");
            Ok(())
        })
        .await?;
        let events = watchers::everything(&url, last).await?;
        let (first, truth) = match &truth {
            Some(truth) => truth,
            None => {
                let made = Truth::new(&events).map_err(|why| anyhow::anyhow!("the watch of {name}: {why}"))?;
                truth.insert((events.clone(), made))
            }
        };
        same(first, &events).with_context(|| format!("the watches of {} and {name}", cluster.members[0].name))?;
        let mut client = Client::connect(&url).await?;
        let all = Call::Read { from: "\0".into(), to: "\0".into(), linearizable: false, at: last };
        let (_, Answer::Read { kvs }) = clients::ask(&mut client, &all).await? else { unreachable!("a read") };
        ensure!(kvs.iter().eq(truth.all(last)), "{name} holds other keys than its events made");
        let hash = client.maintenance.hash_kv(pb::HashKvRequest { revision: last }).await?.into_inner();
        hashes.push((hash.hash, hash.compact_revision, hash.hash_revision));
    }
    ensure!(hashes.windows(2).all(|pair| pair[0] == pair[1]), "members differ at {last}: {hashes:?}");
    let (events, truth) = truth.context("there are members")?;
    for (n, seen) in seen.iter().enumerate() {
        let upto = |events: &[Event]| {
            let inside = |event: &Event| event.kv.as_ref().is_some_and(|kv| kv.mod_revision <= last);
            events.partition_point(inside)
        };
        same(&events, &seen[..upto(seen)]).with_context(|| format!("watcher {n}"))?;
    }
    check(ops, &truth).map_err(|why| anyhow::anyhow!("the history: {why}"))
}

fn same(a: &[Event], b: &[Event]) -> Result<()> {
    let differ = a.iter().zip(b).find(|(a, b)| a != b);
    ensure!(differ.is_none(), "differ at {differ:?}");
    ensure!(a.len() == b.len(), "{} events and {}", a.len(), b.len());
    Ok(())
}
