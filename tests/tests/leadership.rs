//! Leadership that moves between real members, and what clients are told while nobody leads.

use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use conclave_proto::etcdserverpb as pb;
use conclave_tests::{
    client::Client,
    cluster::{Cluster, eventually},
    process::{Kind, peers, skip},
    writers::Writers,
};
use tonic::{Code, Request, Status};

const WRITERS: usize = 16;
/// How long a handed-over leadership and an end may take (reliability.md, 3 j), thrice for a busy machine.
const NEW_LEADER: Duration = Duration::from_millis(3 * 500);
const END: Duration = Duration::from_millis(3 * 1_500);

async fn client(cluster: &Cluster, n: usize) -> Result<Client> {
    Client::connect(&cluster.members[n].url()).await
}

async fn status(cluster: &Cluster, n: usize) -> Result<pb::StatusResponse> {
    Ok(client(cluster, n).await?.maintenance.status(pb::StatusRequest {}).await?.into_inner())
}

async fn id(cluster: &Cluster, n: usize) -> Result<u64> {
    Ok(status(cluster, n).await?.header.context("a header")?.member_id)
}

fn told<T>(answer: Result<T, Status>) -> (Code, String) {
    match answer {
        Ok(_) => (Code::Ok, String::new()),
        Err(status) => (status.code(), status.message().to_owned()),
    }
}

fn put(key: &str) -> pb::PutRequest {
    pb::PutRequest { key: key.to_owned().into(), value: "x".into(), ..Default::default() }
}

fn get(serializable: bool) -> pb::RangeRequest {
    pb::RangeRequest { key: "a".into(), serializable, ..Default::default() }
}

fn needs_leader<T>(message: T) -> Request<T> {
    let mut request = Request::new(message);
    request.metadata_mut().insert("hasleader", "true".parse().expect("ASCII"));
    request
}

async fn move_leader(cluster: &Cluster, at: usize, target_id: u64) -> Result<(Code, String)> {
    Ok(told(client(cluster, at).await?.maintenance.move_leader(pb::MoveLeaderRequest { target_id }).await))
}

async fn moves(kind: Kind) -> Result<()> {
    let cluster = Cluster::start(kind, 3, 21)?;
    let leader = cluster.leader().await?;
    let (next, other) = ((leader + 1) % 3, (leader + 2) % 3);
    let (leader_id, next_id) = (id(&cluster, leader).await?, id(&cluster, next).await?);
    let not_leader = (Code::FailedPrecondition, "etcdserver: not leader".to_owned());
    assert_eq!(move_leader(&cluster, next, next_id).await?, not_leader);
    assert_eq!(move_leader(&cluster, other, leader_id).await?, not_leader);
    let bad = (Code::FailedPrecondition, "etcdserver: bad leader transferee".to_owned());
    assert_eq!(move_leader(&cluster, leader, 77).await?, bad);
    assert_eq!(move_leader(&cluster, leader, leader_id).await?, (Code::Ok, String::new()));
    let term = status(&cluster, leader).await?.raft_term;
    assert_eq!(move_leader(&cluster, leader, next_id).await?, (Code::Ok, String::new()));
    assert_eq!(cluster.leader().await?, next);
    assert_eq!(status(&cluster, next).await?.raft_term, term + 1);
    Ok(())
}

#[tokio::test]
async fn leadership_moves_where_it_is_told() -> Result<()> {
    moves(Kind::Conclave).await?;
    if peers().is_err() {
        skip("no etcd");
        return Ok(());
    }
    moves(Kind::Etcd).await
}

#[tokio::test]
async fn a_leader_that_is_stopped_lets_another_one_lead() -> Result<()> {
    let mut cluster = Cluster::start(Kind::Conclave, 3, 22)?;
    let mut longest = (Duration::ZERO, Duration::ZERO);
    for _ in 0..3 {
        let leader = cluster.leader().await?;
        let others = (0..3).filter(|n| *n != leader).map(|n| cluster.members[n].url());
        let writers = Writers::start(others.collect(), WRITERS, "w");
        writers.more(200).await?;
        let term = status(&cluster, leader).await?.raft_term;
        let mut server = cluster.members[leader].server.take().context("it runs")?;
        let began = Instant::now();
        let stopping = std::thread::spawn(move || server.stop());
        eventually("a leader of the next term", async || {
            let status = status(&cluster, (leader + 1) % 3).await?;
            ensure!(status.raft_term > term && status.leader != 0, "{status:?}");
            Ok(())
        })
        .await?;
        let elected = began.elapsed();
        let ended = stopping.join().expect("stopping does not panic")?;
        assert!(ended.success(), "{ended}");
        let end = began.elapsed();
        assert!(elected < NEW_LEADER && end < END, "a new leader after {elected:?}, the end after {end:?}");
        assert_eq!(status(&cluster, (leader + 1) % 3).await?.raft_term, term + 1, "one election, and no other");
        longest = (longest.0.max(elected), longest.1.max(end));
        writers.more(200).await?;
        let acknowledged = writers.stop()?;
        println!("new leader after {elected:?}, end after {end:?}, longest gap {:?}", acknowledged.longest_gap);
        cluster.start_members(&[leader])?;
        cluster.agree().await?;
        acknowledged.check(&cluster.members[leader].url(), "w/").await?;
    }
    Ok(())
}

