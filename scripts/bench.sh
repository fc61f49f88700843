#!/usr/bin/env bash
# One member of Conclave against one etcd 3.7.1, and three against three. Arguments go to the bench program: `scripts/bench.sh --only get --rounds 1`
# prints only; without arguments the tables in docs/benchmarks are written anew.
set -euo pipefail
cd "$(dirname "$0")/.."
. scripts/env.sh
. scripts/env-oracle.sh
cargo build --release --locked -p conclave-server
[ $# -gt 0 ] || set -- --out docs/benchmarks
cargo run --release --locked -p conclave-tests --bin bench -- "$@"
