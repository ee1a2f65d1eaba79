# `make study` and `make test` are all a new user needs; each sets the environment up when it is missing.
PYTHON ?= python3
VENV ?= .venv
# A machine without a GPU may point this at PyTorch's CPU wheels, which are far smaller:
#   make study TORCH_INDEX=https://download.pytorch.org/whl/cpu
TORCH_INDEX ?=

BIN := $(VENV)/bin
READY := $(VENV)/.ready
INDEX := $(if $(TORCH_INDEX),--extra-index-url $(TORCH_INDEX))
PACKAGES := analysis data launch models pipeline

.PHONY: help setup setup-gpu study test test-all check format keys docs bench clean
help:            ## list the targets
	@grep -hE '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:.*## */\t/' | expand -t 14

setup: $(READY)  ## create .venv with every version pinned by constraints.txt
$(READY): pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(0 if sys.version_info >= (3, 11) else f"isoflop needs Python 3.11 or newer, and $(PYTHON) is {sys.version.split()[0]}; try: make PYTHON=python3.12")'
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check $(INDEX) -c constraints.txt -e '.[dev]'
	@touch $@

# Read by tests that compare with it; its own requirements are not needed for that.
ORACLES := $(VENV)/.oracles
$(ORACLES): $(READY)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps megatron-core==0.16.1
	@touch $@

setup-gpu: setup ## add the CUDA kernels (compiles; needs nvcc and a GPU build of torch)
	$(BIN)/python -m pip install --quiet --no-build-isolation -c constraints.txt -e '.[gpu]'

study: setup     ## the quickstart: a whole scaling study on this machine, in under ten minutes
	$(BIN)/isoflop run configs/studies/quickstart.yaml

check: setup     ## format, lint and types
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy $(PACKAGES)

test: check $(ORACLES) ## check, then the fast tests
	OMP_NUM_THREADS=1 $(BIN)/pytest --numprocesses auto -m "not slow and not cuda and not cluster"
	$(BIN)/pytest -m "cluster and not slow and not cuda"

test-all: check $(ORACLES) ## check, then every test this machine can run (slow ones too)
	$(BIN)/pytest --timeout=1800

format: setup    ## put the code into shape
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

keys: setup      ## write docs/keys.md, the reference of a study's keys, from the code
	$(BIN)/python -m pipeline.keys > docs/keys.md

docs: setup      ## the guides as a site in site/, every link checked
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict
	@echo "open site/index.html"

bench: setup     ## every benchmark, one after another, on an otherwise idle machine
	@set -e; for script in benchmarks/bench_*.py; do echo "== $$script"; $(BIN)/python $$script; done

clean:           ## remove caches and the environment (studies stay)
	rm -rf $(VENV) *.egg-info .mypy_cache .ruff_cache .pytest_cache
