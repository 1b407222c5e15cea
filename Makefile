# Everything a newcomer needs: `make demo` and `make test` set themselves up.

PYTHON ?= python3
VENV := .venv
RUN := $(VENV)/bin/python

.PHONY: demo test methods-check gpu-check format clean

demo: $(VENV)/ready
	$(RUN) -m tools.demo demo

test: $(VENV)/ready-test
	$(VENV)/bin/ruff check .
	$(VENV)/bin/ruff format --check .
	OMP_NUM_THREADS=1 $(RUN) -m pytest -q -n auto --maxprocesses 4 --dist worksteal

# Slow proof: every variant of every method under three seeds, and which of the papers' directions
# hold. `tools.demo` and `tools.spread` repeat the README's first table.
methods-check: $(VENV)/ready
	$(RUN) -m tools.methods demo/methods --seeds 0 1 2

# On a GPU machine, in ten minutes: every test that has a CUDA form, trainings and benchmarks, into
# benchmarks/<device>.json and .md. PYTHON_RUN may name an interpreter that has everything already.
ifeq ($(origin PYTHON_RUN), undefined)
PYTHON_RUN := $(RUN)
gpu-check: $(VENV)/ready-test
endif
gpu-check:
	$(PYTHON_RUN) -m tools.benchmark gpu

format: $(VENV)/ready-test
	$(VENV)/bin/ruff check --fix .
	$(VENV)/bin/ruff format .

$(VENV)/ready: requirements.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
	  { echo "error: Python 3.11 or newer is needed · $$($(PYTHON) --version) · make PYTHON=python3.12 demo"; exit 2; }
	$(PYTHON) -m venv $(VENV)
	$(VENV)/bin/pip install --quiet --disable-pip-version-check -r requirements.txt
	touch $@

$(VENV)/ready-test: requirements-test.txt $(VENV)/ready
	$(VENV)/bin/pip install --quiet --disable-pip-version-check -r requirements-test.txt
	touch $@

# Never runs/: that is where trainings leave their checkpoints.
clean:
	rm -rf $(VENV) demo benchmark .pytest_cache .ruff_cache .hypothesis
