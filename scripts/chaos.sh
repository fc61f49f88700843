#!/usr/bin/env bash
# Real members under kills, pauses and partitions: `make chaos KILLS=500`, or SEED and MEMBERS as a failing run printed them.
# As root, members get network namespaces of their own; otherwise proxies. Folders and logs of a failing round are kept.
set -euo pipefail
cd "$(dirname "$0")/.."
. scripts/env.sh
scripts/setup.sh chaos
# Without a number of kills: three minutes.
[ -n "${KILLS:-}" ] && set -- --kills "$KILLS" "$@" || set -- --seconds 180 "$@"
set -- ${SEED:+--seed "$SEED"} ${MEMBERS:+--members "$MEMBERS"} "$@"
cargo run --quiet --locked -p conclave-tests --bin chaos -- "$@"
