use std::time::Duration;

use super::{
    Asked, Config, Mode, StartError, completion,
    flags::{FLAGS, Kind, Standing},
    help, read, value, version,
};

fn ask(arguments: &[&str], environment: &[(&str, &str)]) -> Result<Asked, StartError> {
    read(
        arguments.iter().map(|argument| (*argument).to_owned()),
        environment.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())),
    )
}

fn config(arguments: &[&str]) -> Config {
    match ask(arguments, &[]) {
        Ok(Asked::Serve(config)) => *config,
        other => panic!("{arguments:?}: {other:?}"),
    }
}

fn refusal(arguments: &[&str]) -> (String, bool) {
    let error = ask(arguments, &[]).unwrap_err();
    (error.text, error.usage)
}

fn warnings(config: &Config) -> Vec<&str> {
    config.notes.iter().filter(|note| note.warning).map(|note| note.about.1.as_str()).collect()
}

/// Every flag that etcd 3.7.1 defines, from its `config.go`.
const ETCD: &str = "advertise-client-urls auth-token auth-token-ttl auto-compaction-mode auto-compaction-retention \
    auto-tls backend-batch-interval backend-batch-limit backend-bbolt-freelist-type bcrypt-cost \
    bootstrap-defrag-threshold-megabytes cert-file cipher-suites client-cert-allowed-hostname client-cert-auth \
    client-cert-file client-crl-file client-key-file compact-hash-check-time compaction-batch-limit \
    compaction-sleep-interval config-file corrupt-check-time cors data-dir discovery discovery-cacert discovery-cert \
    discovery-dial-timeout discovery-endpoints discovery-fallback discovery-insecure-skip-tls-verify \
    discovery-insecure-transport discovery-keepalive-time discovery-keepalive-timeout discovery-key \
    discovery-password discovery-proxy discovery-request-timeout discovery-srv discovery-srv-name discovery-token \
    discovery-user distributed-tracing-address distributed-tracing-instance-id distributed-tracing-sampling-rate \
    distributed-tracing-service-name downgrade-check-time election-timeout enable-distributed-tracing \
    enable-grpc-gateway enable-log-rotation enable-pprof feature-gates force-new-cluster grpc-keepalive-interval \
    grpc-keepalive-min-time grpc-keepalive-timeout heartbeat-interval host-whitelist initial-advertise-peer-urls \
    initial-cluster initial-cluster-state initial-cluster-token initial-election-tick-advance key-file \
    listen-client-http-urls listen-client-urls listen-metrics-urls listen-peer-urls log-format log-level log-outputs \
    log-rotation-config-json logger max-concurrent-streams max-learners max-request-bytes max-snapshots max-txn-ops \
    max-wals memory-mlock metrics name peer-auto-tls peer-cert-allowed-cn peer-cert-allowed-hostname peer-cert-file \
    peer-client-cert-auth peer-client-cert-file peer-client-key-file peer-crl-file peer-key-file \
    peer-skip-client-san-verification peer-trusted-ca-file pre-vote quota-backend-bytes raft-read-timeout \
    raft-write-timeout self-signed-cert-validity snapshot-catchup-entries snapshot-count socket-reuse-address \
    socket-reuse-port strict-reconfig-check tls-max-version tls-min-version trusted-ca-file unsafe-no-fsync \
    v2-deprecation version wal-dir warning-apply-duration warning-unary-request-duration \
    watch-progress-notify-interval";

#[test]
fn every_flag_of_etcd() {
    for name in ETCD.split_whitespace() {
        let flag = FLAGS.iter().find(|flag| flag.name == name).unwrap_or_else(|| panic!("{name} is missing"));
        assert!(flag.variable().starts_with("ETCD_"), "{name}");
    }
    let own = FLAGS.iter().filter(|flag| flag.variable().starts_with("CONCLAVE_")).count();
    assert_eq!(FLAGS.len() - own, ETCD.split_whitespace().count(), "a flag that etcd does not have");
}

#[test]
fn every_default_parses_and_is_no_reason_to_warn() {
    for flag in FLAGS.iter().filter(|flag| !matches!(flag.name, "version" | "listen-client-urls")) {
        let config = config(&["--name=a", &format!("--{}={}", flag.name, flag.default)][..]);
        assert!(warnings(&config).len() <= usize::from(flag.name == "name"), "{}: {:?}", flag.name, config.notes);
    }
}

