# Every target sets up what it needs: a virtual environment, the packages of constraints.txt, the assets of the recipe.

PYTHON ?= python3
VENV   := .venv
BIN    := $(VENV)/bin
RECIPE ?= demo
STORE  ?= store
# ADDRESS=auto or HOST:6379 runs on a Ray cluster; without it a local Ray is started on demand
ADDRESS ?=
# make resume FROM=distill goes on from these steps; several with spaces between them
FROM   ?=
# further words for the command line: make pipeline ARGS="-o distill.loop.learning_rate=1e-4"
ARGS   ?=

# make serve PORT=8000
PORT   ?= 5001
# make test-browser CHROMIUM=/path/to/it
export CHROMIUM ?= chromium

RUN := $(BIN)/clozeline run $(RECIPE) --store $(STORE) $(if $(ADDRESS),--address $(ADDRESS)) $(ARGS)

.PHONY: help pipeline resume ui serve test test-browser check format reference docs clean

help:
	@echo "make pipeline [RECIPE=demo] [ADDRESS=...]   run a recipe; finished steps are not run again"
	@echo "make resume [FROM=distill] [RECIPE=demo]    go on with a run that stopped; with FROM these steps and what needs them"
	@echo "make ui                                     browse runs, curves and pictures in MLflow"
	@echo "make serve [RECIPE=demo] [PORT=5001]        answer over HTTP with what the run has trained"
	@echo "make test                                   run the tests"
	@echo "make test-browser                           run the tests that look at MLflow and the report in Chromium"
	@echo "make check                                  lint, format and type checks"
	@echo "make reference                              write the generated pages of docs/reference"
	@echo "make docs                                   the same, then build the site into site/ and check its links"

INSTALL = $(BIN)/pip install --disable-pip-version-check --constraint constraints.txt --editable

$(VENV)/installed: pyproject.toml constraints.txt
	@echo "Setting up $(VENV): a few minutes the first time."
	@test -x $(BIN)/pip || $(PYTHON) -m venv $(VENV)
	@$(INSTALL) .
	@touch $@

# what tests and checks need besides
$(VENV)/installed-dev: $(VENV)/installed
	@$(INSTALL) ".[dev]"
	@touch $@

$(VENV)/installed-docs: $(VENV)/installed
	@$(INSTALL) ".[docs]"
	@touch $@

# the driver of a browser; the browser itself is the machine's
$(VENV)/installed-browser: $(VENV)/installed-dev
	@$(INSTALL) ".[browser]"
	@touch $@

pipeline: $(VENV)/installed
	@$(RUN)

resume: $(VENV)/installed
	@$(RUN) $(foreach step,$(FROM),--from '$(step)')

ui: $(VENV)/installed
	@test -f $(STORE)/mlflow.db || { echo "No runs in $(STORE) yet: make pipeline, or name another folder by STORE=..."; exit 1; }
	@echo "Open http://127.0.0.1:5000/#/experiments?workflowType=machine_learning"
	@$(BIN)/mlflow ui --host 127.0.0.1 --workers 1 --backend-store-uri sqlite:///$(abspath $(STORE))/mlflow.db \
		--artifacts-destination $(abspath $(STORE))/mlartifacts

serve: $(VENV)/installed
	@$(BIN)/clozeline serve $(RECIPE) --store $(STORE) --port $(PORT) $(ARGS)

test: $(VENV)/installed-dev
	@$(BIN)/pytest --numprocesses 2 --dist loadfile $(ARGS)

test-browser: $(VENV)/installed-browser
	@tests/browser/need_chromium
	@$(BIN)/pytest tests/browser $(ARGS)
	@echo "Pictures of every page: test-results/browser"

check: $(VENV)/installed-dev
	@$(BIN)/ruff check .
	@$(BIN)/ruff format --check .
	@$(BIN)/mypy

format: $(VENV)/installed-dev
	@$(BIN)/ruff check --fix .
	@$(BIN)/ruff format .

# generated from the models that read recipes; a test compares
reference: $(VENV)/installed
	@$(BIN)/clozeline schema --output docs/reference/recipe.schema.json
	@$(BIN)/clozeline schema --markdown --output docs/reference/recipe.md

# strict (without --quiet, which hides the warnings that it counts): a broken internal link or anchor fails the build
docs: reference $(VENV)/installed-docs
	@NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict
	@echo "Open site/index.html"

clean:
	rm -rf $(VENV) .pytest_cache .mypy_cache .ruff_cache site
