# Two commands do all the set-up: `make lab` opens the course, `make test` passes the tests.
# PINNED=1 installs the versions of constraints.txt; PYTHON=python3.12 chooses the interpreter.
PYTHON ?= python3
VENV ?= .venv
LAB_ARGS ?=
NOTEBOOKS ?= $(wildcard notebooks/*.ipynb)

BIN := $(VENV)/bin
PINS := $(if $(filter 1,$(PINNED)),pinned)
INSTALL := $(BIN)/python -m pip install --disable-pip-version-check $(if $(PINS),-c constraints.txt)
MADE_FROM := pyproject.toml $(if $(PINS),constraints.txt)
LAB_READY := $(VENV)/lab-ready$(PINS)
TEST_READY := $(VENV)/test-ready$(PINS)

# Notebooks run inside notebooks/, so the folder of photographs is handed on as an absolute path.
ifndef DETR_MINI_DATA
DETR_MINI_DATA := $(wildcard ../shared/data)
endif
ifdef DETR_MINI_DATA
DETR_MINI_DATA := $(shell cd "$(DETR_MINI_DATA)" 2>/dev/null && pwd || echo "$(DETR_MINI_DATA)")
export DETR_MINI_DATA
endif

.PHONY: help lab test notebooks train bench fuzz clean

help:
	@echo "make lab        set up and open the course in JupyterLab (LAB_ARGS=--no-browser on a server)"
	@echo "make test       set up and run all that CI runs: lint, spelling, tests, notebooks"
	@echo "make notebooks  run all notebooks at full length and store them, normalised; PAGES=DIR saves HTML pages, too"
	@echo "make train      train toybox-mini: ten minutes, into runs/mini"
	@echo "make bench      timings"
	@echo "make fuzz       500 broken files: each must end in success or in one plain line"
	@echo "make clean      remove what the set-up and the tests made; runs/ and data/ stay"

$(BIN)/pip:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { \
	  echo "Python 3.11 or newer is needed, as $(PYTHON): install it, or name one: make lab PYTHON=python3.12"; exit 1; }
	@$(PYTHON) -c 'import venv, ensurepip' 2>/dev/null || { \
	  echo "$(PYTHON) cannot make virtual environments. Debian, Ubuntu: sudo apt-get install python3-venv"; exit 1; }
	$(PYTHON) -m venv $(VENV)

$(LAB_READY): $(MADE_FROM) | $(BIN)/pip
	$(INSTALL) -e ".[lab,photos]"
	@touch $@

$(TEST_READY): $(MADE_FROM) | $(BIN)/pip
	$(INSTALL) -e ".[lab,photos,test]"
	@touch $@

lab: $(LAB_READY)
	$(BIN)/jupyter lab $(LAB_ARGS) notebooks/00_start_here.ipynb

# One thread a process: two workers and their kernels share the cores.
# DETR_MINI_QUICK shortens the training inside notebooks and nothing else.
test: $(TEST_READY)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/codespell
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n 2 --dist loadscope
	OMP_NUM_THREADS=1 DETR_MINI_QUICK=1 $(BIN)/python -m pytest -n 2 --dist loadscope \
	  --nbval-lax --nbval-current-env --nbval-cell-timeout=300 notebooks

notebooks: $(TEST_READY)
	$(BIN)/ruff format notebooks
	$(BIN)/python tests/normalise_notebooks.py $(if $(PAGES),--pages $(PAGES)) $(NOTEBOOKS)

train: $(LAB_READY)
	$(BIN)/detr-mini train --data toybox --config mini --minutes 10 --out runs/mini

# The peers are test dependencies. hf.py and timing.py are what these scripts share.
bench: $(TEST_READY)
	@set -e; for script in mini_step loss_against_hf r50_against_hf scaling; do \
	  echo "== $$script"; $(BIN)/python benchmarks/$$script.py; done

# A finding is printed with its number: python tests/fuzz.py --case NUMBER runs it again, with its traceback.
fuzz: $(TEST_READY)
	$(BIN)/python tests/fuzz.py --cases 500

clean:
	rm -rf $(VENV) build dist *.egg-info .pytest_cache .ruff_cache .hypothesis notebooks/.ipynb_checkpoints
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