#[test]
fn names() {
    let config = config(&[]);
    assert_eq!(config.name, "default");
    assert_eq!(config.data_dir.to_str(), Some("default.etcd"));
    assert_eq!(config.listen_client[0].to_string(), "http://localhost:2379");
    assert_eq!(config.max_request_bytes, 1_572_864);
    assert_eq!(config.quota_bytes, 2_147_483_648);
    assert_eq!(config.election_timeout, Duration::from_secs(1));
    assert_eq!(config.keepalive_interval, Some(Duration::from_secs(7200)));
    assert_eq!(config.initial_cluster.unwrap().keys().collect::<Vec<_>>(), ["default"]);
}

#[test]
fn the_ways_to_write_a_flag() {
    for arguments in [&["--name=n"][..], &["--name", "n"], &["-name=n"], &["-name", "n"]] {
        let config = config(arguments);
        assert_eq!(config.name, "n");
        assert_eq!(config.data_dir.to_str(), Some("n.etcd"));
    }
    assert!(config(&["--socket-reuse-port"]).reuse_port);
    assert!(!config(&["--socket-reuse-port=F"]).reuse_port);
    assert_eq!(config(&["--name=a=b"]).name, "a=b");
    assert_eq!(config(&["--name", "--x"]).name, "--x");
}

#[test]
fn start_lines_that_cannot_be_read() {
    assert_eq!(refusal(&["--foo"]), ("flag provided but not defined: -foo".to_owned(), true));
    assert_eq!(
        refusal(&["--data-dri=x"]),
        ("flag provided but not defined: -data-dri (did you mean -data-dir?)".to_owned(), true)
    );
    assert_eq!(refusal(&["--name"]), ("flag needs an argument: -name".to_owned(), true));
    assert_eq!(
        refusal(&["--max-txn-ops=x"]),
        ("invalid value \"x\" for flag -max-txn-ops: parse error".to_owned(), true)
    );
    assert_eq!(refusal(&["---name"]), ("bad flag syntax: ---name".to_owned(), true));
    assert_eq!(refusal(&["bar"]), ("\"bar\" is not a valid flag".to_owned(), false));
    // A boolean takes no separate value.
    assert_eq!(refusal(&["--pre-vote", "false"]), ("\"false\" is not a valid flag".to_owned(), false));
    assert_eq!(refusal(&["--", "x"]), ("\"x\" is not a valid flag".to_owned(), false));
    assert!(refusal(&["--log-format=xml"]).0.contains("must be one of json, console"));
}

#[test]
fn values_that_are_refused() {
    let says = |argument: &str, text: &str| {
        let (refused, usage) = refusal(&[argument]);
        assert!(refused.contains(text), "{argument}: {refused}");
        assert!(!usage || refused.starts_with("invalid value"), "{argument}: {refused}");
    };
    says("--cert-file=x", "TLS is not available");
    says("--client-cert-auth", "TLS is not available");
    says("--auth-token=jwt", "authentication is not available");
    says("--config-file=x", "configuration files are not available");
    says("--listen-client-urls=http://127.0.0.1:1", "--advertise-client-urls is required");
    says("--listen-peer-urls=http://example.com:1", "expected IP in URL for binding (http://example.com:1)");
    says("--listen-peer-urls=http://:1", "expected IP in URL for binding");
    says("--listen-peer-urls=http://1.2.3.4", "does not have the form \"host:port\"");
    says("--listen-peer-urls=http://1.2.3.4:1/x", "must not contain a path");
    says("--listen-peer-urls=1.2.3.4:1", "URL scheme must be");
    says("--listen-peer-urls=https://1.2.3.4:1", "TLS is not available");
    says("--advertise-client-urls=http://:1", "unexpected empty host");
    says("--heartbeat-interval=0", "--heartbeat-interval must be >0");
    says("--election-timeout=499", "at least as 5 times");
    says("--election-timeout=50001", "too long");
    says("--max-request-bytes=0", "must be from 1");
    says("--reader-threads=0", "must be from 1 to 1024");
    says("--memtable-bytes=999999999999", "must not be larger");
    says("--log-outputs=/var/log/x", "only default, stderr and stdout");
    says("--wal-dir=/x", "mount the fast disk");
}

