# Every target sets up what it needs: a virtual environment, the packages of constraints.txt, the assets of the recipe.

PYTHON ?= python3
VENV   := .venv
BIN    := $(VENV)/bin
RECIPE ?= demo
STORE  ?= store
# ADDRESS=auto or HOST:6379 runs on a Ray cluster; without it a local Ray is started on demand
ADDRESS ?=
# make resume FROM=distill continues from these steps; separate several by spaces
FROM   ?=
# more arguments of the command: make pipeline ARGS="-o distill.training.learning_rate=1e-4"
ARGS   ?=

# make soak MINUTES=5 SEED=3
MINUTES ?= 60
SEED    ?= 0

# make serve PORT=8000
PORT   ?= 5001
# make test-browser CHROMIUM=/path/to/chromium
export CHROMIUM ?= chromium

# tests of one group (tests/conftest.py) run in one process
PYTEST := $(BIN)/pytest --numprocesses 2 --dist loadgroup

RUN := $(BIN)/clozeline run $(RECIPE) --store $(STORE) $(if $(ADDRESS),--address $(ADDRESS)) $(ARGS)

.PHONY: help pipeline resume ui serve test test-all test-cluster test-models test-browser soak bench bench-quick check format reference docs clean

help:
	@echo "make pipeline [RECIPE=demo] [ADDRESS=...]   run a recipe; committed steps are not run again"
	@echo "make resume [FROM=distill] [RECIPE=demo]    continue a run; FROM reruns these steps and the steps that need them"
	@echo "make ui                                     browse runs, curves and figures in MLflow"
	@echo "make serve [RECIPE=demo] [PORT=5001]        serve the trained models over HTTP"
	@echo "make test [ARGS='-n 0 tests/stages']        run the tests, except the slow ones"
	@echo "make test-all                               run all tests, except those of a browser, a cluster and large models"
	@echo "make test-cluster                           run the tests that start a Ray cluster of several nodes"
	@echo "make test-browser                           run the tests that open MLflow and the report in Chromium"
	@echo "make test-models [ARGS='-k MiniLM']         run the tests that download real models, one model at a time"
	@echo "make soak [MINUTES=60] [SEED=0]             run the smoke recipe in a loop while things break"
	@echo "make bench                                  print all tables of speed, memory and the engine"
	@echo "make bench-quick                            run every benchmark with small sizes, to find broken ones"
	@echo "make check                                  lint, format, type and word checks"
	@echo "make reference                              write the generated pages of docs/reference"
	@echo "make docs                                   the same, then build the site into site/ and check its links"

INSTALL = $(BIN)/pip install --disable-pip-version-check --constraint constraints.txt --editable

$(VENV)/installed: pyproject.toml constraints.txt
	@echo "Setting up $(VENV): a few minutes the first time."
	@test -x $(BIN)/pip || $(PYTHON) -m venv $(VENV)
	@$(INSTALL) .
	@touch $@

# packages of the tests and checks
$(VENV)/installed-dev: $(VENV)/installed
	@$(INSTALL) ".[dev]"
	@touch $@

$(VENV)/installed-docs: $(VENV)/installed
	@$(INSTALL) ".[docs]"
	@touch $@

# a server of Azure's storage for the tests; where npm cannot install it, they are skipped
AZURITE := 3.37.0

$(VENV)/installed-azurite-$(AZURITE): $(VENV)/installed-dev
	@npm install --silent --no-audit --no-fund --prefix $(VENV)/azurite azurite@$(AZURITE) && touch $@ || \
	echo "npm could not install azurite: the tests of stores on Azure are skipped."

# the driver of a browser; the browser itself is installed on the machine
$(VENV)/installed-browser: $(VENV)/installed-dev
	@$(INSTALL) ".[browser]"
	@touch $@

pipeline: $(VENV)/installed
	@$(RUN)

resume: $(VENV)/installed
	@$(RUN) $(foreach step,$(FROM),--from '$(step)')

ui: $(VENV)/installed
	@test -f $(STORE)/mlflow.db || { echo "No runs in $(STORE) yet. Run make pipeline, or set STORE to another folder."; exit 1; }
	@echo "Open http://127.0.0.1:5000/#/experiments?workflowType=machine_learning"
	@$(BIN)/mlflow ui --host 127.0.0.1 --workers 1 --backend-store-uri sqlite:///$(abspath $(STORE))/mlflow.db \
		--artifacts-destination $(abspath $(STORE))/mlartifacts

serve: $(VENV)/installed
	@$(BIN)/clozeline serve $(RECIPE) --store $(STORE) --port $(PORT) $(ARGS)

test: $(VENV)/installed-azurite-$(AZURITE)
	@$(PYTEST) -m "not slow and not browser and not cluster and not models" $(ARGS)

test-all: $(VENV)/installed-azurite-$(AZURITE)
	@$(PYTEST) -m "not browser and not cluster and not models" $(ARGS)

# these tests start Ray clusters of several nodes, so only one of them may run at a time
test-cluster: $(VENV)/installed-dev
	@$(BIN)/pytest -m cluster $(ARGS)

# models of packages, one at a time: 2.6 GB of downloads, and up to 16 GB of memory; not part of CI
test-models: $(VENV)/installed-dev
	@$(BIN)/pytest -m models $(ARGS)

test-browser: $(VENV)/installed-browser
	@tests/browser/need_chromium
	@$(BIN)/pytest -m browser tests/browser $(ARGS)
	@echo "Screenshots of every page: test-results/browser"

# needs root, for a small disk that becomes full
soak: $(VENV)/installed-dev
	@PYTHONPATH=. $(BIN)/python -m tests.soak --minutes $(MINUTES) --seed $(SEED) $(ARGS)

# nothing else may run on the machine meanwhile
bench: $(VENV)/installed-dev
	@$(BIN)/python benchmarks/run_all.py

bench-quick: $(VENV)/installed-dev
	@$(BIN)/python benchmarks/run_all.py --quick

check: $(VENV)/installed-dev
	@$(BIN)/ruff check .
	@$(BIN)/ruff format --check .
	@$(BIN)/mypy
	@$(BIN)/python .ci/check_words.py

format: $(VENV)/installed-dev
	@$(BIN)/ruff check --fix .
	@$(BIN)/ruff format .

# generated from the config models of recipes, and from small copies of all models of transformers (10 minutes); tests
# compare the pages with them
reference: $(VENV)/installed
	@$(BIN)/clozeline schema --output docs/reference/recipe.schema.json
	@$(BIN)/clozeline schema --markdown --output docs/reference/recipe.md
	@$(BIN)/clozeline schema --models --output docs/reference/models.md

# with --strict a broken internal link or anchor fails the build; --quiet would hide the warnings
docs: reference $(VENV)/installed-docs
	@NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict
	@echo "Open site/index.html"

clean:
	rm -rf $(VENV) .pytest_cache .mypy_cache .ruff_cache site test-results
