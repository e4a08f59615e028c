# One line over a tool each. PYTHON chooses the interpreter; any other than the
# default gets a virtual environment of its own, so two versions never mix.

PYTHON ?= python3
VENV ?= $(if $(filter python3,$(PYTHON)),.venv,.venv-$(notdir $(PYTHON)))
BIN := $(VENV)/bin
VERSION := $(shell $(PYTHON) -c 'import sys; print("%d.%d" % sys.version_info[:2])')
INSTALLED := $(VENV)/.installed-$(VERSION)
PROTOS := $(shell find protos -name '*.proto' 2>/dev/null)

# Arguments for pytest: make test ARGS='-k names -x'
ARGS ?=
# Tests at once: most of them wait for processes that they started.
WORKERS ?= 2
PYTEST = $(BIN)/python -m pytest -n $(WORKERS) --dist loadfile --no-loadscope-reorder
# Rounds and seed of the long campaigns; unset, the tests take small defaults.
ROUNDS ?=
SEED ?=
# What `breaking` compares with, beside the last released version.
AGAINST ?= $(shell git rev-parse -q --verify origin/main || git rev-parse -q --verify main)
RELEASED = $(shell git log -1 --format=%H -G'^version = ' -- pyproject.toml)^

.DEFAULT_GOAL := help
.PHONY: help setup protos demo test campaigns faults e2e kills losses fencing takeovers ownership messages valkey-kills storm sizes crowd \
	every-call histories bench lint format types breaking deploy-check lock clean

help: ## list these targets
	@sed -n 's/^\([a-z-]*\):.*## \(.*\)/\1\t\2/p' $(MAKEFILE_LIST) | expand -t 15

setup: $(INSTALLED) protos/.compiled ## make the virtual environment and the stubs

# A folder left by another Python version is made anew; one of this version is kept.
$(INSTALLED): requirements-dev.txt pyproject.toml setup.py
	@$(PYTHON) -c 'import sys; sys.version_info >= (3, 11) or sys.exit("cannot use $(PYTHON), Python %d.%d: name 3.11 or newer, as in make setup PYTHON=python3.13" % sys.version_info[:2])'
	@test -x $(BIN)/python$(VERSION) || $(PYTHON) -m venv --clear $(VENV)
	$(BIN)/python -m pip install --quiet --require-hashes -r requirements-dev.txt
	$(BIN)/python -m pip install --quiet --no-build-isolation --no-deps --editable .
	@touch $@ protos/.compiled

protos: protos/.compiled ## compile protos/ into stubs

protos/.compiled: $(PROTOS) setup.py | $(INSTALLED)
	$(BIN)/python setup.py --quiet protos
	@touch $@

demo: setup ## a real agent survives the death of its container
	$(BIN)/townkeeper demo

test: setup ## every test but the campaigns (ARGS='-k names -x')
	$(PYTEST) -m "not campaign" $(ARGS)

campaigns: setup ## the fault campaigns, in small rounds
	$(PYTEST) -m campaign $(ARGS)

faults: setup ## the fault campaigns (ROUNDS=50 SEED=1)
	ROUNDS=$(ROUNDS) SEED=$(SEED) $(BIN)/python -m pytest -m faults $(ARGS)

e2e: setup ## the stories through the outside interface (ROUNDS=50 SEED=1)
	ROUNDS=$(ROUNDS) SEED=$(SEED) $(BIN)/python -m pytest -m e2e $(ARGS)

kills: setup ## SIGKILL a real agent's container again and again (ROUNDS=50 SEED=1)
	$(BIN)/python -m tests.faults.kill_campaign --rounds $(or $(ROUNDS),50) --seed $(or $(SEED),1)

losses: setup ## SIGKILL at random instants: how much was not saved? (ROUNDS=500 SEED=1)
	$(BIN)/python -m tests.faults.loss_campaign --rounds $(or $(ROUNDS),500) --seed $(or $(SEED),1)

fencing: setup ## pause a writer beyond its lease again and again (ROUNDS=200 SEED=1)
	$(BIN)/python -m tests.faults.fencing_campaign --rounds $(or $(ROUNDS),200) --seed $(or $(SEED),1)

