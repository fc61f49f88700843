#!/usr/bin/env bash
# All tests that are not marked as long. Arguments go to cargo test.
set -euo pipefail
cd "$(dirname "$0")/.."
. scripts/env.sh
. scripts/env-oracle.sh
# Tests start the real binary: built first, so that no test's time holds its build.
cargo build --locked -p conclave-server
cargo test --locked --workspace "$@"
