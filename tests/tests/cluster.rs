//! Three real members: clients anywhere, a leader that dies, an emptied disk, a bad network.

use std::{
    fs,
    io::{Read, Write},
    net::TcpStream,
    process::Command,
    sync::atomic::Ordering::SeqCst,
    time::Duration,
};

use anyhow::{Context, Result, ensure};
use conclave_proto::{conclave::peer::v1 as pb_peer, etcdserverpb as pb};
use conclave_tests::{
    client::{Client, in_time},
    cluster::{Cluster, eventually},
    etcdctl::Bare,
    process::{Ended, Kind, run_to_end, wait_for_end},
    writers::Writers,
};

const WRITERS: usize = 16;

fn ctl(cluster: &Cluster, n: usize, args: &[&str], stdin: &str) -> Result<String> {
    let server = cluster.members[n].server.as_ref().context("it runs")?;
    let printed = Bare::new(server.client).run(args, stdin)?;
    ensure!(printed.success, "etcdctl {} on {}: {printed:#?}", args.join(" "), cluster.members[n].name);
    Ok(printed.out)
}

async fn put(url: &str, key: &str, value: &str) -> Result<i64> {
    let put = pb::PutRequest { key: key.to_owned().into(), value: value.to_owned().into(), ..Default::default() };
    let mut client = Client::connect(url).await?;
    let answer = in_time("answer to a put", client.kv.put(put)).await??.into_inner();
    Ok(answer.header.context("a header")?.revision)
}

#[tokio::test]
async fn etcdctl_through_every_member() -> Result<()> {
    let cluster = Cluster::start(Kind::Conclave, 3, 1)?;
    let leader = cluster.leader().await?;
    let followers: Vec<_> = (0..3).filter(|n| *n != leader).collect();
    for n in 0..3 {
        let (key, other) = (format!("key-{n}"), (n + 1) % 3);
        ctl(&cluster, n, &["put", &key, "first"], "")?;
        // What one member acknowledged, a linearizable read on any other one sees.
        assert_eq!(ctl(&cluster, other, &["get", &key, "--print-value-only"], "")?, "first\n");
        let server = cluster.members[n].server.as_ref().context("it runs")?;
        let follow = Bare::new(server.client).follow(&["watch", &key, "--rev=1"])?;
        ctl(&cluster, other, &["put", &key, "second"], "")?;
        assert_eq!(follow.until("second")?, ["PUT", &key, "first", "PUT", &key, "second"]);
        let txn = format!("value(\"{key}\") = \"second\"\n\nput {key} third\n\nput {key} wrong\n\n");
        ctl(&cluster, n, &["txn"], &txn)?;
        assert_eq!(ctl(&cluster, other, &["get", &key, "--print-value-only"], "")?, "third\n");
        let granted = ctl(&cluster, n, &["lease", "grant", "600"], "")?;
        let lease = granted.split(' ').nth(1).context("an id")?.to_owned();
        ctl(&cluster, other, &["put", "leased", "x", &format!("--lease={lease}")], "")?;
        ctl(&cluster, n, &["lease", "revoke", &lease], "")?;
        assert_eq!(ctl(&cluster, other, &["get", "leased"], "")?, "", "its keys went with the lease");
        let list = ctl(&cluster, n, &["member", "list"], "")?;
        for member in &cluster.members {
            assert!(list.contains(&format!("started, {}, http://{}", member.name, member.proxy.address)), "{list}");
        }
    }
    for n in followers {
        let (from, to) = (cluster.members[n].url(), cluster.members[leader].url());
        let revision = put(&from, "through-a-follower", &n.to_string()).await?;
        assert_eq!(put(&to, "through-the-leader", "x").await?, revision + 1, "one order for all");
    }
    let status = ctl(&cluster, 0, &["endpoint", "status", "--cluster", "--write-out=json"], "")?;
    let leader = Client::connect(&cluster.urls()[0]).await?.maintenance.status(pb::StatusRequest {}).await?;
    let leader = format!("\"leader\":{}", leader.into_inner().leader);
    assert_eq!(status.matches(&leader).count(), 3, "{status}");
    cluster.agree().await?;
    Ok(())
}

