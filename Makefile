# Everything a person or CI does with this repository. Needs Python >= 3.11 and make; everything else goes into .venv.
VENV := .venv
BIN := $(VENV)/bin
READY := $(VENV)/.ready
PIP := $(BIN)/python -m pip --disable-pip-version-check --no-input
PYTHON ?=
WORKSPACE ?= demo
ARGS ?=
# How many processes the quick tests run in, each file in one of them; 0 is the one that a debugger wants.
PROCESSES ?= 2

# Two numerical libraries that each take every core make a small machine several times slower.
export OMP_NUM_THREADS ?= 1

.DEFAULT_GOAL := help
.PHONY: help demo ui test test-slow test-ci check lint types imports format environment lock clean

help:  ## what can be made
	@awk -F ':.*##' '/^[a-z-]+:.*##/ {printf "  make %-11s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

demo: $(READY)  ## phantom cohort -> sweep -> ablation -> gate -> NIfTI, in ./demo, under 15 minutes on 2 cores
	$(BIN)/ganatomy demo --workspace $(WORKSPACE) $(ARGS)

ui: $(READY)  ## open the MLflow UI on what the demo left (WORKSPACE=... for another)
	$(BIN)/ganatomy ui --workspace $(WORKSPACE) $(ARGS)

test: $(READY)  ## the tests, under 12 minutes on 2 cores
	$(BIN)/python -m pytest -m "not slow" --numprocesses $(PROCESSES) --dist loadfile $(ARGS)

test-slow: $(READY)  ## all tests that take minutes each, before an issue is resolved
	$(BIN)/python -m pytest -m slow --durations=0 --durations-min=10 $(ARGS)

test-ci: $(READY)  ## those of them that CI runs after `make check`
	$(BIN)/python -m pytest -m "slow and not beyond_ci" --durations=0 --durations-min=10 $(ARGS)

check: lint types imports test  ## what CI asks for: lint, types, import rules, tests

lint: $(READY)
	$(BIN)/ruff check
	$(BIN)/ruff format --check

types: $(READY)
	$(BIN)/mypy

imports: $(READY)
	$(BIN)/lint-imports

format: $(READY)  ## put the code into the house's layout
	$(BIN)/ruff check --fix
	$(BIN)/ruff format

environment: $(READY)  ## .venv with exactly the locked versions; nothing to do if it is there

# torch comes first and by its exact pin: pip then takes the build that its own configuration offers (a CPU build, or the
# one with CUDA), where an open range would take the newest release and its gigabytes. The lock then settles everything
# else, and the package itself is added without letting it choose again.
$(READY): requirements.lock pyproject.toml
	@set -e; \
	for python in $(or $(PYTHON),python3.11 python3.12 python3.13 python3 python3.14 python); do \
	  if "$$python" -c 'import sys, ensurepip, venv; sys.exit(sys.version_info < (3, 11))' 2>/dev/null; then found=$$python; break; fi; \
	done; \
	if [ -z "$$found" ]; then \
	  echo "error: no Python >= 3.11 with venv was found$(if $(PYTHON), as $(PYTHON)); remedy: install one, or make PYTHON=/path/to/python3.11" >&2; \
	  exit 1; \
	fi; \
	if ! $(BIN)/python -m pip --version >/dev/null 2>&1; then \
	  echo "creating $(VENV) with $$found"; "$$found" -m venv --clear $(VENV); \
	fi
	@echo "installing: several hundred megabytes, some minutes the first time"
	@$(PIP) install --quiet --constraint requirements.lock "$$(grep '^torch==' requirements.lock)"
	@$(PIP) install --quiet --requirement requirements.lock
	@$(PIP) install --quiet --no-deps --no-build-isolation --editable .
	@touch $@

# The ranges of pyproject.toml resolved once, in an environment of its own, and written down. What belongs to one
# platform only (torch's local version, the CUDA packages it brings) stays out: torch's own metadata asks for it.
lock: $(READY)  ## resolve pyproject.toml's ranges anew into requirements.lock
	rm -rf $(VENV)-lock
	$(BIN)/python -m venv $(VENV)-lock
	$(VENV)-lock/bin/python -m pip install --quiet "$$(grep '^torch==' requirements.lock)"
	$(VENV)-lock/bin/python -m pip install --quiet --editable '.[dev]' hatchling
	$(VENV)-lock/bin/python -m pip check
	(echo "# Made by 'make lock': exact versions for the demo, the tests and CI. Ranges for library users are in pyproject.toml."; \
	 $(VENV)-lock/bin/python -m pip freeze --exclude-editable \
	 | sed -E '/^(nvidia-|cuda-|triton)/d; s/^(torch==[^+]*)\+.*/\1/') > requirements.lock.new
	mv requirements.lock.new requirements.lock
	rm -rf $(VENV)-lock

clean:  ## remove the environment, caches and what the demo left (never ./workspace)
	rm -rf $(VENV) $(VENV)-lock demo .pytest_cache .mypy_cache .ruff_cache .hypothesis .import_linter_cache build dist
	find platform methods search_spaces tests benchmarks -name __pycache__ -type d -prune -exec rm -rf {} +
