# The commands of this project. `make` alone lists them.
PYTHON ?= python3
VENV   ?= .venv
BIN    := $(VENV)/bin
export PATH := $(CURDIR)/$(BIN):$(PATH)
export DO_NOT_TRACK := 1

.PHONY: help setup repro test lint types ui clean
help: ## List the commands
	@grep -hE '^[a-z]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 12

setup: $(VENV)/.installed ## Make the virtual environment and install the pinned dependencies

# pip compiles on one core. Some files are not meant for this Python, and fail.
$(VENV)/.installed: pyproject.toml constraints.txt
	$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "PedAlign needs Python 3.11 or later: make PYTHON=python3.11")'
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-compile -c constraints.txt -e '.[dev]'
	$(BIN)/python -m compileall -qq -j 0 $(VENV)/lib || true
	touch $@

repro: setup ## Rebuild everything that has changed, watched by Prefect
	$(BIN)/python -m flows.repro

ui: setup ## Start the Prefect server; with it up, `dvc repro` shows there
	PREFECT_SERVER_API_PORT=$$($(BIN)/python -c 'from tasks.runtime import runtime; print(runtime().port)') $(BIN)/prefect server start

# One thread each: two processes keep two cores busy, and threads of small models would only wait.
test: setup ## Run the tests, those with real DVC included
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n 2 --dist loadfile --no-loadscope-reorder

lint: setup ## Check style and types
	$(BIN)/ruff check . && $(BIN)/ruff format --check . && $(BIN)/mypy

clean: ## Remove the outputs of every stage; the stores in .cache and .dvc/cache stay
	rm -rf data/ingested data/described data/restyled data/screened data/captioned data/annotated data/checkpoints data/reports
