# All targets: make help
SHELL := /bin/bash
.SHELLFLAGS := -euo pipefail -c
.DEFAULT_GOAL := help
.PHONY: help deps demo build test test-rust test-twin test-drivers test-learned mutants regress regress-suite sqlsmith sqlmap lint bench bench-rls bench-crowd bench-cache bench-audit bench-behaviour instructions fuzz

export CARGO_BUILD_JOBS ?= 2

# The build of `make demo` and `make test` is the same (profile dev, dependencies optimised): it is there in half the time of a
# release build, and the tour is not about speed. `make bench` measures a release build.
CARGO ?= cargo

help: ## list the targets
	@grep -hE '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | sed -E 's/^([a-z-]+):[^#]*## /\1\t/' | expand -t 14

deps: ## install what demo and tests need and this machine lacks (Debian: apt-get, with sudo)
	@.ci/deps build run test

build: ## build bulkhead (target/debug/bulkhead)
	@.ci/deps build
	$(CARGO) build --locked

demo: ## a throwaway PostgreSQL with three tenants, Bulkhead before it, a short tour; serves until Ctrl-C
	@.ci/deps build run
	$(CARGO) build --locked
	@exec target/debug/bulkhead demo

test: test-rust test-twin instructions mutants test-drivers ## everything, on servers that it starts itself

test-rust:
	@.ci/deps test
	$(CARGO) test --locked --no-fail-fast

# Its servers write to memory, where there is enough.
test-twin: ## generated statements, answered as if other tenants were not there (TWIN_STATEMENTS=50000, TWIN_SEED=1)
	@.ci/deps build run
	shm=$$(df --output=avail /dev/shm 2>/dev/null | tail -1); [ "$${shm:-0}" -lt 4000000 ] || export TMPDIR=/dev/shm; \
	$(CARGO) test --locked --release --test twin -- --nocapture

test-drivers:
	@.ci/deps test
	$(CARGO) build --locked
	python3 tests/drivers/run.py

test-learned: ## false denials of real clients that are held to what they were learned to say (LEARNED=3000000 statements; takes minutes)
	@.ci/deps test
	$(CARGO) build --locked --release
	BULKHEAD_BIN=target/release/bulkhead python3 tests/drivers/learned.py --statements $${LEARNED:-3000000}

mutants: ## break the program in each of the ways of src/mutants.rs and see a test fail (MUTANT=guard. for some of them)
	@.ci/deps build run redis
	RUSTC_WORKSPACE_WRAPPER=$(CURDIR)/tests/mutants/rustc $(CARGO) test --locked --test mutants -- --nocapture

# REGRESS=DIRECTORY: SQL files of one's own; ALL=1: every statement that is not read twice
regress: ## both parsers on PostgreSQL's own regression SQL (Debian's source package is fetched once)
	@.ci/deps build run
	$(CARGO) build --locked --example regress
	tests/regress/run $(REGRESS)

regress-suite: ## PostgreSQL's own regression suite as an unrestricted user: the output must be what it is without Bulkhead
	@.ci/deps build run
	$(CARGO) build --locked
	python3 tests/regress/suite.py

# SMITH="--queries 100000 --seed 3"
sqlsmith: ## statements that sqlsmith generates, as one tenant: no crash, no foreign byte, refusals by reason
	@.ci/deps build run smith
	$(CARGO) build --locked
	nice -n 10 python3 tests/sqlsmith/run.py $(SMITH)

# SQLMAP=--quick: one place, some minutes; SQLMAP="--places number,order --cap 60"; tests/sqlmap/run.py --help
sqlmap: ## what sqlmap gets out of an injectable application, through Bulkhead and directly: no foreign byte; writes tests/sqlmap/results.json (hours)
	@.ci/deps build run sqlmap
	$(CARGO) build --locked
	nice -n 10 python3 tests/sqlmap/run.py $(SQLMAP)

lint: ## format, clippy, licences and sources of dependencies
	@.ci/deps lint
	$(CARGO) fmt --check
	$(CARGO) clippy --locked --all-targets -- -D warnings
	@command -v cargo-deny >/dev/null || $(CARGO) install --locked cargo-deny
	$(CARGO) deny check bans licenses sources

# BENCH_SECONDS (one run, default 2), BENCH_PAIRS (rounds, default 9); see benches/run.py --help
bench: ## direct, PgBouncer and Bulkhead in alternation; writes benches/results.json, chart.svg and the table in README.md
	@.ci/deps bench
	$(CARGO) build --locked --release
	python3 benches/run.py

# UPDATE=1 writes what is counted to benches/instructions.json
bench-behaviour: ## what baselines of behaviour find in made-up traffic, beside naive rules: benches/results_behaviour.json (minutes)
	@.ci/deps build
	$(CARGO) run --locked --release --example behaviour -- --write

instructions: ## what a statement costs in instructions of user space and in allocations, by callgrind; fails where that has grown by more than 5 %
	@.ci/deps count
	$(CARGO) build --locked --release
	python3 benches/instructions.py $(if $(UPDATE),--update)

bench-rls: ## rewriting against PostgreSQL's row security; writes benches/results_rls.json and the table in README.md
	@.ci/deps bench
	$(CARGO) build --locked --release
	python3 benches/rls.py

bench-crowd: ## idle clients, a queue of 10,000, a greedy neighbour, logins, streams of 1 GiB; writes benches/results_crowd.json
	@.ci/deps bench
	$(CARGO) build --locked --release
	python3 benches/crowd.py

bench-cache: ## the result cache: hits beside PostgreSQL and a constant responder, what misses and writes cost, eviction on traces; writes benches/results_cache.json
	@.ci/deps bench redis
	$(CARGO) build --locked --release --bins --example responder --example eviction
	python3 benches/cache.py
	$(CARGO) run --locked --release --example eviction

bench-audit: ## what the audit log costs, under interval and under sync; writes benches/results_audit.json
	@.ci/deps bench
	$(CARGO) build --locked --release
	python3 benches/audit.py

SECONDS_EACH = $(if $(filter command line environment,$(origin SECONDS)),$(SECONDS),60)
fuzz: ## run each fuzz target for SECONDS=60 (TARGETS="frames lexer" for some of them)
	@.ci/deps fuzz
	tests/fuzz/run $(SECONDS_EACH) $(TARGETS)
