# Everything starts here. The first call makes .venv from the pinned requirements; later calls find it.

VENV := .venv
BIN := $(VENV)/bin
SYSTEM := $(shell uname -s)-$(shell uname -m)
SUPPORTED := $(filter Linux-x86_64 Darwin-arm64,$(SYSTEM))
# A wheel for each, so that no compiler is needed; hashes, so that a changed file is refused. The lists are complete,
# so nothing is resolved: a resolver would let releases that are newer than the lists decide whether they install.
PIP := $(BIN)/python -m pip --quiet --disable-pip-version-check
PIP_INSTALL := $(PIP) install --no-deps --require-hashes --only-binary :all:
CODE := backend mlx_cache tests benchmarks examples scripts
ADDRESS ?= 127.0.0.1:50051
PYTEST_ARGS ?=
# Two, whatever the machine has: tests that hold times are written for two cores. 0 runs all in one process.
PYTEST_PROCESSES ?= 2
# Where it is set, each of the hundreds of processes that tests start compiles all modules anew.
unexport PYTHONDONTWRITEBYTECODE
BENCH_ARGS ?=
CHECK_ARGS ?=
FUZZ_ARGS ?=

.PHONY: help setup setup-dev setup-cuda proto lock demo run device-check test test-pythons check format lint types imports \
	proto-fresh coverage slow exhaustive fuzz device-batch bench models-table package sbom audit go-proto grpcurl harmony clean

help:  ## List the targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  make %-14s%s\n", $$1, $$2 }' $(MAKEFILE_LIST)

# One environment holds one MLX: where setup-cuda has been, nothing else is added.
HAS_CUDA := $(wildcard $(VENV)/.installed-cuda)

setup: $(if $(HAS_CUDA),,$(VENV)/.installed)  ## Make .venv with what the worker needs to run

setup-dev: $(if $(HAS_CUDA),,$(VENV)/.installed-dev)  ## Add what tests and checks need

setup-cuda: $(VENV)/.installed-cuda  ## Make .venv with MLX for NVIDIA GPUs (CUDA 13, Linux), tests' needs included

demo: setup  ## Start a worker with the model of this repository and stream answers from it
	$(BIN)/python examples/demo.py

run: setup  ## Start a worker at ADDRESS
	$(BIN)/python -m backend --addr $(ADDRESS)

device-check: setup  ## Check that the worker is right and fast on this machine; CHECK_ARGS are added
	$(BIN)/python -m backend check $(CHECK_ARGS)

test: setup-dev  ## Run the tests but for the slow ones; PYTEST_ARGS are added
	$(BIN)/python -m pytest -m "not slow" -n $(PYTEST_PROCESSES) --dist loadfile $(PYTEST_ARGS)

# Each in an environment of its own, made with that Python's own pip.
test-pythons:  ## Run demo and tests with each of Python 3.11, 3.12 and 3.13 that this machine has
	@set -e; mkdir -p build; scripts/find-python --all > build/pythons.txt; while read -r python <&3; do \
		version=$$("$$python" -c 'import sys; print("%d.%d" % sys.version_info[:2])'); echo "== Python $$version"; \
		$(MAKE) --no-print-directory VENV=build/pythons/$$version PYTHON="$$python" demo test; \
	done 3< build/pythons.txt

check: lint types imports proto-fresh coverage device-batch  ## The gate: format, lint, types, imports, proto, all tests, coverage

