//! The real binary, killed at the n-th call that changes one of its files.
//!
//! A short script runs against the server under `killat` (tests/peers), which counts the calls and kills at the n-th.
//! Then the server starts again on the same folder. It must come up, everything that was acknowledged must be there, and
//! of what was under way all or nothing.
//!
//! *Not here*: loss of what was written but not synced, which needs a disk that forgets; that is the simulator's.

use std::{collections::BTreeMap, fs, path::Path};

use anyhow::{Context, Result, ensure};
use bytes::Bytes;
use conclave_proto::etcdserverpb::{self as pb, request_op::Request};
use conclave_tests::{
    client::{Client, in_time},
    process::{Kind, Options, Server, free_ports, peers},
};
use rand::{RngExt, SeedableRng};
use rand_chacha::ChaCha8Rng;
use tonic::Status;

/// Steps of the script.
const STEPS: usize = 60;
/// Points of a run of `make test`; `CONCLAVE_CRASH_POINTS` asks for more, and `all` for every one.
const SAMPLE: usize = 12;
const LEASE: i64 = 7;

type Keys = BTreeMap<Bytes, Bytes>;

fn key(n: usize) -> Bytes {
    format!("k{:02}", n % 17).into()
}

fn value(n: usize) -> Bytes {
    // Some values are larger than a record of the log.
    let size = if n.is_multiple_of(13) { 100_000 } else { n };
    format!("{n} {}", "v".repeat(size)).into()
}

fn put(n: usize) -> pb::PutRequest {
    pb::PutRequest { key: key(n), value: value(n), ..Default::default() }
}

/// Sends step `n`.
async fn send(client: &mut Client, n: usize) -> Result<(), Status> {
    match n % 10 {
        3 => {
            let request = pb::DeleteRangeRequest { key: key(n), range_end: key(n + 3), prev_kv: false };
            client.kv.delete_range(request).await.map(drop)
        }
        5 => {
            let ops = [n, n + 1, n + 2].map(|n| pb::RequestOp { request: Some(Request::RequestPut(put(n))) });
            client.kv.txn(pb::TxnRequest { success: ops.into(), ..Default::default() }).await.map(drop)
        }
        7 if n < 10 => client.lease.lease_grant(pb::LeaseGrantRequest { ttl: 600, id: LEASE }).await.map(drop),
        7 => client.kv.put(pb::PutRequest { lease: LEASE, ..put(n) }).await.map(drop),
        8 => {
            // The revision does not matter: what may be read now is the same before and after.
            let revision = i64::try_from(n / 2).expect("small");
            client.kv.compact(pb::CompactionRequest { revision, physical: true }).await.map(drop)
        }
        _ => client.kv.put(put(n)).await.map(drop),
    }
}

/// What step `n` does to the keys.
fn apply(keys: &mut Keys, n: usize) {
    match n % 10 {
        3 => keys.retain(|k, _| !(key(n)..key(n + 3)).contains(k)),
        5 => keys.extend([n, n + 1, n + 2].map(|n| (key(n), value(n)))),
        8 => {}
        7 if n < 10 => {}
        _ => drop(keys.insert(key(n), value(n))),
    }
}

/// Runs the script until the server is gone; how many steps were acknowledged.
async fn script(server: &Server) -> Result<usize> {
    let Ok(mut client) = Client::connect(&server.url()).await else { return Ok(0) };
    for n in 0..STEPS {
        if let Err(status) = in_time("an answer", send(&mut client, n)).await? {
            // A dead server answers nothing; one that answers an error is another finding.
            let gone = [tonic::Code::Unavailable, tonic::Code::Unknown, tonic::Code::Cancelled, tonic::Code::Internal];
            ensure!(gone.contains(&status.code()), "step {n}: {status:?}");
            return Ok(n);
        }
    }
    Ok(STEPS)
}

fn under(data: &Path, n: usize, count: &Path) -> Result<Vec<String>> {
    let args = ["-n", &n.to_string(), "-under", &data.display().to_string(), "-count", &count.display().to_string()];
    let killat = peers()?.join("killat").display().to_string();
    Ok([killat].into_iter().chain(args.map(str::to_owned)).chain(["--".to_owned()]).collect())
}

/// One life that ends at call `n` (0: by SIGTERM after the script), and the next one. The number of calls that were seen.
async fn crash_at(n: usize) -> Result<usize> {
    let folder = tempfile::tempdir()?;
    let (data, count) = (folder.path().join("data"), folder.path().join("count"));
    let again = Options { data_dir: Some(data.clone()), addresses: Some(free_ports()?), ..Options::default() };
    let options = Options { under: under(&data, n, &count)?, ..again.clone() };
    let mut acknowledged = 0;
    // It may die before it is ready; then nothing was acknowledged.
    if let Ok(mut server) = Server::start(Kind::Conclave, &options) {
        acknowledged = script(&server).await?;
        ensure!(n > 0 || acknowledged == STEPS, "the script ended after {acknowledged} steps\n{}", server.log());
        let _ = server.stop();
    }
    let seen = fs::read_to_string(&count).context("the count of calls")?.trim().parse()?;
    let server = Server::start(Kind::Conclave, &again).context("the start after the crash")?;
    let mut client = Client::connect(&server.url()).await?;
    let all = pb::RangeRequest { key: "k".into(), range_end: "l".into(), ..Default::default() };
    let kvs = in_time("an answer", client.kv.range(all)).await??.into_inner().kvs;
    let found = kvs.into_iter().map(|kv| (kv.key, kv.value)).collect::<Keys>();
    let mut known = Keys::new();
    (0..acknowledged).for_each(|n| apply(&mut known, n));
    let mut one_more = known.clone();
    if acknowledged < STEPS {
        apply(&mut one_more, acknowledged);
    }
    let shown =
        |keys: &Keys| keys.iter().map(|(k, v)| format!("{k:?}={} bytes", v.len())).collect::<Vec<_>>().join(" ");
    ensure!(
        found == known || found == one_more,
        "after {acknowledged} acknowledged steps\nfound {}\nknown {}",
        shown(&found),
        shown(&known)
    );
    // It goes on as if nothing had been.
    in_time("an answer", client.kv.put(put(1))).await??;
    Ok(seen)
}

async fn crash_points(sample: Option<usize>, seed: u64) -> Result<()> {
    let total = crash_at(0).await.context("without a crash")?;
    ensure!(total >= 100, "the script makes only {total} calls that change a file");
    let mut rng = ChaCha8Rng::seed_from_u64(seed);
    let points = match sample {
        None => (1..=total).collect::<Vec<_>>(),
        // One from each stretch of the script, so that a small sample sees all of it.
        Some(sample) => {
            (0..sample).map(|s| rng.random_range(s * total / sample + 1..=(s + 1) * total / sample)).collect()
        }
    };
    println!("{} crash points of {total}, seed {seed}", points.len());
    for n in points {
        crash_at(n).await.with_context(|| format!("killed at call {n} of about {total}"))?;
    }
    Ok(())
}

/// A sample that is another one each day, printed with its seed.
#[tokio::test]
async fn killed_at_a_call_that_changes_a_file() -> Result<()> {
    let asked = std::env::var("CONCLAVE_CRASH_POINTS").ok();
    let sample = match asked.as_deref() {
        Some("all") => None,
        Some(number) => Some(number.parse()?),
        None => Some(SAMPLE),
    };
    let day = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH)?.as_secs() / 86_400;
    let seed = std::env::var("CONCLAVE_SEED").map_or(Ok(day), |seed| seed.parse())?;
    crash_points(sample, seed).await
}
