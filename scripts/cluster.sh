#!/usr/bin/env bash
# Builds, and serves a cluster of three members on loopback with their data in folders that stay: CONCLAVE_DATA-1 to -3,
# by default ./data-1 to ./data-3. Ctrl-C stops all of them.
#
# Client ports are CONCLAVE_PORT, +10 and +20 (by default 2379, 2389, 2399), peer ports one above each. More flags go to
# every member.
set -euo pipefail
cd "$(dirname "$0")/.."
conclave=${CONCLAVE_BIN:-$(scripts/build.sh)}
data=${CONCLAVE_DATA:-$PWD/data}
port=${CONCLAVE_PORT:-2379}

client() { echo "http://127.0.0.1:$((port + 10 * ($1 - 1)))"; }
peer() { echo "http://127.0.0.1:$((port + 10 * ($1 - 1) + 1))"; }
members=m1=$(peer 1),m2=$(peer 2),m3=$(peer 3)
endpoints=$(client 1),$(client 2),$(client 3)

etcdctl=etcdctl
command -v etcdctl >/dev/null || etcdctl='$(scripts/peers.sh)/etcdctl'

pids=()
stop() {
  trap - INT TERM EXIT
  # Together: one after the other, the last would wait in vain for a quorum.
  [ ${#pids[@]} = 0 ] || kill -TERM "${pids[@]}" 2>/dev/null || true
  wait
}
trap stop INT TERM EXIT

for n in 1 2 3; do
  "$conclave" --name=m$n --data-dir="$data-$n" \
    --listen-client-urls="$(client $n)" --advertise-client-urls="$(client $n)" \
    --listen-peer-urls="$(peer $n)" --initial-advertise-peer-urls="$(peer $n)" \
    --initial-cluster="$members" --log-format=console "$@" 2> >(sed -u "s/^/m$n  /" >&2) &
  pids+=($!)
done

cat >&2 <<TEXT

Three members serve clients on $endpoints, data in $data-1 to $data-3; Ctrl-C stops them.
In another terminal:
    export ETCDCTL_ENDPOINTS=$endpoints
    $etcdctl put greeting hello
    $etcdctl endpoint status --write-out=table
    kill -9 ${pids[0]}    # the first member; the others go on. Bring it back with:
    $conclave --name=m1 --data-dir=$data-1 --listen-client-urls=$(client 1) --advertise-client-urls=$(client 1) --listen-peer-urls=$(peer 1)

TEXT
# One that ends is no reason to stop the others: that is what a cluster is for.
wait
