#!/usr/bin/env bash
# Runs the simulator: `make sim SEED=17` replays one seed with its trace (SIM_SECONDS and MEMBERS as they were printed),
# without SEED a hundred fresh ones are run.
set -euo pipefail
cd "$(dirname "$0")/.."
. scripts/env.sh
# Optimised a little: five times as fast, and built nearly as soon. Asserts and overflow checks stay on.
export CARGO_PROFILE_DEV_OPT_LEVEL=1
set -- --seconds "${SIM_SECONDS:-600}" ${MEMBERS:+--members "$MEMBERS"}
if [ -n "${SEED:-}" ]; then set -- "$@" --seed "$SEED" --trace; else set -- "$@" --from "$(date +%s)" --seeds "${SEEDS:-100}"; fi
cargo run --quiet --locked -p conclave-tests --bin sim -- "$@"
