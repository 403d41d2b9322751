# `make run` and `make test` install missing tools and need no database server. If DATABASE_URL is set, `make run` uses that
# database.

# rustup's cargo takes precedence over a system cargo that is too old for Cargo.toml.
export PATH := $(HOME)/.cargo/bin:$(PATH)
# Tests mostly wait for processes: two for each core.
TEST_THREADS := $(shell expr 2 \* $$(getconf _NPROCESSORS_ONLN))
# These targets start their own PostgreSQL and ignore DATABASE_URL.
test torture siege screenshots check sqlx bench bench-growth bench-compare: export DATABASE_URL :=

.PHONY: help run demo test torture siege screenshots fuzz bench bench-growth bench-compare check sqlx clean remove-data
.DEFAULT_GOAL := help

help: ## show this list
	@sed -n 's/^\([a-z-]*\):.*## \(.*\)/\1\t\2/p' Makefile | awk -F'\t' '{ printf "make %-14s %s\n", $$1, $$2 }'

run: tools ## start the receiver with a private PostgreSQL; Ctrl-C stops it; ARGS="--config FILE"
	cargo run --profile quick --locked -- $(ARGS)

demo: tools ## start a receiver with separate data, and a stand-in for each::labs that sends webhooks; prints what to try; LOGIN=1: with tokens
	cargo build --profile quick --locked -p workflow-receiver -p sender-stand-in
	@target/quick/sender-stand-in demo target/quick/workflow-receiver

test: tools proxies browser ## run all tests, with a private PostgreSQL
	RUST_TEST_THREADS=$(or $(RUST_TEST_THREADS),$(TEST_THREADS)) cargo test --locked --workspace

torture: tools ## inject each fault 100 times (TORTURE_TIMES) under load, then check that no delivery was lost
	TORTURE_TIMES=$(or $(TORTURE_TIMES),100) cargo test --locked --test it torture -- --nocapture

siege: tools ## send a million generated requests (SIEGE_REQUESTS): no panic, no leak, no unexpected row
	SIEGE_REQUESTS=$(or $(SIEGE_REQUESTS),1000000) cargo test --locked --test it siege -- --nocapture

bench: tools ## compare speed with other receivers: one hour, 25 GB; QUICK=1: 5 minutes; ONLY="speed latency": a part
	bench/install
	python3 bench/run.py $(if $(QUICK),--quick) $(ONLY)

bench-growth: tools ## benchmark with millions of recorded executions
	bench/install
	python3 bench/run.py $(if $(QUICK),--quick) growth

screenshots: tools browser ## update the images of the README (docs/images)
	mkdir -p docs/images
	SCREENSHOTS=$(CURDIR)/docs/images cargo test --locked --test it the_pages_in_the_readme

bench-compare: tools ## compare this build with another one: BEFORE=PROGRAM; five rounds of a minute
	bench/install
	python3 bench/compare.py $(BEFORE)

fuzz: tools ## run each fuzz target for FUZZ_SECONDS (60), with the inputs of earlier runs
	scripts/fuzz

check: tools ## run all checks of CI except the tests
	scripts/check

sqlx: tools ## update .sqlx after a change of a query or a migration
	scripts/sqlx-prepare

.PHONY: tools proxies browser
tools:
	@scripts/install-tools

proxies:
	@scripts/install-tools proxies

browser:
	@scripts/install-tools browser

clean: ## remove build output; recorded data and the spool are kept
	cargo clean
	rm -rf .postgresql

remove-data: ## delete the data of `make run` and `make demo`, after a confirmation
	@scripts/remove-data
