# Everything a newcomer needs: `make demo` and `make check`. Needs Python 3.11 or 3.12 (with venv), make and git.
SHELL := /bin/bash
.DEFAULT_GOAL := help

VENV ?= .venv
BIN := $(VENV)/bin
PY := $(BIN)/python
STAMP := $(VENV)/.installed
UV ?= $(PY) -m uv
# Airflow has an environment of its own: its caps shall not drive the versions that Ray and the rest run with.
AIRFLOW_VENV ?= .venv-airflow
AIRFLOW_STAMP := $(AIRFLOW_VENV)/.installed
AUDIT_VENV ?= .venv-audit
AUDIT_STAMP := $(AUDIT_VENV)/.installed
SBOM ?= sbom

# A name on PATH may be a shim that cannot run, so ask each candidate to start.
CHECK_PYTHON := import sys, venv, ensurepip; sys.exit(not (3, 11) <= sys.version_info[:2] < (3, 13))
PYTHON ?= $(shell for name in python3.11 python3.12 python3; do \
	"$$name" -c '$(CHECK_PYTHON)' >/dev/null 2>&1 && { echo "$$name"; break; }; done)

TESTS := OMP_NUM_THREADS=1 $(PY) -m tests

# Passed to `make demo`: your own transactions, their schema and a training configuration.
DATA ?=
SCHEMA ?=
CONFIG ?=
# BARE=1: `make up` leaves out what /score served last.
BARE ?=

export RAY_USAGE_STATS_ENABLED := 0
export MLFLOW_DISABLE_TELEMETRY := true
export DO_NOT_TRACK := 1
export AIRFLOW__USAGE_DATA_COLLECTION__ENABLED := False
export AIRFLOW_VENV

.PHONY: help setup demo up airflow down status shell env check test drills types lint format bench lock audit sbom \
	backup restore clean

help: ## show this list
	@grep -hE '^[a-z]+:.*## ' $(MAKEFILE_LIST) | sed -E 's/^([a-z]+):.*## /  make \1\t/' | expand -t 16
	@echo "  make demo DATA=path SCHEMA=path [CONFIG=path]   the same with your own transactions"

setup: $(STAMP) ## install into .venv with uv, or with pip where uv cannot be had

# The stamp makes a second run free; a changed lock or pyproject installs again into the same environment.
$(STAMP): requirements.lock pyproject.toml
	@test -n "$(PYTHON)" || { echo "error: no Python 3.11 or 3.12 with its venv module found on PATH" \
		"(Debian: apt-get install python3.11-venv), or name one: make PYTHON=/path/to/python3.11" >&2; exit 1; }
	@echo "installing into $(VENV) with $$("$(PYTHON)" --version) ..."
	@test -x $(PY) || "$(PYTHON)" -m venv $(VENV)
	@.ci/install $(VENV) requirements.lock .
	@touch $@

$(AIRFLOW_STAMP): requirements-airflow.lock
	@test -n "$(PYTHON)" || { echo "error: no Python 3.11 or 3.12 with its venv module found on PATH" >&2; exit 1; }
	@echo "installing Airflow into $(AIRFLOW_VENV) ..."
	@test -x $(AIRFLOW_VENV)/bin/python || "$(PYTHON)" -m venv $(AIRFLOW_VENV)
	@.ci/install $(AIRFLOW_VENV) requirements-airflow.lock
	@touch $@

demo: $(STAMP) ## data, training, registry, live /score, a scored day and a drift report on a local Ray
	@$(PY) -m deploy.local demo $(if $(DATA),--data '$(DATA)') $(if $(SCHEMA),--schema '$(SCHEMA)') $(if $(CONFIG),--config '$(CONFIG)')

up: $(STAMP) ## start Ray and MLflow on this machine, and /score with what it served last (safe to repeat)
	@$(PY) -m deploy.local up $(if $(BARE),--bare)

airflow: $(STAMP) $(AIRFLOW_STAMP) ## up, and Airflow with the DAGs beside it (safe to repeat)
	@$(PY) -m deploy.local airflow $(if $(BARE),--bare)

down: ## end /score in order, then stop what demo, up or airflow started, and only that
	@if test -x $(PY); then $(PY) -m deploy.local down; else echo "nothing is installed, so nothing runs"; fi