#[tokio::test]
async fn the_leader_dies_during_writes() -> Result<()> {
    let mut cluster = Cluster::start(Kind::Conclave, 3, 2)?;
    let writers = Writers::start(cluster.urls(), WRITERS, "w");
    for round in 0..3 {
        writers.more(300).await?;
        let leader = cluster.leader().await?;
        cluster.kill(leader)?;
        writers.more(300).await?;
        assert_ne!(cluster.leader().await?, leader, "round {round}");
        cluster.start_members(&[leader])?;
    }
    writers.more(300).await?;
    let acknowledged = writers.stop()?;
    let revision = cluster.agree().await?;
    for url in cluster.urls() {
        acknowledged.check(&url, "w/").await?;
    }
    println!(
        "{} writes acknowledged at revision {revision}, longest gap {:?}",
        acknowledged.values.len(),
        acknowledged.longest_gap
    );
    Ok(())
}

/// All at once, as when the power goes.
#[tokio::test]
async fn all_members_die_and_come_back() -> Result<()> {
    let mut cluster = Cluster::start(Kind::Conclave, 3, 3)?;
    let writers = Writers::start(cluster.urls(), WRITERS, "w");
    writers.more(500).await?;
    (0..3).try_for_each(|n| cluster.kill(n))?;
    cluster.start_members(&[0, 1, 2])?;
    writers.more(100).await?;
    let acknowledged = writers.stop()?;
    cluster.agree().await?;
    for url in cluster.urls() {
        acknowledged.check(&url, "w/").await?;
    }
    Ok(())
}

/// Not left behind by a test that fails.
struct Started(std::process::Child);

