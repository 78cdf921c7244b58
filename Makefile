# Everything a developer does, by name. `make` alone lists the targets; .ci/run calls `make test`.

SHELL := bash
.SHELLFLAGS := -eu -o pipefail -c
.DEFAULT_GOAL := help
MAKEFLAGS += --no-print-directory

PYTHON ?= python3
VENV ?= .venv
BIN := $(abspath $(VENV))/bin
# maturin and zig are found in the environment; a rustup toolchain also where its installer puts it.
RUN := VIRTUAL_ENV=$(abspath $(VENV)) PATH="$(BIN):$$PATH:$$HOME/.cargo/bin"

RUST_SOURCES := Cargo.toml $(wildcard Cargo.lock) $(shell find rust -name '*.rs' -o -name Cargo.toml -o -name '*.cuh')
PACKAGE_FILES := $(shell find python/farspan -type f -not -name '*.so' -not -name '*.pyc')

# Stamps: what is up to date is not done again.
READY := $(VENV)/.farspan-ready
BUILT := $(VENV)/.farspan-built
WHEEL := dist/.farspan-wheel
# zig links against an old glibc, so the wheel runs on every Linux since 2014; elsewhere the native linker serves.
PORTABLE_LINUX := $(if $(filter Linux,$(shell uname -s)),--zig --compatibility manylinux2014)
# Panic messages name source files; the folders of the building machine are no part of them.
NO_PATHS := --remap-path-prefix=$(CURDIR)=farspan --remap-path-prefix=$${CARGO_HOME:-$$HOME/.cargo}=cargo

.PHONY: help setup build demo test test-deep lint bench wheel clean

help: ## list these targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  make %-10s %s\n", $$1, $$2 }' $(firstword $(MAKEFILE_LIST))

setup: $(READY) ## create .venv once; a torch that the system Python imports is used, not installed again

build: $(BUILT) ## compile the Rust parts and install the package into .venv, editable

demo: $(BUILT) ## text from the embedded model, then how far it generalises, as a picture
	@$(RUN) $(BIN)/python -m farspan demo

test: $(BUILT) ## everything: formatting, lints, types, Rust and Python tests, the wheel; ends with counts and reasons
	@$(RUN) $(BIN)/python tools/checks.py lint test

test-deep: $(BUILT) ## the emulated CUDA kernels under AddressSanitizer, with more random cases; a quarter of an hour
	@$(RUN) $(BIN)/python tools/deep_checks.py

lint: $(READY) ## formatting, lints, types and the shape of the tree only
	@$(RUN) $(BIN)/python tools/checks.py lint

bench: $(BUILT) ## criterion benches, then the comparison with torch, then the documents' tables
	@$(RUN) cargo bench
	@$(RUN) $(BIN)/python benches/peers/run.py --full
	@$(RUN) $(BIN)/python tools/readme_table.py

wheel: $(WHEEL) ## a wheel for any CPython from 3.11 on and any glibc from 2.17 on, in dist/

clean: ## remove what was built; .venv and its packages stay
	rm -rf target dist out $(BUILT)
	find python tests benches tools -name __pycache__ -prune -exec rm -rf {} +
	rm -f python/farspan/_core*.so

$(READY): pyproject.toml tools/setup_venv.py
	@$(PYTHON) tools/setup_venv.py $(VENV)
	@touch $@

$(BUILT): $(READY) $(RUST_SOURCES)
	@$(RUN) maturin develop --release
	@touch $@

$(WHEEL): $(READY) $(RUST_SOURCES) $(PACKAGE_FILES) python/README.md LICENSE
	@rm -rf dist
	@$(RUN) RUSTFLAGS="$(NO_PATHS)" maturin build --release $(PORTABLE_LINUX) --out dist
	@touch $@
