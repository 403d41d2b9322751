# `make run` and `make test` need nothing but this checkout: what is missing is installed.
# A database server is not needed; DATABASE_URL, if set, is what `make run` records to.

# Wins over any cargo that is older than Cargo.toml asks for, once rustup is there.
export PATH := $(HOME)/.cargo/bin:$(PATH)
# The tests run on the PostgreSQL they start, whatever this shell is set up for.
test torture siege check sqlx bench bench-growth: export DATABASE_URL :=

.PHONY: help run test torture siege fuzz bench bench-growth check sqlx clean remove-data
.DEFAULT_GOAL := help

help: ## this list
	@sed -n 's/^\([a-z-]*\):.*## \(.*\)/\1\t\2/p' Makefile | awk -F'\t' '{ printf "make %-14s %s\n", $$1, $$2 }'

run: tools ## start the receiver on its own PostgreSQL; Ctrl-C stops it; ARGS="--config FILE"
	cargo run --release --locked -- $(ARGS)

test: tools ## all tests, on a PostgreSQL of their own
	cargo test --locked --workspace

torture: tools ## the oracle at length: everything is killed 100 times (TORTURE_TIMES), nothing may be lost
	TORTURE_TIMES=$(or $(TORTURE_TIMES),100) cargo test --locked --test it torture -- --nocapture

siege: tools ## a million generated requests (SIEGE_REQUESTS): no panic, no leak, no row that nobody sent
	SIEGE_REQUESTS=$(or $(SIEGE_REQUESTS),1000000) cargo test --locked --test it siege -- --nocapture

bench: tools ## beside its limits and its peers, an hour and 25 GB; QUICK=1: 5 minutes; ONLY="speed latency": a part
	bench/install
	python3 bench/run.py $(if $(QUICK),--quick) $(ONLY)

bench-growth: tools ## the part with millions of executions recorded already
	bench/install
	python3 bench/run.py $(if $(QUICK),--quick) growth

fuzz: tools ## each fuzz target for FUZZ_SECONDS (60), on from what was found before
	scripts/fuzz

check: tools ## what CI checks beside the tests
	scripts/check

sqlx: tools ## after a change of a query or a migration: write .sqlx anew
	scripts/sqlx-prepare

.PHONY: tools
tools:
	@scripts/install-tools

clean: ## remove what was built; recorded data and the spool stay
	cargo clean
	rm -rf .postgresql

remove-data: ## delete the spool and the private PostgreSQL of `make run`, after asking
	@scripts/remove-data
