use std::sync::Arc;

use bytes::Bytes;
use http::{Method, Request, Response, StatusCode};

use super::{Checks, Face, Http, MethodLabels, Shared, Versions, health::Selection};
use crate::{
    engine::EngineOptions,
    metrics::Calls,
    node::{Node, NodeConfig},
};

#[test]
fn paths_of_probes() {
    for known in ["livez", "readyz", "livez/serializable_read", "readyz/non_learner", "readyz/data_corruption"] {
        assert!(Selection::parse(known).is_some(), "{known}");
    }
    for unknown in ["", "live", "livez/", "livez/non_learner", "readyz/foo", "readyz/non_learner/x"] {
        assert!(Selection::parse(unknown).is_none(), "{unknown}");
    }
}

fn on_a_member(test: impl AsyncFnOnce(&Http)) {
    let dir = tempfile::tempdir().unwrap();
    let engine = EngineOptions { block_cache_bytes: 8 << 20, memtable_bytes: 4 << 20, ..Default::default() };
    let data = dir.path().join("data");
    let node =
        Node::start(NodeConfig::sole(data, "m", "http://localhost:2380", "http://localhost:2379", engine)).unwrap();
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    runtime.block_on(async {
        let shared = Shared {
            versions: Versions { server: "3.7.1", cluster: "3.7.0" },
            methods: vec![MethodLabels { service: "s", name: "m", shape: "unary" }],
            calls: vec![Arc::new(Calls::new(1)), Arc::new(Calls::new(1))],
            quota_bytes: 5,
            health: Checks::default(),
        };
        shared.calls[0].started(0);
        shared.calls[1].started(0);
        let http = Http::new(node.handle(), Arc::new(shared));
        // Reads that insist on everything acknowledged wait until there is a leader.
        http.read(false).await.unwrap();
        test(&http).await;
    });
    drop(runtime);
    node.stop();
}

async fn ask(http: &Http, method: Method, face: Face, path: &str) -> Response<Bytes> {
    http.call(face, Request::builder().method(method).uri(path).body(()).unwrap()).await
}

async fn get(http: &Http, path: &str) -> (u16, String) {
    let response = ask(http, Method::GET, Face::Client, path).await;
    (response.status().as_u16(), String::from_utf8(response.into_body().to_vec()).unwrap())
}

fn ok(body: &str) -> (u16, String) {
    (200, body.to_owned())
}

#[test]
fn bodies_are_those_of_etcd() {
    on_a_member(async |http| {
        let version = ok("{\"etcdserver\":\"3.7.1\",\"etcdcluster\":\"3.7.0\",\"storage\":\"3.7.0\"}");
        assert_eq!(get(http, "/version").await, version);
        assert_eq!(get(http, "/health").await, ok("{\"health\":\"true\",\"reason\":\"\"}"));
        assert_eq!(get(http, "/health?serializable=true&exclude=NOSPACE").await.0, 200);
        assert_eq!(get(http, "/livez").await, ok("ok\n"));
        assert_eq!(get(http, "/livez?verbose").await, ok("[+]serializable_read ok\nok\n"));
        assert_eq!(get(http, "/readyz/non_learner").await, ok("ok\n"));
        let but_one = "/readyz?verbose&exclude=non_learner&exclude=linearizable_read";
        assert_eq!(get(http, but_one).await, ok("[+]data_corruption ok\n[+]serializable_read ok\nok\n"));
        assert_eq!(get(http, "/readyz/foo").await, (404, "404 page not found\n".to_owned()));
        assert_eq!(get(http, "/v3/kv/range").await.0, 404);
    });
}

#[test]
fn only_get() {
    on_a_member(async |http| {
        for path in ["/version", "/health", "/livez", "/readyz/non_learner", "/metrics"] {
            let response = ask(http, Method::POST, Face::Client, path).await;
            assert_eq!(response.status(), StatusCode::METHOD_NOT_ALLOWED, "{path}");
            assert_eq!(response.headers()["allow"], "GET");
        }
        // The peers' port tells its version and nothing else.
        assert_eq!(ask(http, Method::GET, Face::Peer, "/version").await.status(), StatusCode::OK);
        assert_eq!(ask(http, Method::GET, Face::Peer, "/health").await.status(), StatusCode::NOT_FOUND);
    });
}

#[test]
fn metrics_that_dashboards_need() {
    on_a_member(async |http| {
        let _ = get(http, "/readyz").await;
        let (status, text) = get(http, "/metrics").await;
        assert_eq!(status, 200);
        for line in [
            "etcd_server_has_leader 1",
            "etcd_server_is_leader 1",
            "etcd_server_quota_backend_bytes 5",
            "etcd_server_version{server_version=\"3.7.1\"} 1",
            "etcd_cluster_version{cluster_version=\"3.7\"} 1",
            "etcd_debugging_mvcc_current_revision 1",
            "grpc_server_started_total{grpc_method=\"m\",grpc_service=\"s\",grpc_type=\"unary\"} 2",
            "etcd_server_healthchecks_total{type=\"readyz\",name=\"linearizable_read\",status=\"success\"} 1",
        ] {
            assert!(text.lines().any(|found| found == line), "{line}");
        }
        for name in [
            "etcd_server_leader_changes_seen_total",
            "etcd_server_proposals_pending",
            "etcd_disk_wal_fsync_duration_seconds_bucket",
            "etcd_mvcc_db_total_size_in_use_in_bytes",
            "process_resident_memory_bytes",
            "process_open_fds",
            "grpc_server_handled_total",
        ] {
            assert!(text.lines().any(|line| line.starts_with(name)), "{name}");
        }
    });
}
