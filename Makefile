# Every target sets up what it needs on a machine that has Python 3.11+, make and git.
PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed
RUN ?= runs/default

.PHONY: help install simulation test test-slow mutants lint bench clean
.DEFAULT_GOAL := help

help: ## this list
	@grep -hE '^[a-z-]+:.*##' $(MAKEFILE_LIST) | awk -F ':.*## ' '{printf "  make %-12s %s\n", $$1, $$2}'

$(STAMP): pyproject.toml
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --upgrade pip
	$(BIN)/python -m pip install --quiet -e '.[dev]'
	@touch $@

install: $(STAMP) ## virtual environment with everything

simulation: $(STAMP) ## the main job on the embedded synthetic cohort: a printed table and $(RUN)/report.html
	$(BIN)/emgup simulate default --out $(RUN)

test: $(STAMP) ## all fast tests (under 10 minutes on 2 cores)
	$(BIN)/python -m pytest -n auto --dist loadfile

test-slow: $(STAMP) ## the minutes-long tests: kills of real processes, full runs
	$(BIN)/python -m pytest -m slow

# SAMPLE=200 tries that many, drawn with SEED; AGAIN=--again tries survivors again (docs/testing.md)
mutants: $(STAMP) ## mutation tests of the core packages: hours; SAMPLE=200 tries a sample; goes on where it was stopped
	$(BIN)/python -m tests.mutants $(if $(SAMPLE),--sample $(SAMPLE)) --seed $(or $(SEED),0) --processes $(or $(PROCESSES),1) $(AGAIN)

lint: $(STAMP) ## style and types
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

bench: $(STAMP) ## speed and memory: one user, source training, live decisions, federation against a bare loop
	$(BIN)/emgup bench cost
	$(BIN)/emgup bench backbones
	$(BIN)/emgup bench latency
	$(BIN)/emgup bench overhead default --out runs/bench

clean: ## remove the environment and caches; runs and data stay
	rm -rf $(VENV) .mypy_cache .ruff_cache .pytest_cache .hypothesis
