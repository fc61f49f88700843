//! One flipped bit anywhere in the data folder: the member refuses with a clear error, or stops, or answers right.
//!
//! Never a wrong answer, and nothing lost that the one copy still holds: a refusal leaves every file as it was, and with
//! the bit flipped back everything is there.

use std::{
    collections::BTreeMap,
    fs,
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::{Context, Result, bail, ensure};
use bytes::Bytes;
use conclave_proto::{etcdserverpb as pb, mvccpb};
use conclave_tests::{
    client::{Client, in_time},
    process::{Kind, Options, Server},
};
use rand::{RngExt, SeedableRng};
use rand_chacha::ChaCha8Rng;

/// Keys that were acknowledged before the bit was flipped.
const KEYS: usize = 300;

/// How the server ended before its files were touched.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum End {
    /// The log holds what the state has not flushed: it is the only copy.
    Killed,
    /// The state is flushed.
    Stopped,
}

/// A data folder with [`KEYS`] acknowledged keys.
struct Prepared {
    folder: tempfile::TempDir,
    end: End,
}

fn key(n: usize) -> Bytes {
    format!("key/{n:04}").into()
}

fn value(n: usize) -> Bytes {
    format!("value {n} {}", "x".repeat(n % 97)).into()
}

impl Prepared {
    async fn new(end: End) -> Result<Self> {
        let folder = tempfile::tempdir()?;
        let mut server = start(&folder.path().join("data"))?;
        let mut client = Client::connect(&server.url()).await?;
        for n in 0..KEYS {
            client.kv.put(pb::PutRequest { key: key(n), value: value(n), ..Default::default() }).await?;
        }
        match end {
            End::Killed => server.kill()?,
            End::Stopped => ensure!(server.stop()?.success(), "{}", server.log()),
        }
        Ok(Self { folder, end })
    }

    /// A copy to spoil. The log's files are mostly zeros: holes make copies cheap.
    fn copy(&self, name: &str) -> Result<PathBuf> {
        let to = self.folder.path().join(name);
        let data = self.folder.path().join("data");
        let copied = Command::new("cp").args(["-a", "--sparse=always"]).arg(data).arg(&to).status()?;
        ensure!(copied.success(), "cp failed");
        Ok(to)
    }

    /// Flips one bit of a file in a copy, and sees what the server makes of it. True if it refused to start.
    async fn spoil(&self, file: &Path, offset: usize, bit: u8) -> Result<bool> {
        let what = format!("{:?}: {} at {offset}, bit {bit}", self.end, file.display());
        let data = self.copy("spoiled")?;
        let path = data.join(file);
        let mut bytes = fs::read(&path)?;
        bytes[offset] ^= 1 << bit;
        fs::write(&path, &bytes)?;
        let before = contents(&data)?;
        let refused = match start(&data) {
            Ok(server) => {
                right_or_stopped(&server).await.with_context(|| what.clone())?;
                false
            }
            Err(error) => {
                let error = format!("{error:#}");
                ensure!(!error.contains("panicked"), "{what}: a panic is not a clear error\n{error}");
                if file.starts_with("log") {
                    ensure!(contents(&data)?.get(&path) == before.get(&path), "{what}: a refusal changed the file");
                    bytes[offset] ^= 1 << bit;
                    fs::write(&path, &bytes)?;
                    all_there(&start(&data)?).await.context("after the bit was flipped back").context(what)?;
                }
                true
            }
        };
        fs::remove_dir_all(&data)?;
        Ok(refused)
    }

    /// Positions of bytes that are not zero: where nothing was written there is nothing to damage.
    fn written(&self, file: &Path) -> Result<Vec<usize>> {
        let bytes = fs::read(self.folder.path().join("data").join(file))?;
        Ok(bytes.iter().enumerate().filter(|(_, byte)| **byte != 0).map(|(at, _)| at).collect())
    }

    /// The files of a part of the folder that hold anything, relative to it.
    fn files(&self, part: &str, extension: Option<&str>) -> Result<Vec<PathBuf>> {
        let data = self.folder.path().join("data");
        let mut found = Vec::new();
        for path in contents(&data.join(part))?.into_keys() {
            let wanted = extension.is_none_or(|e| path.extension().is_some_and(|other| other == e));
            let file = path.strip_prefix(&data)?.to_path_buf();
            if wanted && !self.written(&file)?.is_empty() {
                found.push(file);
            }
        }
        Ok(found)
    }
}

fn start(data: &Path) -> Result<Server> {
    Server::start(Kind::Conclave, &Options { data_dir: Some(data.to_owned()), ..Options::default() })
}

/// Every file below a folder with a checksum of its content.
fn contents(folder: &Path) -> Result<BTreeMap<PathBuf, u64>> {
    use std::hash::{DefaultHasher, Hasher};
    let mut all = BTreeMap::new();
    for entry in fs::read_dir(folder)? {
        let path = entry?.path();
        if path.is_dir() {
            all.extend(contents(&path)?);
        } else {
            let mut hasher = DefaultHasher::new();
            hasher.write(&fs::read(&path)?);
            all.insert(path, hasher.finish());
        }
    }
    Ok(all)
}

