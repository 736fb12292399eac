# Everything a developer does here. Each target sets up what it needs in .venv, from nothing but Python 3.11 and make.
#
#   make test ARGS="tests/unit -x"     arguments go on to the program
#   make UV=                           set up with pip even where uv is installed
#   make PYTHON=/path/to/python3.12    choose the Python that .venv is made of

.DEFAULT_GOAL := help
.DELETE_ON_ERROR:
MAKEFLAGS += --no-builtin-rules

VENV := .venv
BIN := $(VENV)/bin
READY := $(VENV)/.ready
SOURCES := slayq slayq_server tests tools bench examples docs
ARGS ?=
PIP_QUIET := -qq --disable-pip-version-check --no-input

UV ?= $(shell command -v uv)
NEW_ENOUGH := import sys, venv, ensurepip; sys.exit(sys.version_info < (3, 11))
PYTHON ?= $(shell for python in python3.13 python3.12 python3.11 python3 python3.14 python; do \
	$$python -c '$(NEW_ENOUGH)' >/dev/null 2>&1 && { echo $$python; break; }; done)

.PHONY: help
help: ## Show this list
	@sed -nE 's/^([a-z-]+):.*## (.*)/  make \1\t\2/p' $(MAKEFILE_LIST) | expand -t 24

.PHONY: dev
dev: $(READY) ## Run Postgres, the server and a sample app; stop with Ctrl-C
	$(BIN)/slayq-server dev $(ARGS)

.PHONY: demo
demo: $(READY) ## Send sample jobs through it all, and check that each ends as it should
	$(BIN)/slayq-server demo $(ARGS)

.PHONY: tour
tour: $(READY) ## Walk through every feature of durable functions, under each driver and framework, checking each promise
	$(BIN)/python -m tools.tour $(ARGS)

# A worker for each core, each with a Postgres of its own.
.PHONY: test
test: $(READY) ## Run all tests
	$(BIN)/python -m pytest -n logical --maxprocesses 8 --dist worksteal $(ARGS)

.PHONY: test-long
test-long: $(READY) ## Run the tests that `make test` leaves out: kills at every step, and a minute of chaos
	$(BIN)/python -m pytest -n logical --maxprocesses 8 --dist worksteal -m long $(ARGS)

# `make test` has the contract suite on one daemon; this is all of it, with two daemons and with kills. A class of tests
# shares an app, daemons and a database, so it stays with one worker.
.PHONY: contract
contract: $(READY) ## Run what a stock app relies on: in every variant, with one and two daemons, and with kills
	$(BIN)/python -m pytest -n logical --maxprocesses 8 --dist loadscope -m '' tests/contract $(ARGS)

.PHONY: chaos
chaos: $(READY) ## Kill, freeze and cut off everything at random, and check that nothing is lost (ARGS="--minutes 30 --daemons 3")
	$(BIN)/python -m tests.chaos $(ARGS)

.PHONY: soak
soak: $(READY) ## Run for an hour at a moderate load, and tell whether anything grows, is lost or comes twice (ARGS="--minutes 10")
	$(BIN)/python -m bench.soak $(ARGS)

.PHONY: test-majors
test-majors: $(READY) ## Run the tests of the SQL and the migrations on each other version of Postgres found here
	@set -e; majors=$$($(BIN)/python -m tests.support.majors); for each in $$majors; do \
		echo "== Postgres $$each"; \
		SLAYQ_TEST_PG=$$each $(BIN)/python -m pytest -n logical --maxprocesses 8 --dist worksteal \
			tests/sql tests/integration/takeover $(wildcard tests/integration/test_migrat*.py) $(ARGS); \
	done

.PHONY: check
check: $(READY) ## Check format, style, types, and who imports whom
	$(BIN)/ruff format --check $(wildcard $(SOURCES))
	$(BIN)/ruff check $(wildcard $(SOURCES))
	$(BIN)/mypy
	$(BIN)/pyright --pythonpath $(BIN)/python
	$(BIN)/lint-imports

.PHONY: format
format: $(READY) ## Format the code, and mend what the linter can mend
	$(BIN)/ruff format $(wildcard $(SOURCES))
	$(BIN)/ruff check --fix $(wildcard $(SOURCES))

.PHONY: docs
docs: $(READY) ## Build the documentation as HTML, in build/docs; a warning is an error
	$(BIN)/python -m sphinx --fail-on-warning --keep-going --nitpicky --quiet --fresh-env docs build/docs $(ARGS)

.PHONY: bench
bench: $(READY) ## Measure deliveries per second, CPU per job and latency on this machine, beside Graphile Worker (a few minutes)
	$(BIN)/python -m bench $(ARGS)

.PHONY: bench-full
bench-full: $(READY) ## Measure everything, at full size, and write docs/performance.md anew: on a machine that does nothing else
	$(BIN)/python -m bench --scale full $(ARGS)

.PHONY: bench-smoke
bench-smoke: $(READY) ## See that every case of the benchmark works, in miniature
	$(BIN)/python -m bench --scale smoke --output bench/results/smoke.json $(ARGS)

.PHONY: lock
lock: | $(BIN)/python ## Bring uv.lock and requirements.lock in line with pyproject.toml (ARGS=--upgrade: newest versions)
	UV="$(UV)" $(BIN)/python tools/lock.py $(ARGS)

.PHONY: clean
clean: ## Remove all that was set up, built or cached
	rm -rf $(VENV) .mypy_cache .ruff_cache .pytest_cache .hypothesis .import_linter_cache build dist *.egg-info
	find $(wildcard $(SOURCES)) -name __pycache__ -type d -prune -exec rm -rf {} +

# The versions and hashes are those of requirements.lock, whichever tool installs them.
$(READY): pyproject.toml requirements.lock | $(BIN)/python
	@echo "Setting up $(VENV): this takes up to a minute, and only the first time" >&2
ifneq ($(UV),)
	@$(UV) pip install --quiet --python $(BIN)/python --require-hashes --requirement requirements.lock
	@$(UV) pip install --quiet --python $(BIN)/python --no-deps --editable .
else
	@$(BIN)/python -m pip --version >/dev/null 2>&1 || $(BIN)/python -m ensurepip >/dev/null
	@$(BIN)/python -m pip install $(PIP_QUIET) --require-hashes --requirement requirements.lock
	@$(BIN)/python -m pip install $(PIP_QUIET) --no-deps --editable .
endif
	@touch $@

$(BIN)/python:
ifneq ($(UV),)
	@$(UV) venv --quiet --clear --python '>=3.11' $(VENV)
else
	@test -n "$(PYTHON)" || { \
		echo "No Python of version 3.11 or later, with its venv module, is on the PATH: install one" >&2; \
		echo "(on Debian and Ubuntu: apt-get install python3 python3-venv), or name it: make PYTHON=..." >&2; \
		exit 1; }
	@$(PYTHON) -m venv --clear $(VENV)
endif
