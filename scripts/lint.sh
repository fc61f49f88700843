#!/usr/bin/env bash
# What a review should not have to talk about.
set -euo pipefail
cd "$(dirname "$0")/.."
scripts/setup.sh lint
. scripts/env.sh
cargo fmt --all --check
cargo clippy --locked --workspace --all-targets -- -D warnings
cargo test --quiet --locked -p conclave-tests --test house
(cd tests/peers && go=$(../../scripts/setup.sh oracle) && [ -z "$("$(dirname "$go")/gofmt" -l .)" ]) || { echo "lint: gofmt tests/peers" >&2; exit 1; }
echo "step passed: lint"