/// etcd looks at the initial cluster only when there is no member in the data directory.
#[test]
fn what_is_wrong_with_the_initial_cluster_waits() {
    let says = |argument: &str, text: &str| {
        let refused = config(&["--name=default", argument]).initial_cluster.unwrap_err();
        assert!(refused.contains(text), "{argument}: {refused}");
    };
    says("--initial-cluster=a=http://a:1", "couldn't find local name \"default\"");
    says("--initial-cluster=default=http://a:1", "--initial-advertise-peer-urls is http://localhost:2380");
    says("--initial-cluster=default", "not of the form name=URL");
    says("--initial-cluster=default=https://localhost:2380", "TLS is not available");
    let three = "--initial-cluster=c=http://c:1,default=http://localhost:2380,b=http://b:2,b=http://b:1";
    let members = config(&[three]).initial_cluster.unwrap();
    assert_eq!(members.keys().collect::<Vec<_>>(), ["b", "c", "default"]);
    assert_eq!(super::join(&members["b"]), "http://b:1,http://b:2");
}

#[test]
fn modes() {
    let mode = |arguments: &[&str]| config(arguments).mode;
    assert_eq!(mode(&[]), Mode::New);
    assert_eq!(mode(&["--initial-cluster-state=existing"]), Mode::Existing);
    assert_eq!(mode(&["--bootstrap"]), Mode::Bootstrap);
    assert_eq!(mode(&["--bootstrap=false"]), Mode::New);
    assert_eq!(mode(&["--resume", "--initial-cluster-state=existing"]), Mode::Resume { cluster: None, member: None });
    let expected = ["--resume", "--expect-cluster-id=cdf818194e3a8c32", "--expect-member-id=0x8e9e05c52164694d"];
    assert_eq!(
        mode(&expected),
        Mode::Resume { cluster: Some(0xcdf8_1819_4e3a_8c32), member: Some(0x8e9e_05c5_2164_694d) }
    );
    assert!(matches!(mode(&["--join=http://a:1,http://b:2"]), Mode::Join(urls) if urls.len() == 2));
    let says = |arguments: &[&str], text: &str| {
        let (refused, _) = refusal(arguments);
        assert!(refused.contains(text), "{arguments:?}: {refused}");
    };
    says(&["--bootstrap", "--resume"], "--bootstrap and --resume exclude each other");
    says(&["--bootstrap", "--resume", "--join=http://a:1"], "--bootstrap and --join and --resume exclude");
    says(&["--bootstrap", "--initial-cluster-state=existing"], "--bootstrap makes a new cluster");
    says(&["--expect-member-id=1"], "belong to --resume");
    says(&["--resume", "--expect-member-id=xyz"], "not an id in hexadecimal");
    says(&["--resume", "--expect-cluster-id=0"], "not an id in hexadecimal");
    says(&["--join=a:1"], "URL scheme must be");
    says(&["--join=http://:1"], "unexpected empty host");
}

#[test]
fn patience_with_members_has_a_least() {
    let config = config(&["--raft-read-timeout=1s", "--raft-write-timeout=7s"]);
    assert_eq!((config.raft_read_timeout.as_secs(), config.raft_write_timeout.as_secs()), (5, 7));
}

#[test]
fn flags_without_effect_are_warned_about() {
    let config = config(&["--name=a", "--max-wals=7", "--unsafe-no-fsync", "--feature-gates=InitialCorruptCheck=true"]);
    let expected = ["--max-wals=7", "--unsafe-no-fsync=true", "--feature-gates=InitialCorruptCheck=true"];
    let warned = warnings(&config);
    assert_eq!(warned.len(), 3);
    assert!(expected.iter().all(|flag| warned.contains(flag)), "{warned:?}");
}

