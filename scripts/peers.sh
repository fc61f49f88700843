#!/usr/bin/env bash
# Builds the real etcd, etcdctl and etcdutl (the oracle) and the load generator from the Go module in tests/peers, once,
# into a user cache, and prints the folder. The folder is named by what went into it; deleting it is always safe.
set -euo pipefail
cd "$(dirname "$0")/.."

cache=${CONCLAVE_CACHE:-${XDG_CACHE_HOME:-$HOME/.cache}/conclave}
say() { echo "peers: $*" >&2; }
go=$(scripts/setup.sh oracle)

name=$(cd tests/peers && { "$go" version; find . -type f \( -name '*.go' -o -name 'go.*' \) | LC_ALL=C sort | xargs sha256sum; } | sha256sum | cut -c1-16)
out=$cache/peers-$name
if [ -x "$out/etcd" ] && [ -x "$out/killat" ]; then
  echo "$out"
  exit 0
fi

mkdir -p "$cache"
work=$(mktemp -d "$cache/peers-build.XXXXXX")
trap 'rm -rf "$work"' EXIT
say "building etcd, etcdctl, etcdutl and loadgen (once; kept in $out)"
started=$SECONDS
(cd tests/peers && CGO_ENABLED=0 "$go" build -trimpath -o "$work/" ./etcd ./loadgen ./descriptors ./killat) >&2
ln -s etcd "$work/etcdctl"
ln -s etcd "$work/etcdutl"
# Two builds at once are harmless: the first to rename wins, the other's folder is the same.
mv -T "$work" "$out" 2>/dev/null || [ -x "$out/etcd" ]
say "done in $((SECONDS - started)) s"
echo "$out"