/// A lease that is renewed through a follower outlives its leader; one that is not renewed runs out.
#[tokio::test]
async fn leases_outlive_leaders() -> Result<()> {
    const TTL: i64 = 3;
    let mut cluster = Cluster::start(Kind::Conclave, 3, 23)?;
    let leader = cluster.leader().await?;
    let follower = (leader + 1) % 3;
    let mut at = client(&cluster, follower).await?;
    for id in [7, 8] {
        at.lease.lease_grant(pb::LeaseGrantRequest { id, ttl: TTL }).await?;
        let put = pb::PutRequest { lease: id, ..put(&format!("leased-{id}")) };
        at.kv.put(put).await?;
    }
    let renewed = at.keep_alive(7).await?;
    assert_eq!((renewed.id, renewed.ttl), (7, TTL));
    assert_eq!(at.keep_alive(9).await?.ttl, 0, "there is no such lease");
    let asked = pb::LeaseTimeToLiveRequest { id: 7, keys: true };
    let left = at.lease.lease_time_to_live(asked).await?.into_inner();
    assert!((TTL - 1..=TTL).contains(&left.ttl) && left.granted_ttl == TTL, "{left:?}");
    assert_eq!(left.keys, ["leased-7"]);
    cluster.kill(leader)?;
    let began = Instant::now();
    let exists = async |client: &mut Client, key: &str| -> Result<bool> {
        let get = pb::RangeRequest { key: key.to_owned().into(), ..Default::default() };
        Ok(client.kv.range(get).await?.into_inner().count == 1)
    };
    let mut gone = None;
    // What a client does while its lease lives.
    let mut renewals = tokio::time::interval(Duration::from_millis(200));
    while began.elapsed() < Duration::from_secs(3 * TTL as u64 + 4) {
        assert_eq!(at.keep_alive(7).await?.ttl, TTL, "{:?}", began.elapsed());
        if gone.is_none() && !exists(&mut at, "leased-8").await? {
            gone = Some(began.elapsed());
        }
        renewals.tick().await;
    }
    let gone = gone.context("the lease that nobody renewed ran out")?;
    assert!(gone > Duration::from_secs(TTL as u64 - 1), "{gone:?}");
    assert!(exists(&mut at, "leased-7").await?);
    Ok(())
}

/// What a client is told by a member that is left alone.
async fn told_alone(kind: Kind) -> Result<Vec<(&'static str, Code, String)>> {
    let mut cluster = Cluster::start(kind, 3, 24)?;
    let leader = cluster.leader().await?;
    let alone = (leader + 1) % 3;
    client(&cluster, alone).await?.kv.put(put("a")).await?;
    cluster.kill(leader)?;
    cluster.kill((leader + 2) % 3)?;
    eventually("the news that nobody leads", async || {
        ensure!(status(&cluster, alone).await?.leader == 0);
        Ok(())
    })
    .await?;
    let at = client(&cluster, alone).await?;
    let (mut one, mut two, mut three, mut four) = (at.clone(), at.clone(), at.clone(), at.clone());
    let mut all = Vec::new();
    let mut add = |what, (code, text)| all.push((what, code, text));
    add("a serializable read", told(one.kv.range(get(true)).await));
    add("a write that needs a leader", told(one.kv.put(needs_leader(put("a"))).await));
    add("a read that needs a leader", told(one.kv.range(needs_leader(get(true))).await));
    let (write, read, renewal, left, grant) = tokio::join!(
        one.kv.put(put("a")),
        two.kv.range(get(false)),
        at.keep_alive(7),
        three.lease.lease_time_to_live(pb::LeaseTimeToLiveRequest { id: 7, keys: false }),
        four.lease.lease_grant(pb::LeaseGrantRequest { id: 0, ttl: 60 }),
    );
    add("a write", told(write));
    add("a read", told(read));
    add("a renewal", told(renewal));
    add("a lease's time", told(left));
    add("a grant", told(grant));
    let errors = status(&cluster, alone).await?.errors;
    add("the status", (Code::Ok, errors.join(", ")));
    Ok(all)
}

#[tokio::test]
async fn clients_are_told_that_nobody_leads() -> Result<()> {
    let conclave = told_alone(Kind::Conclave).await?;
    println!("{conclave:#?}");
    if peers().is_err() {
        skip("no etcd");
        return Ok(());
    }
    assert_eq!(conclave, told_alone(Kind::Etcd).await?);
    Ok(())
}
