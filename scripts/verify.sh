#!/usr/bin/env bash
# The long proofs. What this finds and `make test` does not is rare, and worth the wait.
set -euo pipefail
cd "$(dirname "$0")/.."
scripts/lint.sh
. scripts/env.sh
PATH=$(dirname "$(scripts/setup.sh oracle)"):$PATH
export PATH

deny=$(scripts/setup.sh deny)
"$deny" --locked check --hide-inclusion-graph bans licenses sources
echo "step passed: bans, licenses, sources"
# Advisories need a database that not every machine can fetch: checked where one is present.
if [ -d "${CARGO_HOME:-$HOME/.cargo}/advisory-dbs" ]; then
  "$deny" --locked check --disable-fetch advisories
  echo "step passed: advisories"
fi

# Tests marked `#[ignore = "long: …"]`.
cargo test --locked --workspace -- --ignored

# 100,000 operations, a script that was not seen before; its seed is printed, and printed again with a difference.
seed=${CONCLAVE_SEED:-$(date +%s)}
cargo run --quiet --locked -p conclave-tests --bin differential -- --ops 100000 --seed "$seed"
echo "step passed: differential, seed $seed"
