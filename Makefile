# Crossdock: build, run, test.
#
#   make quickstart   install what is missing, build, and run a platform in ./quickstart (DIR=..., PORT_BASE=...)
#   make test         install what is missing; check format, lints and licences' rules; run every test
#   make lint         only format and lints
#   make bench        measure, also side by side with other brokers (QUICK=1: a short run, under ten minutes)
#   make fuzz         fuzz what reads foreign bytes (SECONDS=60: each target for so long); needs nightly Rust
#   make release      the optimised binary, at $CARGO_TARGET_DIR/release/crossdock
#
# What is built lies outside the clone, so that a second clone reuses it. Both places can be set from outside.

SHELL := /bin/bash
.SHELLFLAGS := -euo pipefail -c
.DEFAULT_GOAL := help

CACHE ?= $(or $(XDG_CACHE_HOME),$(HOME)/.cache)/crossdock
ROCKSDB_VERSION := $(shell sed -n '/^name = "librocksdb-sys"/{n;s/.*+\([0-9.]*\)".*/\1/p;}' Cargo.lock)

CARGO_TARGET_DIR ?= $(CACHE)/target
ROCKSDB_LIB_DIR ?= $(CACHE)/rocksdb-$(ROCKSDB_VERSION)
ROCKSDB_STATIC ?= 1
VENV ?= $(CACHE)/python
PEERS ?= $(CACHE)/peers
export CARGO_TARGET_DIR ROCKSDB_LIB_DIR ROCKSDB_STATIC VENV PEERS

# Where rustup puts cargo, for shells that have not read its profile. Under sudo root has none as a rule, and
# the caller's serves.
export PATH := $(PATH):$(HOME)/.cargo/bin
ifneq ($(SUDO_USER),)
ifeq ($(wildcard $(HOME)/.cargo/bin/cargo),)
CALLER := $(shell getent passwd '$(SUDO_USER)' | cut -d: -f6)
export PATH := $(PATH):$(CALLER)/.cargo/bin
export RUSTUP_HOME ?= $(CALLER)/.rustup
endif
endif

DIR ?= ./quickstart
PORT_BASE ?= 7400

.PHONY: help quickstart test lint bench fuzz release setup rocksdb claim nats

help:
	@sed -n 's/^# \{0,1\}//;/^  make /p' Makefile | sed 's/^ *//'

setup:
	@scripts/setup

rocksdb: setup
	@scripts/build-rocksdb "$(ROCKSDB_LIB_DIR)"

# Cargo knows the crates of two clones by the same names, and judges by the times of the files whether what the
# other one built is still good. So a clone that builds after another one makes its files new.
claim: rocksdb
	@mkdir -p "$(CARGO_TARGET_DIR)"
	@if [ "$$(cat "$(CARGO_TARGET_DIR)/built-from" 2>/dev/null)" != "$(CURDIR)" ]; then \
	  find $(dir $(wildcard */Cargo.toml)) sdk Cargo.toml Cargo.lock -type f -exec touch -c {} +; \
	  echo "$(CURDIR)" >"$(CARGO_TARGET_DIR)/built-from"; \
	fi

release: claim
	cargo build --release --locked -p crossdock-cli

quickstart: release
	@exec "$(CARGO_TARGET_DIR)/release/crossdock" quickstart "$(DIR)" --port-base "$(PORT_BASE)"

lint: claim
	@scripts/test lint

# The tests of the engine on NATS JetStream run real nats-servers.
nats: setup
	@[ -n "$${CROSSDOCK_NATS_SERVER:-}" ] || command -v nats-server >/dev/null || scripts/peers "$(PEERS)" nats

test: claim nats
	@CROSSDOCK_NATS_SERVER="$${CROSSDOCK_NATS_SERVER:-$$(command -v nats-server || echo "$(PEERS)/nats/bin/nats-server")}" scripts/test

fuzz: rocksdb
	@CARGO_TARGET_DIR="$(CACHE)/fuzz" scripts/fuzz "$(or $(SECONDS),60)" $(TARGETS)

# ONLY and SYSTEMS choose works and systems of the side by side run, such as ONLY=latency SYSTEMS=crossdock,redis.
bench: claim
	@scripts/peers "$(PEERS)"
	cargo build --release --locked -p crossdock-cli -p crossdock-bench --features crossdock-bench/peers
	@"$(CARGO_TARGET_DIR)/release/crossdock-bench" peers --peers "$(PEERS)" $(if $(QUICK),--quick --minutes 7 --results bench/results/quick.json) \
	  $(if $(ONLY),--only "$(ONLY)") $(if $(SYSTEMS),--systems "$(SYSTEMS)")
	$(if $(QUICK)$(ONLY)$(SYSTEMS),,@"$(CARGO_TARGET_DIR)/release/crossdock-bench" charts)
	@"$(CARGO_TARGET_DIR)/release/crossdock-bench" $(if $(QUICK),--quick)
