# `make demo` shows a pool at work; `make test` runs the tests. Both make .venv first, from the lock files.

SHELL := /bin/bash
VENV := .venv
BIN := $(VENV)/bin
RUN := $(VENV)/.installed-run
DEV := $(VENV)/.installed-dev
ENVIRONMENT := pyproject.toml scripts/environment.sh
# What the tests and the demo need of the distribution, as program=package.
SANDBOX := bwrap=bubblewrap
TESTING := $(SANDBOX) strace=strace openssl=openssl curl=curl git=git ip=iproute2 promtool=prometheus ruby=ruby node=nodejs cc=gcc
# What the machine needs on which the long tests boot another one.
GUEST := qemu-system-x86_64=qemu-system-x86 busybox=busybox-static mkfs.ext4=e2fsprogs

.DEFAULT_GOAL := help
.PHONY: help demo test test-long simulate check format bench lock clean

help: ## say what there is to make
	@grep -hE '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | sed -E 's/^([a-z-]+):.*## /  make \1\t/' | expand -t 20

$(RUN): requirements.lock $(ENVIRONMENT)
	@bash scripts/environment.sh requirements.lock
	@touch $@

$(DEV): requirements-dev.lock $(ENVIRONMENT)
	@bash scripts/environment.sh requirements-dev.lock
	@touch $@ $(RUN)

demo: $(RUN) ## start a pool with two workers, run a job on it, show the result
	@bash scripts/system.sh $(SANDBOX)
	@$(BIN)/python scripts/demo.py

test: check ## style, types, layers, and the tests that a change needs
	@bash scripts/system.sh $(TESTING)
	$(BIN)/python -m pytest -m "not long" $(ARGS)

test-long: $(DEV) ## run the tests that take long
	@bash scripts/system.sh $(TESTING) $(GUEST)
	@bash scripts/guest-kernel.sh .guest
	$(BIN)/python -m pytest -m long --timeout 3600 $(ARGS)

SEEDS ?= 1000
simulate: $(DEV) ## run SEEDS=1000 fresh seeds of the simulation; SIM_SEED=… replays one
	PYTHONPATH=tests $(BIN)/python -m simulation.engine --seeds $(SEEDS) $(ARGS)

check: $(DEV) ## style, types and layers
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

format: $(DEV) ## put the code in its form
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

bench: $(DEV) ## measure against baselines; figures go to bench/results/
	@bash scripts/system.sh $(SANDBOX)
	$(BIN)/python bench/run.py $(ARGS)

# The locks hold no address of an index: what pip is set to use is used. They need uv, which the rest does not.
UV ?= uv
COMPILE = $(UV) pip compile --universal --python-version 3.11 --generate-hashes --no-annotate --no-header \
	--no-emit-index-url --no-emit-find-links --quiet pyproject.toml scripts/build-requirements.in

lock: ## pin the newest versions that fit
	$(COMPILE) --upgrade -o requirements.lock
	$(COMPILE) --upgrade --group dev -c requirements.lock -o requirements-dev.lock

clean: ## forget the environment and the demo
	rm -rf $(VENV) .demo
