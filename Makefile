# Everything starts here. The first call makes .venv from the pinned requirements; later calls find it.

VENV := .venv
BIN := $(VENV)/bin
SYSTEM := $(shell uname -s)-$(shell uname -m)
PLATFORM := $(if $(filter Darwin-arm64,$(SYSTEM)),darwin-arm64,$(if $(filter Linux-x86_64,$(SYSTEM)),linux-x86_64))
# A wheel for each, so that no compiler is needed; hashes, so that a changed file is refused.
PIP_INSTALL := $(BIN)/python -m pip install --quiet --disable-pip-version-check --require-hashes --only-binary :all:
CODE := backend mlx_cache tests benchmarks examples scripts
ADDRESS ?= 127.0.0.1:50051
PYTEST_ARGS ?=

.PHONY: help setup setup-dev proto lock demo run test check format lint types imports proto-fresh coverage bench clean

help:  ## List the targets
	@sed -n 's/^\([a-z-]*\):.*## /  make \1\t/p' $(MAKEFILE_LIST)

setup: $(VENV)/.installed  ## Make .venv with what the worker needs to run

setup-dev: $(VENV)/.installed-dev  ## Add what tests and checks need

demo: setup  ## Start a worker with the model of this repository and stream answers from it
	$(BIN)/python examples/demo.py

run: setup  ## Start a worker at ADDRESS
	$(BIN)/python -m backend --addr $(ADDRESS)

test: setup-dev  ## Run all tests; PYTEST_ARGS are added
	$(BIN)/python -m pytest $(PYTEST_ARGS)

check: lint types imports proto-fresh coverage  ## The gate: format, lint, types, imports, proto, tests, coverage

# Those that run by themselves; the others are what they share.
BENCHMARKS := $(patsubst benchmarks/%.py,%,$(shell grep -l '^if __name__' benchmarks/*.py))
bench: setup-dev  ## Measure what the README states; figures go to build/bench
	@mkdir -p build/bench
	@set -e; for name in $(BENCHMARKS); do \
		echo "== $$name"; $(BIN)/python -m benchmarks.$$name --json build/bench/$$name.json; done

format: setup-dev  ## Format and fix what can be fixed
	$(BIN)/ruff format $(CODE)
	$(BIN)/ruff check --fix $(CODE)

lint: setup-dev
	$(BIN)/ruff format --check $(CODE)
	$(BIN)/ruff check $(CODE)

types: setup-dev
	$(BIN)/pyright

imports: setup-dev
	$(BIN)/lint-imports --no-cache

# Of the test process: spawned workers, renderers and downloads run untraced, at their real speed.
coverage: setup-dev
	$(BIN)/coverage erase
	$(BIN)/coverage run -m pytest $(PYTEST_ARGS)
	$(BIN)/coverage combine --quiet
	$(BIN)/coverage report --fail-under=90

proto: setup-dev  ## Generate backend/pb from backend.proto
	$(BIN)/python scripts/generate_proto.py

proto-fresh: setup-dev
	$(BIN)/python scripts/generate_proto.py --check

# Hashes of every wheel, and no address of an index. `make lock` keeps what is pinned as far as it can.
LOCK := build/lock/bin/uv pip compile --quiet pyproject.toml --python-version 3.11 --generate-hashes --no-header \
	--no-annotate --no-emit-index-url --no-emit-find-links
LINUX := --extra cpu --python-platform x86_64-manylinux_2_35
# mlx-metal has no wheel for the macOS that uv assumes.
DARWIN := --python-platform aarch64-apple-darwin

lock: setup  ## Compile requirements/ from pyproject.toml
	$(BIN)/python -m venv build/lock
	build/lock/bin/pip install --quiet uv==0.13.8
	$(LOCK) $(LINUX) -o requirements/linux-x86_64.txt
	$(LOCK) $(LINUX) --group dev -o requirements/linux-x86_64-dev.txt
	MACOSX_DEPLOYMENT_TARGET=14.0 $(LOCK) $(DARWIN) -o requirements/darwin-arm64.txt
	MACOSX_DEPLOYMENT_TARGET=14.0 $(LOCK) $(DARWIN) --group dev -o requirements/darwin-arm64-dev.txt

$(VENV)/bin/python:
	@python=$$(scripts/find-python) && echo "making $(VENV) with $$python" && "$$python" -m venv $(VENV)

$(VENV)/.installed: requirements/$(PLATFORM).txt | $(VENV)/bin/python
	$(PIP_INSTALL) -r $<
	@touch $@

$(VENV)/.installed-dev: requirements/$(PLATFORM)-dev.txt $(VENV)/.installed
	$(PIP_INSTALL) -r $<
	@touch $@

requirements/.txt requirements/-dev.txt:
	@echo "no pinned requirements for $(SYSTEM): linux-x86_64 and darwin-arm64 have them" >&2; exit 1

clean:  ## Remove everything that is made here
	rm -rf $(VENV) build .coverage .coverage.* .pytest_cache .ruff_cache .hypothesis
