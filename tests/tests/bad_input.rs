//! Bad input to the real binary: each is a clear error, with etcd's text where etcd has one, and harms nothing.

use std::{
    fs,
    io::{Read, Write},
    net::{TcpListener, TcpStream},
    os::unix::fs::PermissionsExt,
    path::Path,
    process::Command,
    time::Duration,
};

use anyhow::{Result, ensure};
use bytes::Bytes;
use conclave_proto::etcdserverpb::{self as pb, request_op::Request};
use conclave_tests::{
    client::Client,
    process::{Ended, Kind, Options, Server, basic_flags, free_ports, run_to_end},
};

/// Runs a server with these flags after the basic ones; it must refuse to start.
fn refuse(kind: Kind, data_dir: &Path, flags: &[&str], env: &[(&str, &str)]) -> Result<Ended> {
    let (client, peer) = free_ports()?;
    let mut command = Command::new(kind.program()?);
    command.args(basic_flags(data_dir, client, peer)).args(flags).envs(env.iter().copied());
    let ended = run_to_end(command)?;
    ensure!(!ended.status.success(), "{} {flags:?} {env:?} ended well", kind.name());
    Ok(ended)
}

#[track_caller]
fn says(ended: &Ended, words: &[&str]) {
    let said = ended.stderr.to_lowercase();
    for word in words {
        assert!(said.contains(&word.to_lowercase()), "no {word:?} in:\n{}{}", ended.stderr, ended.stdout);
    }
}

#[test]
fn unknown_flag() -> Result<()> {
    let folder = tempfile::tempdir()?;
    for kind in [Kind::Etcd, Kind::Conclave] {
        let ended = refuse(kind, folder.path(), &["--no-such-flag=1"], &[])?;
        assert_eq!(ended.status.code(), Some(2), "{}", ended.stderr);
        says(&ended, &["flag provided but not defined: -no-such-flag"]);
    }
    Ok(())
}

#[test]
fn bad_urls_and_values() -> Result<()> {
    let folder = tempfile::tempdir()?;
    let data = folder.path().join("data");
    let cases: [(&str, &str); 6] = [
        ("--listen-client-urls=127.0.0.1:2379", "listen-client-urls"),
        ("--listen-client-urls=http://127.0.0.1", "listen-client-urls"),
        ("--listen-client-urls=http://127.0.0.1:99999", "99999"),
        ("--listen-client-urls=ftp://127.0.0.1:2379", "listen-client-urls"),
        ("--heartbeat-interval=soon", "heartbeat-interval"),
        ("--max-txn-ops=-3", "max-txn-ops"),
    ];
    for (flag, word) in cases {
        let ended = refuse(Kind::Conclave, &data, &[flag], &[])?;
        says(&ended, &[word]);
        assert!(!data.exists(), "{flag} left a data folder behind");
    }
    Ok(())
}

#[test]
fn conflicting_environment() -> Result<()> {
    let folder = tempfile::tempdir()?;
    for kind in [Kind::Etcd, Kind::Conclave] {
        let ended = refuse(
            kind,
            folder.path(),
            &["--name=one", "--initial-cluster=one=http://127.0.0.1:1"],
            &[("ETCD_NAME", "two")],
        )?;
        says(
            &ended,
            &[
                "conflicting environment variable",
                "is shadowed by corresponding command-line flag (either unset environment variable or disable flag)",
            ],
        );
    }
    Ok(())
}

#[test]
fn data_folder_that_is_not_ours() -> Result<()> {
    let folder = tempfile::tempdir()?;
    let precious = folder.path().join("thesis.txt");
    fs::write(&precious, "years of work")?;
    let ended = refuse(Kind::Conclave, folder.path(), &[], &[])?;
    says(&ended, &["not a Conclave data folder", "thesis.txt"]);
    assert_eq!(fs::read_to_string(&precious)?, "years of work");
    assert_eq!(fs::read_dir(folder.path())?.count(), 1, "something was added to it");

    let file = tempfile::NamedTempFile::new()?;
    says(&refuse(Kind::Conclave, file.path(), &[], &[])?, &["is not a folder"]);

    let etcd = tempfile::tempdir()?;
    fs::create_dir(etcd.path().join("member"))?;
    says(&refuse(Kind::Conclave, etcd.path(), &[], &[])?, &["belongs to an etcd member"]);
    Ok(())
}

/// Root may read everything, so this runs as somebody else, from a copy of the binary that anybody may run.
#[test]
fn data_folder_that_may_not_be_read() -> Result<()> {
    let folder = tempfile::Builder::new().permissions(fs::Permissions::from_mode(0o755)).tempdir()?;
    let binary = folder.path().join("conclave");
    fs::copy(Kind::Conclave.program()?, &binary)?;
    let data = folder.path().join("data");
    fs::create_dir(&data)?;
    fs::set_permissions(&data, fs::Permissions::from_mode(0o000))?;
    let (client, peer) = free_ports()?;
    let mut command = Command::new(&binary);
    if rustix::process::geteuid().is_root() {
        command = Command::new("setpriv");
        command.args(["--reuid=65534", "--regid=65534", "--clear-groups", "--"]).arg(&binary);
    }
    command.args(basic_flags(&data, client, peer));
    let ended = run_to_end(command)?;
    assert!(!ended.status.success());
    says(&ended, &["data folder", "denied"]);
    Ok(())
}