takeovers: setup ## SIGKILL one of three containers again and again (ROUNDS=50 SEED=1)
	$(BIN)/python -m tests.faults.takeover_campaign --rounds $(or $(ROUNDS),50) --seed $(or $(SEED),1)

ownership: setup ## many claim the same agents at once: who owns what? (ROUNDS=50 SEED=1)
	$(BIN)/python -m tests.faults.ownership_campaign --rounds $(or $(ROUNDS),50) --seed $(or $(SEED),1)

messages: setup ## SIGKILL registry, gateway, Valkeys while messages are sent (MESSAGES=10000 SEED=1)
	$(BIN)/python -m tests.faults.message_campaign --messages $(or $(MESSAGES),10000) --seed $(or $(SEED),1)

valkey-kills: setup ## SIGKILL Valkey under load again and again (ROUNDS=100 SEED=1)
	$(BIN)/python -m tests.faults.snapshots.valkey_campaign --rounds $(or $(ROUNDS),100) --seed $(or $(SEED),1)

sizes: setup ## how much a session of 10 GB and 100 streams take (SIZE_MB=10000 STREAMS=100)
	$(BIN)/python -m tests.faults.size_campaign --size-mb $(or $(SIZE_MB),10000) --streams $(or $(STREAMS),100)

crowd: setup ## what 100,000 agents take of Redis, and 5,000 of one town (AGENTS=100000 TOWNS=10000)
	$(BIN)/python -m tests.faults.crowd_campaign --agents $(or $(AGENTS),100000) --towns $(or $(TOWNS),10000)

every-call: setup ## a fault at every call of the snapshot service to its stores
	ROUNDS=1 $(BIN)/python -m pytest -s tests/faults/snapshots/test_every_call.py $(ARGS)

histories: setup ## random histories of the snapshot service, and planted defects (ROUNDS=500 SEED=1)
	ROUNDS=$(or $(ROUNDS),500) SEED=$(or $(SEED),1) $(BIN)/python -m pytest tests/faults/snapshots/test_machine.py $(ARGS)

storm: setup ## saves under a storm of writers, each compared with SQLite's own view (ROUNDS=10000 SEED=1)
	$(BIN)/python -m tests.faults.save_storm --rounds $(or $(ROUNDS),10000) --seed $(or $(SEED),1)

bench: setup ## print the table of speeds, write bench/results.json (ARGS=--full)
	$(BIN)/python -m bench $(ARGS)

lint: setup ## style, imports, sizes, protos
	$(BIN)/ruff check
	$(BIN)/ruff format --check
	$(BIN)/python -m pytest -q tests/unit/test_house_rules.py
	$(BIN)/buf lint
	$(BIN)/buf format --diff --exit-code

format: setup ## rewrite to the house style
	$(BIN)/ruff check --fix
	$(BIN)/ruff format
	$(BIN)/buf format --write

types: setup ## mypy, strict
	$(BIN)/mypy

breaking: setup ## compare protos/ with main (or AGAINST=ref) and the last release
	@for ref in $(AGAINST) $(RELEASED); do \
	  if git ls-tree -r --name-only "$$ref" protos 2>/dev/null | grep -q '\.proto$$'; then \
	    echo "against $$ref"; \
	    $(BIN)/buf breaking --against ".git#ref=$$(git rev-parse "$$ref")" || exit 1; \
	  else \
	    echo "against $$ref: it has no protos, nothing to break"; \
	  fi; \
	done

deploy-check: setup ## validate deploy/base against the Kubernetes schemas
	$(BIN)/kubernetes-validate --strict $$(find deploy/base -name '*.yaml' ! -name kustomization.yaml)

lock: setup ## write the hashed requirements again, newest versions
	for extra in "" build dev; do \
	  $(BIN)/uv pip compile --quiet --upgrade --universal --python-version 3.11 \
	    --generate-hashes --no-annotate --no-header --no-emit-index-url \
	    --no-emit-find-links $${extra:+--extra $$extra} pyproject.toml \
	    --output-file requirements$${extra:+-$$extra}.txt; \
	done

clean: ## remove what make made, but no data
	rm -rf .venv .venv-* build dist *.egg-info protos/.compiled
	find protos -name '*_pb2*' -delete
	find . -name __pycache__ -prune -exec rm -rf {} +
