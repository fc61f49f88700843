#!/usr/bin/env bash
# Runs the simulator: `SEED=17 make sim` replays one seed with its trace, without SEED a hundred fresh ones are run.
set -euo pipefail
cd "$(dirname "$0")/.."
. scripts/env.sh
if [ -n "${SEED:-}" ]; then set -- --seed "$SEED" --turns "${TURNS:-8000}" --trace; else set -- --from "$(date +%s)" --turns "${TURNS:-8000}"; fi
cargo run --quiet --locked -p conclave-tests --bin sim -- "$@"