async fn read(client: &mut Client) -> Result<Vec<mvccpb::KeyValue>, tonic::Status> {
    let range = pb::RangeRequest { key: "key/".into(), range_end: "key0".into(), ..Default::default() };
    let kvs = client.kv.range(range).await?.into_inner().kvs;
    for n in 0..KEYS {
        let got = client.kv.range(pb::RangeRequest { key: key(n), ..Default::default() }).await?.into_inner().kvs;
        assert_eq!(got.first(), kvs.get(n), "a get and a list tell different stories");
    }
    Ok(kvs)
}

fn check(kvs: &[mvccpb::KeyValue]) -> Result<()> {
    let wrong = (0..KEYS).find(|n| kvs.get(*n).is_none_or(|kv| kv.key != key(*n) || kv.value != value(*n)));
    match wrong {
        None => Ok(()),
        Some(n) => bail!("a wrong answer: key {n} is {:?}", kvs.get(n)),
    }
}

async fn all_there(server: &Server) -> Result<()> {
    let mut client = Client::connect(&server.url()).await?;
    check(&in_time("an answer", read(&mut client)).await??)
}

/// An error is allowed here: the member may notice only when it reads. A wrong answer is not.
async fn right_or_stopped(server: &Server) -> Result<()> {
    let Ok(mut client) = Client::connect(&server.url()).await else { return Ok(()) };
    match in_time("an answer", read(&mut client)).await? {
        Ok(kvs) => check(&kvs),
        Err(_) => Ok(()),
    }
}

/// Draws places to flip in these files.
fn places(
    prepared: &Prepared,
    files: &[PathBuf],
    part: f64,
    count: usize,
    seed: u64,
) -> Result<Vec<(PathBuf, usize, u8)>> {
    let mut rng = ChaCha8Rng::seed_from_u64(seed);
    let mut places = Vec::new();
    for _ in 0..count {
        let file = &files[rng.random_range(0..files.len())];
        let written = prepared.written(file)?;
        #[allow(clippy::cast_precision_loss, clippy::cast_possible_truncation, clippy::cast_sign_loss)]
        let end = ((written.len() as f64 * part) as usize).max(1);
        places.push((file.clone(), written[rng.random_range(0..end)], rng.random_range(0..8)));
    }
    Ok(places)
}

#[tokio::test]
async fn flipped_bit_in_the_only_copy_of_the_log() -> Result<()> {
    let prepared = Prepared::new(End::Killed).await?;
    let files = prepared.files("log", Some("seg"))?;
    let mut refused = 0;
    // The last batches may not be named by a mark yet, so that their loss cannot be told from a torn tail.
    for (file, offset, bit) in places(&prepared, &files, 0.6, 10, 1)? {
        refused += usize::from(prepared.spoil(&file, offset, bit).await?);
    }
    ensure!(refused > 0, "no flip was noticed at the start");
    Ok(())
}

#[tokio::test]
async fn flipped_bit_in_a_log_that_was_closed() -> Result<()> {
    let prepared = Prepared::new(End::Stopped).await?;
    let files = prepared.files("log", Some("seg"))?;
    for (file, offset, bit) in places(&prepared, &files, 1.0, 6, 2)? {
        prepared.spoil(&file, offset, bit).await?;
    }
    Ok(())
}

#[tokio::test]
async fn flipped_bit_in_a_hard_state_slot() -> Result<()> {
    let prepared = Prepared::new(End::Killed).await?;
    let files = [PathBuf::from("log/hard-state")];
    for (file, offset, bit) in places(&prepared, &files, 1.0, 6, 3)? {
        prepared.spoil(&file, offset, bit).await?;
    }
    Ok(())
}

#[tokio::test]
async fn flipped_bit_in_the_state() -> Result<()> {
    let prepared = Prepared::new(End::Stopped).await?;
    let tables = prepared.files("kv", Some("sst"))?;
    ensure!(!tables.is_empty(), "a clean stop left no table");
    for (file, offset, bit) in places(&prepared, &tables, 1.0, 10, 4)? {
        prepared.spoil(&file, offset, bit).await?;
    }
    let rest = prepared.files("kv", None)?;
    for (file, offset, bit) in places(&prepared, &rest, 1.0, 6, 5)? {
        prepared.spoil(&file, offset, bit).await?;
    }
    Ok(())
}

#[tokio::test]
async fn flipped_bit_in_the_identity() -> Result<()> {
    let prepared = Prepared::new(End::Stopped).await?;
    let identity = [PathBuf::from("identity")];
    let mut refused = 0;
    for (file, offset, bit) in places(&prepared, &identity, 1.0, 4, 6)? {
        refused += usize::from(prepared.spoil(&file, offset, bit).await?);
    }
    ensure!(refused == 4, "a damaged identity was believed");
    Ok(())
}
