# `make demo` and `make test` are all that is needed: each makes .venv, installs into it, and runs.
# A machine with Python 3.11 or newer and make is enough; PYTHON=... names another interpreter.

PYTHON ?= $(shell command -v python3.11 || command -v python3)
BIN := .venv/bin
WORKERS ?= auto
PYTEST := $(BIN)/python -m pytest -n $(WORKERS)

.PHONY: demo test test-all lint bench bench-all theory guide sanitize clean

demo: .venv/installed
	$(BIN)/batchnorm demo --out runs/demo

test: .venv/installed-dev $(if $(CI),.venv/installed-models) lint
	$(PYTEST) -m "not long"

test-all: .venv/installed-dev $(if $(CI),.venv/installed-models) lint
	$(PYTEST)

lint: .venv/installed-dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

# One case per claim, under ten minutes; bench-all has every case. Both want a machine with nothing else to do.
bench: .venv/installed-dev .venv/installed-models
	$(BIN)/python -m benchmarks.layers --quick
	$(BIN)/python -m benchmarks.train --repeats 9
	$(BIN)/python -m benchmarks.prediction
	$(BIN)/python -m benchmarks.input_norm
	$(BIN)/python -m benchmarks.resnet --seconds 40
	$(BIN)/python -m benchmarks.recalibrate --seconds 5
	$(BIN)/python -m benchmarks.render

bench-all: .venv/installed-dev .venv/installed-models
	$(BIN)/python -m benchmarks.layers --compiled
	$(BIN)/python -m benchmarks.compiled
	$(BIN)/python -m benchmarks.train
	$(BIN)/python -m benchmarks.prediction
	$(BIN)/python -m benchmarks.input_norm
	$(BIN)/python -m benchmarks.resnet
	$(BIN)/python -m benchmarks.accuracy
	$(BIN)/python -m benchmarks.conversions
	$(BIN)/python -m benchmarks.foldings
	$(BIN)/python -m benchmarks.tools
	$(BIN)/python -m benchmarks.recalibrate
	$(BIN)/python -m benchmarks.render

# docs/theory from its templates and records; docs/theory/make.py measure NAME takes a record anew.
theory: .venv/installed-dev
	$(BIN)/python docs/theory/make.py

# docs/guide with the numbers and pictures of its records; docs/guide/make.py measure TOOL takes a record anew.
guide: .venv/installed-dev
	$(BIN)/python docs/guide/make.py

# The kernels under the sanitizers, driven from C++: overruns, undefined behaviour, races. Ten minutes on two cores.
SANITIZERS := address,undefined thread
sanitize: .venv/building
	@for kind in $(SANITIZERS); do \
	  folder=build/sanitize-$${kind%%,*}; \
	  PATH="$(CURDIR)/$(BIN):$$PATH"; \
	  cmake -S csrc -B $$folder -DBATCHNORM_PYTHON=OFF -DBATCHNORM_TESTS=ON -DBATCHNORM_SANITIZE=$$kind && \
	  cmake --build $$folder --parallel 2 && $$folder/tests/drive_kernels || exit 1; \
	done

clean:
	rm -rf .venv build dist runs .pytest_cache .mypy_cache .ruff_cache .import_linter_cache

.venv/bin/python:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
	  { echo "Python 3.11 or newer is needed; name one with: make PYTHON=/path/to/python3.11 $(MAKECMDGOALS)"; exit 1; }
	$(PYTHON) -m venv .venv

# The building tools and torch first, so that the kernels are built beside the very torch they will run with.
.venv/building: .venv/bin/python constraints.txt
	$(BIN)/python -m pip install --quiet --constraint constraints.txt scikit-build-core nanobind cmake ninja torch
	@touch $@

.venv/installed: .venv/building pyproject.toml $(wildcard csrc/* csrc/torch/*)
	PATH="$(CURDIR)/$(BIN):$$PATH" $(BIN)/python -m pip install --quiet --no-build-isolation --constraint constraints.txt --editable .
	@touch $@

.venv/installed-dev: .venv/installed
	PATH="$(CURDIR)/$(BIN):$$PATH" $(BIN)/python -m pip install --quiet --no-build-isolation --constraint constraints.txt --editable '.[dev]'
	@touch $@

# Libraries whose models `convert` is tried on. torchvision's wheel is built for CUDA and would bring another torch along;
# beside the CPU's its models work, its operators do not.
.venv/installed-models: .venv/installed-dev
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --no-deps torchvision timm
	$(BIN)/python -m pip install --quiet --constraint constraints.txt pillow transformers
	@touch $@