#[test]
fn data_folder_in_use_and_of_a_newer_format() -> Result<()> {
    let folder = tempfile::tempdir()?;
    let data = folder.path().join("data");
    let options = Options { data_dir: Some(data.clone()), ..Options::default() };
    let mut server = Server::start(Kind::Conclave, &options)?;
    says(&refuse(Kind::Conclave, &data, &[], &[])?, &["already in use by another process"]);
    ensure!(server.stop()?.success(), "{}", server.log());

    let identity = data.join("identity");
    let text = fs::read_to_string(&identity)?;
    let rest = text.strip_prefix("conclave-data 1 ").expect("the first format");
    fs::write(&identity, format!("conclave-data 2 {rest}"))?;
    says(&refuse(Kind::Conclave, &data, &[], &[])?, &["has format 2", "this version reads up to 1"]);
    fs::write(&identity, &text)?;
    Server::start(Kind::Conclave, &options)?;
    Ok(())
}

#[test]
fn port_in_use() -> Result<()> {
    let taken = TcpListener::bind("127.0.0.1:0")?;
    let folder = tempfile::tempdir()?;
    let flag = format!("--listen-client-urls=http://{}", taken.local_addr()?);
    for kind in [Kind::Etcd, Kind::Conclave] {
        let ended = refuse(kind, &folder.path().join(kind.name()), &[&flag], &[])?;
        says(&ended, &["address already in use", &taken.local_addr()?.to_string()]);
    }
    Ok(())
}

#[tokio::test]
async fn requests_that_are_refused() -> Result<()> {
    let server = Server::start(Kind::Conclave, &Options::default())?;
    let mut client = Client::connect(&server.url()).await?;
    let put = |key: &str, size| pb::PutRequest {
        key: Bytes::copy_from_slice(key.as_bytes()),
        value: vec![0; size].into(),
        ..Default::default()
    };
    let status = client.kv.put(put("", 1)).await.expect_err("an empty key");
    assert_eq!((status.code(), status.message()), (tonic::Code::InvalidArgument, "etcdserver: key is not provided"));
    let status = client.kv.put(put("k", 1_600_000)).await.expect_err("too large");
    assert_eq!((status.code(), status.message()), (tonic::Code::InvalidArgument, "etcdserver: request is too large"));
    let status = client.kv.put(put("k", 3_000_000)).await.expect_err("too large for the transport");
    assert_eq!(status.code(), tonic::Code::ResourceExhausted);
    assert!(status.message().starts_with("grpc: received message larger than max ("), "{}", status.message());
    let op = pb::RequestOp { request: Some(Request::RequestPut(put("k", 1))) };
    let txn = pb::TxnRequest { success: vec![op; 129], ..Default::default() };
    let status = client.kv.txn(txn).await.expect_err("too many operations");
    assert_eq!(status.message(), "etcdserver: too many operations in txn request");
    client.kv.put(put("k", 1)).await?;
    Ok(())
}

/// Whatever comes in at the port, the connection is answered or closed, and the next client is served.
#[tokio::test]
async fn garbage_on_the_port() -> Result<()> {
    const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";
    let server = Server::start(Kind::Conclave, &Options::default())?;
    let long = vec![b'x'; 1 << 20];
    let endless_header = [b"GET / HTTP/1.1\r\nx: ".as_slice(), &long].concat();
    let cases: Vec<Vec<u8>> = vec![
        b"\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0".to_vec(),
        b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03 a TLS hello".to_vec(),
        b"GET /no/such/path HTTP/1.1\r\nhost: x\r\n\r\n".to_vec(),
        b"GET / HTTP/9.9\r\n\r\n".to_vec(),
        b"POST /etcdserverpb.KV/Range HTTP/1.1\r\nhost: x\r\ncontent-length: 5\r\n\r\nhello".to_vec(),
        endless_header,
        PREFACE[..10].to_vec(),
        PREFACE.to_vec(),
        [PREFACE, &[0xff; 64][..]].concat(),
        [PREFACE, b"\xff\xff\xff\x01\x05\x00\x00\x00\x01"].concat(),
        [PREFACE, b"\0\0\0\x04\0\0\0\0\0", b"\0\0\x10\x01\x05\0\0\0\x01garbage in hpack"].concat(),
        long.clone(),
    ];
    for case in &cases {
        let mut stream = TcpStream::connect(server.client)?;
        stream.set_read_timeout(Some(Duration::from_secs(10)))?;
        // The server may close before all of it is written.
        let _ = stream.write_all(case);
        let _ = stream.shutdown(std::net::Shutdown::Write);
        let mut answer = Vec::new();
        let _ = Read::take(&mut stream, 1 << 20).read_to_end(&mut answer);
    }
    let mut client = Client::connect(&server.url()).await?;
    client.kv.put(pb::PutRequest { key: "still".into(), value: "there".into(), ..Default::default() }).await?;
    Ok(())
}