impl Drop for Started {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

fn refused(mut command: Command, termination_log: &std::path::Path) -> Result<(Ended, serde_json::Value)> {
    fs::write(termination_log, "")?;
    command.arg(format!("--termination-log={}", termination_log.display()));
    let ended = run_to_end(command)?;
    let line = ended.stderr.lines().find(|line| line.starts_with("{\"cause\"")).context("a line of JSON")?.to_owned();
    assert_eq!(fs::read_to_string(termination_log)?, line, "the same in the termination log");
    Ok((ended, serde_json::from_str(&line)?))
}

#[tokio::test]
async fn a_wiped_folder_is_refused() -> Result<()> {
    let mut cluster = Cluster::start(Kind::Conclave, 3, 4)?;
    put(&cluster.members[0].url(), "before", "x").await?;
    cluster.leader().await?;
    let folder = tempfile::tempdir()?;
    let log = folder.path().join("termination-log");
    // With its vote a majority would come about: the second member is down.
    cluster.kill(2)?;
    cluster.kill(1)?;
    fs::remove_dir_all(&cluster.members[2].data_dir)?;
    let url = cluster.members[0].url();
    let leader = async || -> Result<u64> {
        let status = Client::connect(&url).await?.maintenance.status(pb::StatusRequest {}).await?;
        Ok(status.into_inner().leader)
    };
    eventually("a member that knows that it is alone", async || {
        ensure!(leader().await? == 0);
        Ok(())
    })
    .await?;
    for _ in 0..2 {
        let (ended, told) = refused(cluster.command(2)?, &log)?;
        assert_eq!((ended.status.code(), told["exit"].as_i64()), (Some(78), Some(78)), "{}", ended.stderr);
        assert_eq!(told["cause"], "disk-emptied", "{told}");
        assert!(!ended.stderr.contains("the member starts"), "raft never ran: {}", ended.stderr);
        let identity = fs::read_to_string(cluster.members[2].data_dir.join("identity"))?;
        assert!(identity.contains("\"initialised\": false"), "{identity}");
    }
    assert_eq!(leader().await?, 0, "nobody voted with the first member");
    cluster.start_members(&[1])?;
    cluster.leader().await?;
    put(&cluster.members[0].url(), "after", "x").await?;
    assert_eq!(ctl(&cluster, 1, &["get", "before", "--print-value-only"], "")?, "x\n");
    let (ended, _) = refused(cluster.command(2)?, &log)?;
    assert_eq!(ended.status.code(), Some(78));
    Ok(())
}

#[tokio::test]
async fn a_first_start_waits_for_all() -> Result<()> {
    let mut cluster = Cluster::plan(Kind::Conclave, 3, 5)?;
    let mut early: Vec<_> = (0..2)
        .map(|n| Ok(Started(cluster.command(n)?.stderr(std::process::Stdio::piped()).spawn()?)))
        .collect::<Result<Vec<_>>>()?;
    // Both have met when each has written down the other.
    eventually("two members that have met", async || {
        for n in 0..2 {
            ensure!(cluster.members[n].data_dir.join("known-peers").exists(), "member {n}");
        }
        Ok(())
    })
    .await?;
    for n in 0..2 {
        assert!(fs::read_to_string(cluster.members[n].data_dir.join("identity"))?.contains("\"initialised\": false"));
    }
    for Started(child) in &mut early {
        rustix::process::kill_process(rustix::process::Pid::from_child(child), rustix::process::Signal::TERM)?;
        let status = wait_for_end(child, Duration::from_secs(30))?;
        assert!(status.success(), "an end that was asked for: {status}");
        let mut log = String::new();
        child.stderr.take().context("piped")?.read_to_string(&mut log)?;
        assert!(!log.contains("the member starts"), "{log}");
    }
    // The same folders again, and all of them this time.
    cluster.start_members(&[0, 1, 2])?;
    put(&cluster.members[1].url(), "a", "b").await?;
    // From now on a majority is enough.
    (0..3).try_for_each(|n| cluster.kill(n))?;
    cluster.start_members(&[0, 2])?;
    put(&cluster.members[2].url(), "a", "c").await?;
    Ok(())
}

#[tokio::test]
async fn modes_say_what_must_be_there() -> Result<()> {
    let mut cluster = Cluster::start(Kind::Conclave, 3, 6)?;
    let mut client = Client::connect(&cluster.members[0].url()).await?;
    let list = client.cluster.member_list(pb::MemberListRequest { linearizable: true }).await?.into_inner();
    let header = list.header.context("a header")?;
    cluster.kill(0)?;
    let folder = tempfile::tempdir()?;
    let log = folder.path().join("termination-log");
    let with = |flags: &[String]| -> Result<(Option<i32>, String)> {
        let mut command = cluster.command(0)?;
        command.args(flags);
        let (ended, told) = refused(command, &log)?;
        Ok((ended.status.code(), told["cause"].as_str().context("a cause")?.to_owned()))
    };
    let expect = |cluster: u64, member: u64| {
        ["--resume".to_owned(), format!("--expect-cluster-id={cluster:x}"), format!("--expect-member-id={member:x}")]
    };
    let mismatch = (Some(78), "identity-mismatch".to_owned());
    assert_eq!(with(&expect(header.cluster_id, header.member_id + 1))?, mismatch);
    assert_eq!(with(&expect(header.cluster_id + 1, header.member_id))?, mismatch);
    assert_eq!(with(&["--bootstrap".to_owned(), "--initial-cluster-token=another".to_owned()])?, mismatch);
    let empty = (Some(78), "empty-data".to_owned());
    let nowhere = format!("--data-dir={}", folder.path().join("nowhere").display());
    for mode in ["--resume", "--join=http://127.0.0.1:1", "--initial-cluster-state=existing"] {
        assert_eq!(with(&[nowhere.clone(), mode.to_owned()])?, empty, "{mode}");
        assert!(!folder.path().join("nowhere").exists(), "{mode} made something");
    }
    // With a member in the folder each of them goes on; so does a start line whose initial cluster makes no sense.
    let goes_on = [
        expect(header.cluster_id, header.member_id).to_vec(),
        vec!["--bootstrap".to_owned()],
        vec!["--join=http://127.0.0.1:1".to_owned()],
        vec!["--initial-cluster-state=existing".to_owned(), "--initial-cluster=x=http://127.0.0.1:1".to_owned()],
    ];
    for flags in goes_on {
        let child = Started(cluster.command(0)?.args(&flags).stderr(std::process::Stdio::null()).spawn()?);
        let url = cluster.members[0].url();
        let began = eventually("a member that goes on", async || put(&url, "a", "b").await).await;
        drop(child);
        began.with_context(|| flags.join(" "))?;
    }
    Ok(())
}

/// Everything that goes to one member is delayed, cut in the middle of frames and damaged.
#[tokio::test]
async fn a_bad_network() -> Result<()> {
    let cluster = Cluster::start(Kind::Conclave, 3, 7)?;
    let writers = Writers::start(cluster.urls(), WRITERS, "w");
    writers.more(200).await?;
    for n in 0..3 {
        let faults = &cluster.members[n].proxy.faults;
        faults.delay_ms.store(40, SeqCst);
        writers.more(200).await.with_context(|| format!("delays in front of member {n}\n{}", cluster.logs()))?;
        faults.cut_one_in.store(40, SeqCst);
        writers
            .more(200)
            .await
            .with_context(|| format!("delays and cuts in front of member {n}\n{}", cluster.logs()))?;
        faults.flip_one_in.store(40, SeqCst);
        faults.delay_ms.store(0, SeqCst);
        writers
            .more(200)
            .await
            .with_context(|| format!("cuts and flips in front of member {n}\n{}", cluster.logs()))?;
        eventually("cuts and flips", async || {
            let (cuts, flips) = (faults.cuts.load(SeqCst), faults.flips.load(SeqCst));
            ensure!(cuts >= 5 && flips >= 5, "{cuts} cuts, {flips} flips");
            Ok(())
        })
        .await?;
        faults.heal();
        faults.black_hole.store(true, SeqCst);
        writers.more(200).await.with_context(|| format!("nothing reaches member {n}\n{}", cluster.logs()))?;
        faults.heal();
        cluster.caught_up().await?;
    }
    let acknowledged = writers.stop()?;
    cluster.agree().await?;
    for url in cluster.urls() {
        acknowledged.check(&url, "w/").await?;
    }
    // What was damaged on its way was found out, and is counted under etcd's names.
    let sum = |name: &str| -> Result<u64> {
        let mut sum = 0;
        for member in &cluster.members {
            let page = http_get(member.client, "/metrics")?;
            let lines = page.lines().filter(|line| line.starts_with(name));
            sum += lines.filter_map(|line| line.rsplit(' ').next()?.parse::<u64>().ok()).sum::<u64>();
        }
        Ok(sum)
    };
    assert!(sum("etcd_network_peer_received_failures_total{")? > 0);
    assert!(sum("etcd_network_peer_sent_bytes_total{")? > 10_000);
    assert!(sum("etcd_network_peer_round_trip_time_seconds_count{")? > 0);
    assert!(sum("etcd_network_disconnected_peers_total{")? > 0);
    println!("longest gap {:?}", acknowledged.longest_gap);
    Ok(())
}

fn http_get(address: std::net::SocketAddr, path: &str) -> Result<String> {
    let mut stream = TcpStream::connect(address)?;
    stream.write_all(format!("GET {path} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n").as_bytes())?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer)?;
    Ok(answer)
}