status: $(STAMP) ## say what runs and where, and the model, replicas and history of /score
	@$(PY) -m deploy.local status

shell: ## open a shell in which `ray` and `serve` find the running stack
	@$(PY) -m deploy.local shell

env: ## the same as variables: eval "$$(make -s env)"
	@$(PY) -m deploy.local env

check: types ## lint, types and the quick tests: what to run before a commit
	@$(TESTS) check

test: lint ## lint, types, every test but the long drills, and the coverage floor of the core
	@$(TESTS) test

drills: $(STAMP) $(AIRFLOW_STAMP) ## the tests of minutes: killed nodes, killed drivers, `ray up`
	@$(TESTS) drills

types: $(STAMP)
	@$(BIN)/ruff check .
	@$(BIN)/ruff format --check .
	@$(BIN)/mypy

lint: types $(AIRFLOW_STAMP) ## ruff, mypy (the DAGs too, with Airflow) and hadolint
	@MYPYPATH=dags/plugins $(BIN)/mypy --python-executable $(AIRFLOW_VENV)/bin/python dags
	@$(BIN)/hadolint Dockerfile deploy/docker/Airflow.Dockerfile

format: $(STAMP) ## rewrite the code in the house format
	@$(BIN)/ruff check --fix --exit-zero .
	@$(BIN)/ruff format .

bench: $(STAMP) ## measure detection, speed and memory; prints tables and writes benchmarks/results
	@for file in benchmarks/bench_*.py benchmarks/*/__main__.py; do test -e "$$file" || continue; \
		module=$${file%.py}; module=$${module%/__main__}; echo "== $$module"; $(PY) -m "$${module//\//.}" || exit 1; done

LOCK := pip compile --quiet --universal --python-version 3.11 --annotation-style line \
	--no-emit-index-url --no-emit-find-links --custom-compile-command "make lock"
lock: ## resolve the lock files anew from pyproject.toml (with the uv of `make setup`)
	@$(UV) $(LOCK) --extra dev pyproject.toml -o requirements.lock
	@$(UV) $(LOCK) --group pyproject.toml:airflow -o requirements-airflow.lock
	@$(UV) $(LOCK) --group pyproject.toml:audit -o requirements-audit.lock

$(AUDIT_STAMP): requirements-audit.lock
	@test -x $(AUDIT_VENV)/bin/python || "$(PYTHON)" -m venv $(AUDIT_VENV)
	@.ci/install $(AUDIT_VENV) requirements-audit.lock
	@touch $@

audit: $(AUDIT_STAMP) ## known vulnerabilities of every pinned package; fails where PyPI cannot be asked
	@for lock in requirements.lock requirements-airflow.lock; do echo "== $$lock"; \
		$(AUDIT_VENV)/bin/pip-audit --strict --disable-pip --no-deps --progress-spinner off -r $$lock || exit 1; done

sbom: $(AUDIT_STAMP) ## bills of materials (CycloneDX JSON) of the locks into sbom/; asks nobody
	@mkdir -p $(SBOM)
	@for lock in requirements requirements-airflow; do $(AUDIT_VENV)/bin/cyclonedx-py requirements $$lock.lock \
		--output-reproducible -o $(SBOM)/$$lock.cdx.json && echo "$(SBOM)/$$lock.cdx.json" || exit 1; done

backup: $(STAMP) ## save var/ into backups/, also while it runs; OUT=file names another
	@$(PY) -m deploy.local.backup create $(if $(OUT),--out '$(OUT)')

restore: $(STAMP) ## FILE=file: check a backup and unpack it into an empty var/; INTO=folder names another
	@$(PY) -m deploy.local.backup restore '$(FILE)' $(if $(INTO),--into '$(INTO)')

clean: down ## remove the environment and caches; data/, artifacts/ and var/ stay
	@rm -rf $(VENV) $(AIRFLOW_VENV) $(AUDIT_VENV) sbom .pytest_cache .mypy_cache .ruff_cache .hypothesis .coverage htmlcov build *.egg-info
	@find . -name __pycache__ -type d -not -path './.git/*' -prune -exec rm -rf {} +
