# One door for people, hooks and CI. Needs make and Python 3.11 or newer; everything else goes into .venv.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
# What is installed: enough for the demo; all that development needs; a browser for tests of pages besides. CI has to
# run those, and brings one along where the machine has no Chromium; elsewhere they are skipped, or: make pages
BASE := $(VENV)/.base
DEMO := $(VENV)/.ready-demo
READY := $(VENV)/.ready
PAGES := $(VENV)/.ready-pages
CHROMIUM := $(shell command -v chromium || command -v chromium-browser || command -v google-chrome)
BROWSER := $(if $(filter true,$(CI)),$(if $(CHROMIUM),,$(PAGES)))
INSTALL := $(BIN)/python -m pip install --quiet --constraint constraints.txt

.DEFAULT_GOAL := help
.PHONY: help install pages demo secrets test integrations chaos soak secured transcript docs bench peers operations check format releaseforms wheel clean

help:  ## show this list
	@grep -hE '^[a-z]+:.*##' $(MAKEFILE_LIST) | sed 's/:.*##/\t/' | expand -t 12

$(BASE): pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
		{ echo "Celeriac needs Python 3.11 or newer; name one with: make PYTHON=python3.11" >&2; exit 2; }
	$(PYTHON) -m venv $(VENV)
	$(INSTALL) hatchling editables
	@touch $@

$(DEMO): $(BASE)
	$(INSTALL) --no-build-isolation --editable '.[demo]'
	@touch $@

$(READY): $(BASE)
	$(INSTALL) --no-build-isolation --editable '.[dev]'
	@touch $(DEMO) $@

$(PAGES): $(READY)
	$(INSTALL) --no-build-isolation --editable '.[dev,pages]'
	@touch $@

install: $(READY)  ## make .venv with everything in it

pages: $(PAGES)  ## install a browser for tests of pages, where there is no Chromium

demo: $(DEMO)  ## predict scikit-learn's digits through the embedded system
	$(BIN)/celeriac demo

secrets: .env  ## write .env with passwords and a signing key for docker compose; one that is there stays

.env:
	@umask 077; $(PYTHON) -c 'import secrets; print(*(f"{name}={secrets.token_hex(32)}" for name in \
		("REDIS_PASSWORD", "CELERIAC_SIGNING_KEY", "FLOWER_PASSWORD", "GRAFANA_PASSWORD")), sep="\n")' > $@.new && mv $@.new $@

# What each file costs: make test ARGS="-p tests.costs"
test: $(READY) $(BROWSER)  ## run every test, five files at a time: they wait as much as they compute; the short ones come last
	$(BIN)/python -m pytest -n 5 --dist loadfile --no-loadscope-reorder $(ARGS)

# An environment of its own, as PyTorch is large: TORCH=torch==2.13.0+cpu, or whichever build there is for processors alone.
TORCH ?= torch
APART := .venv-integrations

$(APART)/.ready: pyproject.toml constraints.txt
	$(PYTHON) -m venv $(APART)
	$(APART)/bin/python -m pip install --quiet --constraint constraints.txt hatchling editables
	$(APART)/bin/python -m pip install --quiet --constraint constraints.txt --no-build-isolation $(TORCH) --editable '.[dev,integrations]'
	@touch $@

integrations: $(APART)/.ready  ## feed data sets of PyTorch, Hugging Face, DuckDB, polars, pandas; ARGS="-k tensors" for a few
	$(APART)/bin/python -m pytest tests/integration/test_foreign_data.py tests/integration/test_frames.py tests/acceptance/test_frame_examples.py $(ARGS)

# Storms of kills over outputs alone, with other seeds: make chaos SEEDS=100:130 ARGS="-k storm"
# Many seeds in a row, in several goes: make chaos SEEDS=0:500 PASSED=passed.txt ARGS="-k whatever_else"
chaos: $(READY)  ## the long form: 50 seeds of injuries under load, lost hosts, workers that come and go, versions that change, damaged bytes
	LONG=1 $(BIN)/python -m pytest tests/chaos \
		tests/acceptance/test_bad_models.py tests/acceptance/test_command.py tests/acceptance/test_first_hour.py tests/unit/test_fuzz.py \
		$(addprefix tests/integration/test_,deaths.py detached.py edge_rows.py model_kinds.py queues.py random_networks.py reload.py sentinel.py snapshots.py) $(ARGS)

HOURS ?= 2
SEED ?= 0

soak: $(READY)  ## two hours of all kinds of jobs on one system that is hurt: does anything grow, or stay? HOURS=0.5 SEED=3
	$(BIN)/python -m tests.soak --hours $(HOURS) --seed $(SEED)

secured: $(READY)  ## run the tests of whole systems with users of least rights, TLS with client certificates, and signing
	SECURED=1 $(BIN)/python -m pytest -n 5 --dist loadfile --no-loadscope-reorder $(ARGS) tests/integration tests/acceptance

transcript: $(READY)  ## write docs/transcript.md anew: what a new user does and sees
	WRITE_TRANSCRIPT=1 $(BIN)/python -m pytest -q tests/acceptance/test_transcript.py

# Small: neither TensorFlow nor the tests' tools.
$(VENV)/.ready-docs: pyproject.toml constraints.txt
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --constraint constraints.txt hatchling editables
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --no-build-isolation --editable '.[docs]'
	@touch $@

docs: $(VENV)/.ready-docs  ## build the documentation as a site, build/site/index.html; a broken link is an error
	$(BIN)/mkdocs build --strict

bench: $(READY)  ## measure speed and memory; ARGS=--quick for small sizes
	$(BIN)/python -m benchmarks $(ARGS)

peers: $(READY)  ## measure against other systems, each installed in an environment of its own
	$(BIN)/python -m benchmarks.peers $(ARGS)

operations: $(READY)  ## sweep what executors make of operations; writes docs/executors.md and the table; ARGS="--jobs 2"
	$(BIN)/python -m benchmarks.operations $(ARGS)

check: $(READY)  ## lint, format, types (and whether all that is public has one), layers
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	for package in producer celeriac; do \
		PATH="$(abspath $(BIN)):$$PATH" basedpyright --verifytypes $$package --ignoreexternal || exit 1; done
	$(BIN)/lint-imports

format: $(READY)  ## put the code in form
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

releaseforms: $(READY)  ## write down what travels between producers and workers of this release, for later ones to understand
	$(BIN)/python -m tests.release_forms

wheel: $(READY)  ## build dist/celeriac-*.whl
	$(BIN)/python -m build --no-isolation --wheel

clean:  ## remove .venv, what stands beside it, and what was built
	rm -rf $(VENV) $(APART) dist build
