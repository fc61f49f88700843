#!/usr/bin/env bash
# Runs the simulator against each planted defect until it is found; prints after how many seeds.
set -euo pipefail
cd "$(dirname "$0")/.."
. scripts/env.sh
export CARGO_PROFILE_DEV_OPT_LEVEL=1
cargo run --quiet --locked -p conclave-tests --features mutants --bin mutants -- --from "${SEED:-$(date +%s)}" --seeds "${SEEDS:-200}"
