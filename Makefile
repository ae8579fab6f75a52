# Everything that people and CI run. `make` alone lists it.
.SHELLFLAGS := -euc
.DEFAULT_GOAL := help
MAKEFLAGS += --no-print-directory

VENV ?= .venv
ENV_GROUPS ?= dev
WORLD ?= local
RUNS ?= 20
SEED ?= 1
FUZZ_SECONDS ?= 60
REPLAY ?=
ARGS ?=
PYTEST_ARGS ?=

PY := $(VENV)/bin/python
PYTEST := $(PY) -m pytest $(PYTEST_ARGS)
# Made by setup, out of date as soon as the lock is newer.
STAMP := $(VENV)/.setup-$(subst $() ,-,$(strip $(ENV_GROUPS)))
# Those of the given folders that hold Python files.
have = $(foreach folder,$(1),$(if $(wildcard $(folder)/*.py $(folder)/*/*.py),$(folder)))

.PHONY: help
help:  ## this list
	@echo 'millstream: carries data to a served model. Targets:'
	@awk -F ':.*## ' '/^[a-z0-9%-]+:.*## / { sub("%", "<name>", $$1); printf "  %-14s %s\n", $$1, $$2 }' $(firstword $(MAKEFILE_LIST))
	@echo 'Variables: WORLD=local RUNS=20 SEED=1 FUZZ_SECONDS=60 PYTHON=python3.12 PYTEST_ARGS="-k words" ARGS="..." (for demo and bench)'

.PHONY: setup
setup: $(STAMP)  ## make .venv from uv.lock (PYTHON=... chooses the interpreter, ENV_GROUPS=lint a small one)
	@tools/setup/buf.sh || echo 'Without buf everything but the proto part of `make lint` works.' >&2

$(STAMP): uv.lock tools/setup/python.sh
	@tools/setup/python.sh '$(VENV)' $(ENV_GROUPS)
	@touch $@

.PHONY: servers
servers: $(STAMP)  ## bring a real Kafka and MinIO for tests and demos, once (needs Java, Maven and Go; minutes)
	@$(PY) -m deploy.servers install

.PHONY: demo
demo: $(STAMP)  ## from a file to a prediction on this machine; ends with a line `DEMO OK {...}` (ARGS="--recipe NAME")
	@$(PY) -m deploy.demo $(if $(filter-out local,$(WORLD)),--world '$(WORLD)') $(ARGS)

.PHONY: test
test: $(STAMP)  ## unit, contract, integration, recipe and end-to-end tests; on Kafka and MinIO too after `make servers`
	@$(PYTEST) $(call have,tests/unit tests/house tests/contract tests/integration tests/e2e recipes)

.PHONY: e2e
e2e: $(STAMP)  ## the end-to-end scenario in WORLD
	@TEST_WORLD='$(WORLD)' $(PYTEST) tests/e2e

.PHONY: chaos
chaos: $(STAMP)  ## the scenario with faults; beyond WORLD=local RUNS of them from SEED, resumed (RUNS=0: each kind once)
	@export TEST_WORLD='$(WORLD)' TEST_CHAOS_RUNS='$(RUNS)' TEST_CHAOS_SEED='$(SEED)'; \
	if [ '$(WORLD)' = local ]; then $(PYTEST) tests/chaos; \
	elif [ '$(RUNS)' = 0 ]; then $(PYTEST) tests/chaos/test_faults.py; \
	else $(PY) -m bench.chaos --world '$(WORLD)' --runs '$(RUNS)' --seed '$(SEED)'; fi

.PHONY: fuzz
fuzz: $(STAMP)  ## random calls, events, files and commands for FUZZ_SECONDS, from SEED (REPLAY=kind/number: one case)
	@$(PY) -m tests.fuzz --seconds '$(FUZZ_SECONDS)' --seed '$(SEED)' --replay '$(REPLAY)'

.PHONY: lint
lint: $(STAMP) protos-check  ## ruff, mypy, import contracts, buf, fresh generated code
	@$(VENV)/bin/ruff check .
	@$(VENV)/bin/ruff format --check .
	@$(VENV)/bin/mypy $(call have,millstream servicekit recipekit recipes services deploy bench tests tools)
	@$(VENV)/bin/lint-imports --no-cache --no-logo
	@$(PY) tools/generate_docs.py --check
	@tools/setup/buf.sh lint

.PHONY: protos
protos: $(STAMP)  ## generate millstream/<domain>/v1/ from protos/
	@$(PY) tools/generate_protos.py

.PHONY: protos-check
protos-check: $(STAMP)  ## fail if the generated code is not what protos/ says
	@$(PY) tools/generate_protos.py --check

.PHONY: wheel
wheel: $(STAMP)  ## build the client's wheel in dist/
	@rm -f dist/millstream-*.whl
	@$(PY) -m hatchling build -t wheel -d dist

.PHONY: docs
docs: $(STAMP)  ## write docs/configuration.md and docs/metrics.md from the code
	@$(PY) tools/generate_docs.py

bench-%: $(STAMP)  ## run one benchmark: bench/<name>/
	@test -f bench/$*/__main__.py || { echo "There is no benchmark bench/$*/; there are: $(notdir $(patsubst %/__main__.py,%,$(wildcard bench/*/__main__.py)))" >&2; exit 2; }
	@$(PY) -m bench.$* $(ARGS)
