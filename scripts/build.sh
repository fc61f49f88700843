#!/usr/bin/env bash
# Builds the release binaries and says where they are.
set -euo pipefail
cd "$(dirname "$0")/.."
. scripts/env.sh
cargo build --release --locked -p conclave-server >&2
echo "${CARGO_TARGET_DIR:-$PWD/target}/release/conclave"
