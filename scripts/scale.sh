#!/usr/bin/env bash
# A member with a million keys: memory, restart, and whether a compaction is felt. Arguments go to the scale program.
set -euo pipefail
cd "$(dirname "$0")/.."
. scripts/env.sh
cargo build --release --locked -p conclave-server
cargo run --release --locked -p conclave-tests --bin scale -- "$@"