# Benchmarks are the modules that report; BENCH_ARGS=--quick shows in minutes that each of them runs.
BENCHMARKS := $(patsubst benchmarks/%.py,%,$(shell grep -l '^from benchmarks.report import' benchmarks/*.py))
bench: setup-dev  ## Measure what the README states; figures and pictures go to build/bench; BENCH_ARGS are added
	@mkdir -p build/bench
	@set -e; for name in $(BENCHMARKS); do \
		echo "== $$name"; $(BIN)/python -m benchmarks.$$name --json build/bench/$$name.json $(BENCH_ARGS); done

models-table: setup-dev  ## Survey every architecture of mlx-lm and write docs/models.md and quantised-kv-models.md (some minutes)
	$(BIN)/python -m tests.architectures.table
	$(BIN)/python -m tests.architectures.codes

package:  ## Make what LocalAI installs, in build/package: a folder, and the same as an OCI image with a gallery
	@python=$$(scripts/find-python) && "$$python" scripts/package.py && "$$python" scripts/oci_image.py

sbom: $(VENV)/bin/python  ## Write what is installed as CycloneDX bills of materials, in build
	$(BIN)/python scripts/sbom.py

# In an environment of its own. Strict: a package that cannot be looked up fails too. Needs the network, of PyPI's API.
AUDIT := build/audit/bin/pip-audit --strict --no-deps --disable-pip --progress-spinner off
audit: $(VENV)/bin/python  ## Ask PyPI for known vulnerabilities of all that the lists pin
	$(BIN)/python -m venv build/audit
	build/audit/bin/pip install --quiet pip-audit==2.10.1
	@set -e; for list in worker cuda dev; do echo "== $$list"; $(AUDIT) -r requirements/$$list.txt; done

go-proto: setup-dev  ## Generate the stubs of examples/go-host from backend.proto (needs Go)
	$(BIN)/python scripts/generate_go.py

grpcurl:  ## Build grpcurl into build/bin, where the test of docs/grpcurl.md finds it (needs Go)
	GOBIN=$(CURDIR)/build/bin go install github.com/fullstorydev/grpcurl/cmd/grpcurl@v1.9.3

# Without what it requires: tests load its extension module alone.
harmony: setup-dev  ## Get OpenAI's harmony library and its vocabulary into build/harmony, where its tests find them (uses npm)
	$(PIP_INSTALL) --upgrade --target build/harmony -r requirements/harmony.txt
	$(BIN)/python scripts/harmony_vocabulary.py

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

# Of the test processes: spawned workers, renderers and downloads run untraced, at their real speed.
coverage: setup-dev  ## Run the tests, slow ones too, and say what lines they reach
	$(BIN)/python -m pytest -m "not exhaustive" --thorough -n $(PYTEST_PROCESSES) --dist loadfile \
		--cov --cov-report=term:skip-covered --cov-fail-under=90 $(PYTEST_ARGS)

slow: setup-dev  ## Run the slow tests alone, without a look at lines
	$(BIN)/python -m pytest -m "slow and not exhaustive" --thorough -n $(PYTEST_PROCESSES) --dist loadfile $(PYTEST_ARGS)

exhaustive: setup-dev  ## Run what no gate waits for: every case of what other tests sample (some 15 minutes)
	$(BIN)/python -m pytest -m exhaustive -n $(PYTEST_PROCESSES) --dist loadfile $(PYTEST_ARGS)
	$(BIN)/python -m pytest --every-cut -n $(PYTEST_PROCESSES) --dist loadfile $(PYTEST_ARGS) tests/output tests/grammar/test_forced_calls.py

fuzz: setup-dev  ## Change inputs at random towards code that none has reached, for an hour; FUZZ_ARGS are added
	$(BIN)/python -m tests.fuzz $(FUZZ_ARGS)

# The batch for GPUs on this machine's processor, in everything that runs a model.
device-batch: setup-dev
	$(BIN)/python -m pytest --sampler device -m "not slow" -n $(PYTEST_PROCESSES) --dist loadfile $(PYTEST_ARGS) tests/e2e tests/engine

proto: setup-dev  ## Generate backend/pb from backend.proto
	$(BIN)/python scripts/generate_proto.py

proto-fresh: setup-dev
	$(BIN)/python scripts/generate_proto.py --check

# One list for every supported system and Python: markers say what only some need, and there are hashes of every
# wheel, and no address of an index. `make lock` keeps what is pinned as far as it can.
LOCK := build/lock/bin/uv pip compile --quiet pyproject.toml --universal --python-version 3.11 \
	--generate-hashes --no-header --no-annotate --no-emit-index-url --no-emit-find-links
# Writes nothing: fails where a pin has no wheel. mlx-metal has none for the macOS that uv assumes.
LOCK_CHECK := MACOSX_DEPLOYMENT_TARGET=14.0 build/lock/bin/uv pip install --quiet --dry-run --target build/lock/none \
	--no-deps --only-binary :all:

lock: $(VENV)/bin/python  ## Compile requirements/ from pyproject.toml
	$(BIN)/python -m venv build/lock
	build/lock/bin/pip install --quiet uv==0.13.8
	$(LOCK) --extra cpu --group dev --output-file requirements/dev.txt
	$(LOCK) --extra cpu --constraints requirements/dev.txt --output-file requirements/worker.txt
	$(LOCK) --extra cuda13 --group dev --constraints requirements/dev.txt --output-file requirements/cuda.txt
	for version in 3.11 3.12 3.13; do \
		for list in dev cuda; do $(LOCK_CHECK) --requirements requirements/$$list.txt --python-version $$version \
			--python-platform x86_64-manylinux_2_35 || exit 1; done; \
		$(LOCK_CHECK) --requirements requirements/dev.txt --python-version $$version \
			--python-platform aarch64-apple-darwin || exit 1; done

$(VENV)/bin/python:
	@$(if $(SUPPORTED),,echo "no MLX for $(SYSTEM) in the pinned requirements: they are for Linux-x86_64 and Darwin-arm64" >&2; exit 1)
	@python=$$(scripts/find-python) && echo "making $(VENV) with $$python" && \
		{ "$$python" -m venv $(VENV) || { rm -f $(VENV)/bin/python; exit 1; }; }

$(VENV)/.installed: requirements/worker.txt | $(VENV)/bin/python
	$(PIP_INSTALL) -r $<
	$(PIP) check
	@touch $@

$(VENV)/.installed-dev: requirements/dev.txt $(VENV)/.installed
	$(PIP_INSTALL) -r $<
	$(PIP) check
	@touch $@

$(VENV)/.installed-cuda: requirements/cuda.txt | $(VENV)/bin/python
	@if [ -e $(VENV)/.installed ]; then \
		echo "$(VENV) holds another MLX: run make clean first, or add VENV=.venv-cuda" >&2; exit 1; fi
	$(PIP_INSTALL) -r $<
	$(PIP) check
	@touch $@

clean:  ## Remove everything that is made here
	rm -rf $(VENV) build .coverage .coverage.* .pytest_cache .ruff_cache .hypothesis
