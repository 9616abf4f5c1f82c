# One command does the whole of a thing. `make help` lists them.

# Most tests wait for processes and clocks: three workers keep two cores busy. In their own order, as the longest
# files have the fewest tests and would else come last.
WORKERS ?= 3
PYTHON ?= $(shell command -v python3.11 || command -v python3)
VENV   := .venv
BIN    := $(VENV)/bin
READY  := $(VENV)/.ready
# Dagster's instance is described by dagster.yaml beside this file; what it stores goes below data/dagster.
export DAGSTER_HOME := $(CURDIR)
POSTGRES_HOME := $(CURDIR)/data/dagster-postgres
export DAGSTER_DISABLE_TELEMETRY := yes
export DO_NOT_TRACK := 1

.DEFAULT_GOAL := help
.PHONY: help setup demo ui test nightly lint format peers bench results lock clean

help:  ## list the commands
	@grep -E '^[a-z]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 12

setup: $(READY)  ## create .venv from the lock file and install the package and its command line

$(READY): pyproject.toml requirements.lock
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { echo "Python 3.11 or newer is needed, $(PYTHON) is older: make PYTHON=/path/to/python3.11"; exit 1; }
	@echo "Setting up $(VENV) from requirements.lock (some minutes the first time)"
	$(PYTHON) -m venv $(VENV)
	$(BIN)/pip install --quiet --constraint requirements.lock setuptools wheel
	$(BIN)/pip install --quiet --constraint requirements.lock --no-build-isolation --editable '.[dev]'
	@touch $(READY)

demo: setup  ## the whole way once: the twin drives, Dagster makes an agent of it, a report says what it saves
	@$(BIN)/python -m tspace_pipelines.demo

ui: setup  ## Dagster's pages on the same instance as the demo; STORAGE=postgres: on TSPACE_POSTGRES_URL
ifeq ($(STORAGE),postgres)
	@mkdir -p $(POSTGRES_HOME) && ln -sf $(CURDIR)/dagster.postgres.yaml $(POSTGRES_HOME)/dagster.yaml
	DAGSTER_HOME=$(POSTGRES_HOME) $(BIN)/dagster dev --workspace workspace.yaml
else
	$(BIN)/dagster dev --workspace workspace.yaml
endif

test: setup  ## the whole test suite
	$(BIN)/python -m pytest --numprocesses $(WORKERS) --dist loadfile --no-loadscope-reorder

nightly: setup  ## the slow proofs as well
	$(BIN)/python -m pytest -m "slow or not slow" --numprocesses $(WORKERS) --dist loadfile --no-loadscope-reorder

lint: setup  ## style, types, import directions
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy tspace_core tspace_pipelines tests benchmarks
	$(BIN)/lint-imports

format: setup  ## put the code into its form
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

peers: setup
	$(BIN)/pip install --quiet --constraint requirements.lock --no-build-isolation --editable '.[bench]'

bench: peers  ## speeds of ours and the peers in the same run
	$(BIN)/python benchmarks/etl.py
	$(BIN)/python benchmarks/replay.py
	$(BIN)/python benchmarks/stores.py
	$(BIN)/python benchmarks/scoring.py
	$(BIN)/python benchmarks/ddpg.py
	$(BIN)/python benchmarks/inference.py
	$(BIN)/python benchmarks/scaling.py
	$(BIN)/python benchmarks/pipeline.py
	$(BIN)/python benchmarks/twin.py
	$(BIN)/python benchmarks/online.py
	$(BIN)/python benchmarks/remote.py
	@if $(BIN)/python -c 'import sys, torch; sys.exit(not torch.cuda.is_available())'; then \
		$(BIN)/python benchmarks/ddpg_gpu.py; \
	else echo "benchmarks/ddpg_gpu.py is left out: torch finds no CUDA device"; fi

results: peers  ## what agents reach on public tasks and on the truck (docs/results.md); many hours
	$(BIN)/python benchmarks/classic_control.py pendulum --seeds 5
	$(BIN)/python benchmarks/classic_control.py mountain_car --seeds 3
	$(BIN)/python benchmarks/hidden_pendulum.py --subjects ddpg rdpg_lstm rdpg_transformer
	$(BIN)/python benchmarks/offline_pendulum.py --sets mixed --updates 3000 --folder out/offline_3000
	$(BIN)/python benchmarks/offline_pendulum.py --sets "noisy expert" random --folder out/offline
	$(BIN)/python benchmarks/torque_map.py --out out/torque_map --seeds 201 202 203 204 205 --headroom
	$(BIN)/python benchmarks/torque_map.py --out out/torque_map_guarded --seeds 201 202 203 204 205 --guarded

lock:  ## resolve pyproject.toml anew into requirements.lock
	$(PYTHON) -m venv .lock-venv
	.lock-venv/bin/pip install --quiet pip-tools
	.lock-venv/bin/pip-compile --quiet --upgrade --all-extras --strip-extras --allow-unsafe --no-header \
		--no-emit-find-links --no-emit-index-url --annotation-style=line --output-file requirements.lock pyproject.toml
	sed -i 's/^torch==\([0-9.]*\)+[a-z0-9]*/torch==\1/' requirements.lock
	rm -rf .lock-venv

clean:  ## remove what the commands made, the data of the demo included
	rm -rf $(VENV) data out .pytest_cache .mypy_cache .ruff_cache .hypothesis *.egg-info
