# Short names for the scripts that do the work. Each installs what it needs on a fresh Debian or Ubuntu (or says what to
# install), honours CARGO_TARGET_DIR, and may be run from anywhere with `make -C`.

.DEFAULT_GOAL := help
.PHONY: help run cluster build test verify sim mutants chaos lint bench scale format

help: ## What can be done here
	@echo 'Conclave: a coordination service that speaks the etcd v3 API.'
	@echo
	@sed -n 's/^\([a-z]*\):.*## /  make \1|/p' $(MAKEFILE_LIST) | awk -F'|' '{ printf "%-14s %s\n", $$1, $$2 }'
	@echo
	@echo 'First time here? `make run`, then in another terminal the three lines that it prints.'

run: ## Build and serve one member on 127.0.0.1:2379, data in ./data
	@scripts/run.sh

cluster: ## Build and serve three members on 127.0.0.1:2379, 2389 and 2399, data in ./data-1 to ./data-3
	@scripts/cluster.sh

build: ## Build release/conclave under CARGO_TARGET_DIR (default ./target)
	@scripts/build.sh

test: ## Everything that a newcomer should see pass (a few minutes)
	@scripts/test.sh

verify: ## The long proofs: lint, licences, simulation, crash points, 100,000 operations against etcd
	@scripts/verify.sh

sim: ## The simulator: SEED=17 replays one seed with its trace; without SEED, a hundred fresh ones
	@scripts/sim.sh

mutants: ## Put known defects back one by one: the simulator must find each of them
	@scripts/mutants.sh

lint: ## Formatting, clippy without a warning, rules of the house
	@scripts/lint.sh

chaos: ## Real members under kills, pauses and partitions: KILLS=500, or SEED and MEMBERS of a failing run
	@scripts/chaos.sh

bench: ## One member against one etcd 3.7.1, three against three, interleaved; writes docs/benchmarks
	@scripts/bench.sh

scale: ## A million keys: memory, restart, and whether a compaction is felt (several minutes)
	@scripts/scale.sh

format: ## Format everything
	@cargo fmt --all
