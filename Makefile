# `make demo` draws digits with and without guidance; `make test` runs the tests.
# Both set up .venv on the first run and reuse it afterwards.

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip --disable-pip-version-check

.PHONY: demo test soak conformance check bench docs clean
.DEFAULT_GOAL := help

help:
	@echo "make demo    draw digits with several guidance methods; writes out/demo.png"
	@echo "make test    run the tests"
	@echo "make soak    make 2,000 steps on three ranks with random faults"
	@echo "make conformance  check all that ships with 20 seeds, and with ten times the examples"
	@echo "make check   run the linter and the type checker"
	@echo "make bench   measure the cost of a step, and what several ranks gain"
	@echo "make docs    build the documentation into site/"

# A stamp per set of packages, so that nothing is installed twice.
$(BIN)/python:
	$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "Python 3.11 or newer is needed; set PYTHON=...")'
	$(PYTHON) -m venv $(VENV)

$(VENV)/.demo: pyproject.toml constraints.txt | $(BIN)/python
	$(PIP) install -q -c constraints.txt torch==2.13.0
	$(PIP) install -q -c constraints.txt -e '.[cli,demo]'
	@touch $@

$(VENV)/.dev: $(VENV)/.demo
	$(PIP) install -q -c constraints.txt -e '.[dev,hosts]'
	@touch $@

$(VENV)/.docs: $(VENV)/.demo
	$(PIP) install -q -c constraints.txt -e '.[docs]'
	@touch $@

demo: $(VENV)/.demo
	$(BIN)/guidance-core sample --guidance "" --guidance cfg:scale=3 --guidance cfg:scale=3,rescale:phi=0.7 \
		--guidance apg:scale=4 --guidance stg:scale=1,blocks=3 --out out/demo.png

test: $(VENV)/.dev
	$(BIN)/python -m pytest $(PYTEST_ARGS)

check: $(VENV)/.dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

soak: $(VENV)/.dev
	$(BIN)/python tests/soak.py

conformance: $(VENV)/.dev
	$(BIN)/python tests/thorough.py

bench: $(VENV)/.dev
	$(BIN)/guidance-core bench dispatch
	$(BIN)/guidance-core bench combine
	$(BIN)/guidance-core bench parallel

docs: $(VENV)/.docs
	$(BIN)/mkdocs build --strict

clean:
	rm -rf $(VENV) out site
