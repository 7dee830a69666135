# Needs only python3 (3.11-3.13), make and a package registry; everything else lands in .venv.
PYTHON ?= python3
UV_VERSION := 0.13.8
BIN := .venv/bin
READY := .venv/.ready
export PYTHONDONTWRITEBYTECODE :=  # where it is set, every process of a test would compile every module anew
IN_PARALLEL := --numprocesses 2 --dist loadfile --no-loadscope-reorder

.PHONY: help setup demo test test-plain test-slow test-long test-nodes test-portable check format lock clean

help: ## show this list
	@grep -E '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:[^#]*## /\t/' | expand -t 14

setup: $(READY) ## create .venv from requirements.lock

# Compiled while it is installed: every process of Ray's imports PyTorch, and some machines keep no compiled modules.
$(READY): requirements.lock pyproject.toml
	$(PYTHON) -c 'import sys; v = sys.version_info; sys.exit(0 if (3, 11) <= v < (3, 14) else f"Python 3.11-3.13 needed, {v.major}.{v.minor} found; try: make PYTHON=python3.12 ...")'
	test -x $(BIN)/python || $(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet uv==$(UV_VERSION)
	VIRTUAL_ENV=$(CURDIR)/.venv $(BIN)/uv pip install --quiet --compile-bytecode --require-hashes -r requirements.lock
	VIRTUAL_ENV=$(CURDIR)/.venv $(BIN)/uv pip install --quiet --no-deps --no-build-isolation --editable .
	touch $@

demo: setup ## the main job on drawn images: from image labels to proposals, detectors and a report
	$(BIN)/weaksam demo

test: test-plain test-slow ## every test that this machine can run within minutes

test-plain: setup ## the tests that start no Ray and train for no more than moments
	$(BIN)/python -m pytest $(IN_PARALLEL) -m "not ray and not slow and not gpu and not long"

# Apart from the plain ones, which would share the cores with the Rays that these leave at rest.
test-slow: setup ## the tests that start Ray or train, and those that need a GPU where there is one
	$(BIN)/python -m pytest $(IN_PARALLEL) -m "(ray or slow or gpu) and not long"

test-long: setup ## the tests that test leaves out: whole runs that are killed, whole sweeps that train
	$(BIN)/python -m pytest $(IN_PARALLEL) -m "long and not nodes"

test-nodes: setup ## the tests on clusters of several nodes, one at a time
	$(BIN)/python -m pytest -m nodes

test-portable: setup ## the suite as other processors round, with 1 and 2 threads, in shuffled orders (about 50 min on 2 idle cores)
	$(BIN)/python -m tests.portable

check: setup ## lint, format and types
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

format: setup ## rewrite the sources in the house style
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

lock: setup ## resolve requirements.lock anew from pyproject.toml
	$(BIN)/uv pip compile --universal --python-version 3.11 --generate-hashes --no-emit-index-url --no-header \
		--extra dev --quiet --upgrade -o requirements.lock pyproject.toml

clean: ## remove what setup and the tests made
	rm -rf .venv build *.egg-info .pytest_cache .hypothesis .mypy_cache .ruff_cache
