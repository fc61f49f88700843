#!/usr/bin/env bash
# Builds, and serves one member with its data in a folder that stays: CONCLAVE_DATA, by default ./data.
#
# More flags go to conclave: `scripts/run.sh --log-level=debug`.
set -euo pipefail
cd "$(dirname "$0")/.."
conclave=$(scripts/build.sh)
data=${CONCLAVE_DATA:-$PWD/data}

etcdctl=etcdctl
command -v etcdctl >/dev/null || etcdctl='$(scripts/peers.sh)/etcdctl'
cat >&2 <<TEXT

One member serves clients on http://127.0.0.1:2379, data in $data; Ctrl-C stops it. In another terminal:
    curl http://127.0.0.1:2379/health
    $etcdctl put greeting hello
    $etcdctl get --prefix greet

TEXT
exec "$conclave" --data-dir="$data" --log-format=console "$@"
