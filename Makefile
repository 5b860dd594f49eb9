# What a person does with this checkout. `make` alone lists it.

SHELL := bash
.SHELLFLAGS := -euo pipefail -c
.DEFAULT_GOAL := help
.PHONY: help demo test lint bench soak

target := $(or $(CARGO_TARGET_DIR),target)

# Both are set where nothing is to be compiled (.ci/run does, for a user without Rust).
ROWSTREAM_DEMO_BIN ?=
ROWSTREAM_BIN ?=

# Tests wait for servers most of their time: twice as many as there are cores, and no more than servers can serve.
TEST_THREADS ?= $(shell cores=$$(nproc 2>/dev/null || echo 2); echo $$((cores < 4 ? 2 * cores : 8)))

define need_cargo
command -v cargo >/dev/null || { \
	echo "Rust is needed: install it from https://rustup.rs (or apt-get install rustup), then try again." >&2; \
	exit 1; }
endef

# Prints what is missing before anything is compiled for minutes.
define with_servers
servers=$$(deploy/local/provision); eval "$$servers"
endef

help: ## this list
	@echo "rowstream keeps PostgreSQL tables in step with MongoDB collections."
	@echo
	@sed -nE 's/^([a-z]+):.*## (.*)/  make \1|\2/p' $(firstword $(MAKEFILE_LIST)) | while IFS='|' read -r name text; do \
		printf '%-13s %s\n' "$$name" "$$text"; done
	@echo
	@echo "  demo takes DEMO_SECONDS=20 (ends by itself and compares both sides), DEMO_DOCUMENTS, DEMO_RATE;"
	@echo "  MONGODB_URI and DATABASE_URL let it use your own servers; ROWSTREAM_SERVERS=wheels forces fetched ones."

demo: ## watch an expense tracker's MongoDB being copied and followed into PostgreSQL
	@if [[ -z "$(ROWSTREAM_DEMO_BIN)" ]]; then $(need_cargo); fi
	@if [[ -z "$${MONGODB_URI:-}" || -z "$${DATABASE_URL:-}" ]]; then $(with_servers); fi
	@if [[ -z "$(ROWSTREAM_DEMO_BIN)" ]]; then \
		echo "building rowstream (the first time takes some minutes) …" >&2; \
		cargo build --locked --quiet --bin rowstream --example demo; \
	fi
	@export ROWSTREAM_BIN="$(or $(ROWSTREAM_BIN),$(target)/debug/rowstream)"; \
	ROWSTREAM_BIN=$$(realpath -- "$$ROWSTREAM_BIN"); \
	if [[ -z "$${MONGODB_URI:-}" || -z "$${DATABASE_URL:-}" ]]; then $(with_servers); fi; \
	exec "$(or $(ROWSTREAM_DEMO_BIN),$(target)/debug/examples/demo)"

test: ## all tests, on real servers
	@$(need_cargo)
	@$(with_servers); RUST_TEST_THREADS=$(TEST_THREADS) cargo test --locked --features failpoints

lint: ## formatting, clippy without warnings, shell syntax; cargo deny and shellcheck where installed
	@$(need_cargo)
	@cargo fmt --version >/dev/null 2>&1 && cargo clippy --version >/dev/null 2>&1 || { \
		echo "rustfmt and clippy are needed: rustup component add rustfmt clippy" >&2; exit 1; }
	cargo fmt --check
	cargo clippy --locked --all-targets --all-features --quiet -- -D warnings
	bash -n deploy/local/provision .ci/run
	@if command -v shellcheck >/dev/null; then shellcheck deploy/local/provision .ci/run; \
		else echo "shellcheck is not installed: skipped" >&2; fi
	@if cargo deny --version >/dev/null 2>&1; then cargo deny --all-features check; \
		else echo "cargo-deny is not installed: skipped (cargo install cargo-deny)" >&2; fi

bench: ## throughput and latency, each beside the limit measured in the same run
	@$(need_cargo)
	@$(with_servers); cargo bench --locked --bench rowstream

soak: ## kill -9 and random faults, again and again, while somebody writes (SOAK_MINUTES=60, MODEL_SEED=1)
	@$(need_cargo)
	@$(with_servers); SOAK_MINUTES="$${SOAK_MINUTES:-60}" cargo test --locked --features failpoints \
		--test it -- killed_in_mid_stream fail_points:: model:: comparison_many::