#[test]
fn the_environment() {
    let environment = [
        ("ETCD_NAME", "e"),
        ("ETCD_ON_K8S", "yes"),
        ("ETCD_MAX_TXN_OPS", ""),
        ("ETCD_VERSION", "3.5"),
        ("CONCLAVE_MAX_CONNECTIONS", "7"),
        ("HOME", "/"),
    ];
    let Ok(Asked::Serve(config)) = ask(&[], &environment) else { panic!("it serves") };
    assert_eq!((config.name.as_str(), config.max_txn_ops, config.max_connections), ("e", 128, 7));
    assert_eq!(warnings(&config), ["ETCD_ON_K8S=yes", "ETCD_VERSION"]);
    let bad = ask(&[], &[("ETCD_MAX_TXN_OPS", "x")]).unwrap_err();
    assert_eq!(bad.text, "invalid value \"x\" for ETCD_MAX_TXN_OPS: parse error");
}

#[test]
fn conflict() {
    let error = ask(&["--name=a"], &[("ETCD_NAME", "a")]).unwrap_err();
    assert!(error.text.starts_with("conflicting environment variable is shadowed by corresponding command-line flag"));
    assert!(!error.usage);
}

#[test]
fn kubeadm() {
    let mut config = config(&[
        "--advertise-client-urls=http://10.0.0.1:2379",
        "--data-dir=/var/lib/etcd",
        "--feature-gates=InitialCorruptCheck=true",
        "--initial-advertise-peer-urls=http://10.0.0.1:2380",
        "--initial-cluster=cp1=http://10.0.0.1:2380",
        "--listen-client-urls=http://127.0.0.1:2379,http://10.0.0.1:2379",
        "--listen-metrics-urls=http://127.0.0.1:2381",
        "--listen-peer-urls=http://10.0.0.1:2380",
        "--name=cp1",
        "--snapshot-count=10000",
        "--watch-progress-notify-interval=5s",
    ]);
    assert_eq!(config.watch_progress_interval, Duration::from_secs(5));
    assert_eq!(config.listen_client.len(), 2);
    assert_eq!(config.listen_metrics.remove(0).to_string(), "http://127.0.0.1:2381");
}

#[test]
fn go_values() {
    assert_eq!(value::number("0x10"), Some(16));
    assert_eq!(value::number("010"), Some(8));
    assert_eq!(value::number("1_000"), Some(1000));
    assert_eq!(value::number("-1"), None);
    assert_eq!(value::number("+1"), None);
    assert_eq!(value::number(""), None);
    assert_eq!(value::signed("-5"), Some(-5));
    assert_eq!(value::signed("-9223372036854775808"), Some(i64::MIN));
    assert_eq!(value::signed("9223372036854775808"), None);
    assert_eq!(value::duration("1h2m3.5s"), Some(Duration::from_millis(3_723_500)));
    assert_eq!(value::duration("300ms"), Some(Duration::from_millis(300)));
    assert_eq!(value::duration("1.5us"), Some(Duration::from_nanos(1500)));
    assert_eq!(value::duration("2µs"), Some(Duration::from_micros(2)));
    assert_eq!(value::duration("0"), Some(Duration::ZERO));
    for bad in
        ["", "5", "s", "-1s", "1x", "1.2.3s", ".s", "1s2", "99999999999h", "99999999999999999999999999999999999999999h"]
    {
        assert_eq!(value::duration(bad), None, "{bad:?}");
    }
}

#[test]
fn what_is_printed() {
    let help = help();
    for flag in FLAGS {
        assert!(help.contains(&format!("  --{}", flag.name)), "{}", flag.name);
        if let Standing::Refused(why) | Standing::NoEffect(why) = flag.standing {
            assert!(help.contains(why));
        }
    }
    let lines = version("3.7.1");
    let lines: Vec<&str> = lines.lines().collect();
    assert_eq!(lines[0], "etcd Version: 3.7.1");
    assert!(lines[1].starts_with("Git SHA: ") && lines[2].starts_with("Go Version: "));
    assert!(lines[3].starts_with("Go OS/Arch: linux/"));
    for shell in ["bash", "zsh", "fish"] {
        let script = completion(shell).unwrap();
        assert!(FLAGS.iter().all(|flag| script.contains(flag.name)), "{shell}");
    }
    assert_eq!(completion("tcsh"), None);
    assert!(FLAGS.iter().all(|flag| flag.kind != Kind::Bool || value::boolean(flag.default).is_some()));
}
