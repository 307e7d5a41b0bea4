# The two commands to know: `make quickstart` and `make test`. CI runs exactly `make test`.
#
# Everything is built in one profile (release), so that RocksDB is compiled once for the binary, the
# tests and the benches, and outside the checkout, so that another checkout does not pay again.

export CARGO_TARGET_DIR ?= $(or $(XDG_CACHE_HOME),$(HOME)/.cache)/esker/target
ESKER = $(CARGO_TARGET_DIR)/release/esker
CARGO = cargo
NEXTEST = $(shell command -v cargo-nextest 2>/dev/null)

.PHONY: help
help: ## Show the targets
	@grep -hE '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | sed 's/:.*## /\t/' | column -t -s "$$(printf '\t')"

.PHONY: build-tools
build-tools:
	@sh scripts/install-build.sh

.PHONY: servers
servers:
	@sh scripts/install-servers.sh

.PHONY: material
material: servers
	@bash scripts/roundtrip.sh short

.PHONY: build
build: build-tools ## Build the esker command
	$(CARGO) build --release --workspace

.PHONY: quickstart
quickstart: build-tools ## Build, then back up and restore a tree, a stream and a live Redis
	$(CARGO) build --release --package cli
	@bash scripts/quickstart.sh "$(ESKER)"

.PHONY: test
test: build-tools servers material lint docs ## Install the servers that tests use, then run every check and test
	$(CARGO) build --release --workspace --all-targets
	$(CARGO) check --release --package chunkstore --no-default-features
	$(CARGO) test --release --workspace --doc --quiet
ifeq ($(NEXTEST),)
	$(CARGO) test --release --workspace --lib --bins --tests
else
	$(CARGO) nextest run --cargo-profile release --workspace
endif

.PHONY: lint
lint: build-tools ## rustfmt and clippy, warnings are errors
	$(CARGO) fmt --all --check
	$(CARGO) clippy --release --workspace --all-targets --quiet -- -D warnings

.PHONY: docs
docs: build-tools ## Build the API documentation, warnings are errors
	RUSTDOCFLAGS="-D warnings" $(CARGO) doc --release --workspace --no-deps --document-private-items --quiet

.PHONY: deny
deny: ## Check licences, bans, sources and advisories of dependencies (needs cargo-deny and a network)
	cargo deny check

.PHONY: bench
bench: build-tools ## Measure every stage (criterion)
	$(CARGO) bench --package benches

CORPORA ?= $(or $(XDG_CACHE_HOME),$(HOME)/.cache)/esker/corpora
RUNS ?= 5
SERVERS ?= $(or $(ESKER_TEST_SERVERS),$(or $(XDG_CACHE_HOME),$(HOME)/.cache)/esker/servers)
CHUNKS ?= 100000000

.PHONY: corpora
corpora: servers ## Make the data that benchmarks run over (25 GB, 10 minutes)
	python3 benches/corpora.py "$(CORPORA)" pg redis kernel random small

.PHONY: bench-compare
bench-compare: build-tools corpora ## Compare with restic, borg, rustic and bupstash, whichever are on PATH
	$(CARGO) build --release --package cli
	python3 benches/compare.py "$(ESKER)" "$(CORPORA)" --runs $(RUNS)

.PHONY: bench-tiers
bench-tiers: build-tools servers ## Compare tier sync and restore with plain parallel transfers to the same store (2 GB of /dev/shm)
	$(CARGO) build --release --package cli
	$(CARGO) build --release --package benches --example plain
	python3 benches/tiers.py "$(ESKER)" "$(CARGO_TARGET_DIR)/release/examples/plain" "$(SERVERS)/weed" --runs $(RUNS)

.PHONY: bench-redis
bench-redis: build-tools servers ## What laying a Redis dump down in order costs and brings (1.4 million keys)
	$(CARGO) build --release --package cli
	python3 benches/redis.py "$(ESKER)" --runs $(RUNS)

.PHONY: bench-postgres
bench-postgres: build-tools servers ## A PostgreSQL of 2 GB by several sessions, against pg_dump into standard input
	$(CARGO) build --release --package cli
	python3 benches/postgres.py "$(ESKER)" --runs $(RUNS)

.PHONY: bench-index
bench-index: build-tools ## Build and ask a local index of CHUNKS chunks (16 GB of disk for the default)
	$(CARGO) run --release --package benches --example index -- $(CHUNKS) "$(CORPORA)/index"

SEEDS ?= 2000
CHAOS_SECONDS ?= 600

.PHONY: simulate
simulate: build-tools ## Run the engine in SEEDS simulated worlds; FIRST=n SEEDS=1 repeats one
	$(CARGO) run --release --package simulation --bin simulate -- --seeds $(SEEDS) --first $(or $(FIRST),0)

.PHONY: crash
crash: build-tools ## Kill every operation at every call to the store; fail, fill, cut, alter and hide there
	$(CARGO) test --release --package simulation --test crash -- --nocapture

.PHONY: damage
damage: build-tools ## Flip every byte and lose every object of small repositories
	$(CARGO) build --release --package cli
	$(CARGO) test --release --package simulation --test damage -- --nocapture
	$(CARGO) test --release --package tests --test it -- damage:: --nocapture

.PHONY: chaos
chaos: build-tools ## Eight backups, two prunes, a kill every other second, on disk and S3, CHAOS_SECONDS each
	$(CARGO) build --release --package cli
	ESKER_CHAOS_SECONDS=$(CHAOS_SECONDS) $(CARGO) test --release --package tests --test it -- chaos:: --nocapture

.PHONY: rough
rough: build-tools ## Forty nights on an S3 store that fails a fifth of all requests, cuts bodies and hides names
	$(CARGO) build --release --package cli
	ESKER_ROUGH_NIGHTS=40 $(CARGO) test --release --package tests --test it -- rough:: --nocapture

.PHONY: power
power: build-tools ## Cut the power at every write to a local disk, fail each, and fill the disk up at each
	$(CARGO) test --release --package simulation --test power -- --nocapture

.PHONY: roundtrip
roundtrip: build-tools servers ## Back up and restore databases that others wrote: regression tests of PostgreSQL and MariaDB, RDB files
	@bash scripts/roundtrip.sh
	$(CARGO) build --release --package cli
	ESKER_ROUNDTRIP_LARGE=1 $(CARGO) test --release --package tests --test it -- roundtrip:: --nocapture

FUZZ_SECONDS ?= 60

.PHONY: fuzz
fuzz: ## Every decoder under libFuzzer for FUZZ_SECONDS each (needs cargo-fuzz and a nightly toolchain)
	@sh scripts/fuzz.sh $(FUZZ_SECONDS)

.PHONY: disk
disk: build-tools ## Fill a small disk up, again and again (needs the right to mount)
	$(CARGO) build --release --package cli
	@scripts/disk.sh "$(ESKER)"

.PHONY: strace
strace: build-tools ## Fail and kill the real command at every call that makes something last (needs strace)
	$(CARGO) build --release --package cli
	@scripts/strace.sh "$(ESKER)"

SHARD ?= 0/15

.PHONY: mutants
mutants: build-tools ## Change the code in one place at a time, and see a test fail (needs cargo-mutants); SHARD of all
	python3 scripts/mutants.py $(SHARD)

.PHONY: golden
golden: build ## Make tests/golden/v1 anew, after the format changed
	bash scripts/golden.sh "$(ESKER)" tests/golden/v1