/// What strangers send to the peer port ends their connection and nothing else.
#[tokio::test]
async fn garbage_on_the_peer_port() -> Result<()> {
    let cluster = Cluster::start(Kind::Conclave, 3, 8)?;
    let magic = b"\xc5CNCLVP\n";
    let frame = |payload: &[u8]| {
        let len = u32::try_from(payload.len()).expect("short");
        [&len.to_le_bytes()[..], &crc32c::crc32c(payload).to_le_bytes(), payload].concat()
    };
    let hello = pb_peer::Hello {
        protocol: 1,
        cluster: 1,
        member: 2,
        incarnation: 3,
        to: 4,
        level: 1,
        purpose: 1,
        last_index: 0,
    };
    let hello = prost::Message::encode_to_vec(&hello);
    let cases: Vec<Vec<u8>> = vec![
        b"\xc5".to_vec(),
        b"\xc5XXXXXXXXXXXX".to_vec(),
        magic.to_vec(),
        [&magic[..], &[0xff; 64]].concat(),
        [&magic[..], &frame(b"")].concat(),
        [&magic[..], &frame(&[0xff; 100])].concat(),
        [&magic[..], &frame(&hello)].concat(),
        [&magic[..], &frame(&hello)[..12]].concat(),
        [&magic[..], &frame(&vec![0; 1 << 20])].concat(),
    ];
    for member in &cluster.members {
        for case in &cases {
            let mut stream = TcpStream::connect(member.peer)?;
            stream.set_read_timeout(Some(Duration::from_secs(30)))?;
            // It may be closed before all is written.
            let _ = stream.write_all(case);
            let _ = stream.shutdown(std::net::Shutdown::Write);
            let mut answer = Vec::new();
            let _ = stream.read_to_end(&mut answer);
            assert!(answer.is_empty() || answer.starts_with(magic), "{case:?} got {answer:?}");
        }
        // HTTP on the same port is what it was.
        let answer = http_get(member.peer, "/version")?;
        assert!(answer.starts_with("HTTP/1.1 200") && answer.contains("\"etcdserver\":\"3.7"), "{answer}");
        put(&member.url(), "a", "b").await?;
    }
    Ok(())
}
