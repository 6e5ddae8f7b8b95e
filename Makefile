# A newcomer types `make demo` and `make test`; both make the environment first.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
export OMP_NUM_THREADS ?= 1

.PHONY: env demo test lint docs bench gpu shards clean

# The stamp is newer than what it depends on once the environment is complete, so nothing is installed twice.
env: $(VENV)/.complete

$(VENV)/.complete: pyproject.toml constraints.txt
	$(PYTHON) -c 'import sys; sys.version_info >= (3, 11) or sys.exit("radar-callback needs Python 3.11 or newer, but $(PYTHON) is " + sys.version.split()[0] + ": make PYTHON=/path/to/python3.11")'
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --constraint constraints.txt torch
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable '.[all,dev]'
	touch $@

# Two threads train faster than one; one is faster for the many small forwards of an evaluation on a busy machine.
demo: env
	DS_ACCELERATOR=cpu OMP_NUM_THREADS=$$(nproc) $(BIN)/radar-callback demo --out radar-demo

test: env
	$(BIN)/python -m pytest -n auto --dist loadfile

lint: env
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

docs: env
	$(BIN)/mkdocs build --strict

# On a machine with a CUDA device: what only it can show, and the engine's speed there.
gpu: env
	$(BIN)/python -m pytest -m gpu tests/gpu
	$(BIN)/python -m benchmarks.device --device cuda

# Some forty minutes; benchmarks/results/ holds what it gave before.
bench: env
	$(BIN)/python -m benchmarks.scoring
	$(BIN)/python -m benchmarks.evaluations

# Draws the built-in benchmark anew; the result is the same bytes.
shards: env
	$(BIN)/radar-callback shards build radar-mini benchmark_shards/radar-mini --from mini --max-shard-mb 2 --overwrite

clean:
	rm -rf $(VENV) site dist build radar-demo
