# The commands to know: `make quickstart`, `make check` while you work, `make test` before you are done. CI runs exactly
# `make test`.
#
# Everything is built in one profile (release), so that RocksDB is compiled once for the binary, the
# tests and the benches, and outside the checkout, so that another checkout does not pay again.

export CARGO_TARGET_DIR ?= $(or $(XDG_CACHE_HOME),$(HOME)/.cache)/esker/target
ESKER = $(CARGO_TARGET_DIR)/release/esker
CARGO = cargo
NEXTEST = $(shell command -v cargo-nextest 2>/dev/null)
# Tests wait for servers much of the time: half more of them at once than there are cores.
export NEXTEST_TEST_THREADS ?= $(shell expr $$(nproc) \* 3 / 2)

# The pinned version may be installed under another name, and a machine without a network cannot fetch it anew.
PINNED = $(shell sed -n 's/^channel = "\(.*\)"/\1/p' rust-toolchain.toml)
ifeq ($(shell rustup toolchain list 2>/dev/null | grep -c '^$(PINNED)'),0)
ifneq ($(shell RUSTUP_TOOLCHAIN=stable rustc --version 2>/dev/null | grep -c ' $(PINNED) '),0)
export RUSTUP_TOOLCHAIN = stable
endif
endif

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
	$(CARGO) check --release --package cli --no-default-features --features redis
	$(CARGO) test --release --workspace --doc --quiet
ifeq ($(NEXTEST),)
	$(CARGO) test --release --workspace --lib --bins --tests
else
	$(CARGO) nextest run --cargo-profile release --workspace
endif

.PHONY: slim
slim: build-tools ## Check a binary of each connector alone, and one of none
	for one in mysql postgres qdrant redis; do \
		$(CARGO) check --release --package cli --no-default-features --features $$one || exit 1; \
	done
	$(CARGO) check --release --package cli --no-default-features

.PHONY: check
check: lint ## Format, clippy, unit tests, the storage contract on memory and disk: what to run while you work
ifeq ($(NEXTEST),)
	$(CARGO) test --release --workspace --lib --bins
else
	$(CARGO) nextest run --cargo-profile release --workspace --lib --bins
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

# What bench-compare measures; and a commit whose esker it measures in the same run, if one is named.
ONLY ?= pg,redis,kernel,random,fourteen,sixty
BEFORE ?=
comma = ,
COMPARED = $(sort $(subst fourteen,pg,$(subst sixty,small,$(subst $(comma), ,$(ONLY)))))

.PHONY: bench-compare
bench-compare: build-tools servers ## Compare with restic, borg, rustic and bupstash, whichever are on PATH; ONLY=pg,redis measures a part, BEFORE=REV also esker as of that commit
	python3 benches/corpora.py "$(CORPORA)" $(COMPARED)
	$(CARGO) build --release --package cli
	before=; \
	if [ -n "$(BEFORE)" ]; then before=$$(scripts/build-at.sh "$(BEFORE)" "$(CARGO_TARGET_DIR)/at") || exit 1; fi; \
	python3 benches/compare.py "$(ESKER)" "$(CORPORA)" --runs $(RUNS) --only "$(ONLY)" $${before:+--before "$$before"}

.PHONY: bench-heads
bench-heads: build-tools ## A backup of nothing new and a listing with 10 and with 100,000 snapshots and index segments
	$(CARGO) build --release --workspace --examples --bin esker
	python3 benches/heads.py "$(ESKER)" "$(CARGO_TARGET_DIR)/release/examples/many" --runs $(RUNS)

.PHONY: bench-hosts
bench-hosts: build-tools servers ## Two nights of a write-only host and of a full client, over the same dumps
	python3 benches/corpora.py "$(CORPORA)" pg redis
	$(CARGO) build --release --package cli
	python3 benches/hosts.py "$(ESKER)" "$(CORPORA)" --runs $(RUNS)

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

.PHONY: bench-restore
bench-restore: build-tools servers ## Restores into working servers against the servers' own programs; PART=postgres measures one, MEGABYTES and TABLES say how much (16 GB of disk)
	$(CARGO) build --release --package cli
	python3 benches/restores.py "$(ESKER)" --runs $(RUNS) --only "$(PART)" $${MEGABYTES:+--megabytes "$$MEGABYTES"} $${TABLES:+--tables "$$TABLES"}

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
rough: build-tools ## Forty nights on an S3 store that fails a fifth of all requests, resets, stalls; 200 MB over a slow line
	$(CARGO) build --release --package cli
	ESKER_ROUGH_NIGHTS=40 ESKER_SLOW_MB=200 $(CARGO) test --release --package tests --test it -- rough:: --nocapture

.PHONY: retention
retention: build-tools ## Hold the table of promises for 400 days, with a snapshot an hour
	ESKER_RETENTION_HOURLY=1 $(CARGO) test --release --package tests --test it -- retention:: --nocapture

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
fuzz: ## Every decoder and client under libFuzzer for FUZZ_SECONDS each (needs cargo-fuzz and a nightly toolchain)
	@sh scripts/fuzz.sh $(FUZZ_SECONDS)

CAMPAIGN ?= $(or $(XDG_CACHE_HOME),$(HOME)/.cache)/esker/campaign

.PHONY: campaign
campaign: build-tools ## Mutate the seeds of every decoder and client for FUZZ_SECONDS each, on stable Rust; goes on where it ended
	$(CARGO) run --release --package fuzzing --bin campaign -- "$(CAMPAIGN)" $(FUZZ_SECONDS) $(TARGETS)

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
