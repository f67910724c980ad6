# Everything a person or CI does with this repository. Needs Python >= 3.11 and make; everything else goes into .venv.
VENV := .venv
BIN := $(VENV)/bin
READY := $(VENV)/.ready
TOOLBOX := $(VENV)-tools
TOOLS := $(TOOLBOX)/.ready
PIP := $(BIN)/python -m pip --disable-pip-version-check --no-input
PYTHON ?=
WORKSPACE ?= demo
ARGS ?=
# How many processes the quick tests run in, each file in one of them; 0 is the one that a debugger wants.
PROCESSES ?= 2

# Two numerical libraries that each take every core make a small machine several times slower.
export OMP_NUM_THREADS ?= 1

.DEFAULT_GOAL := help
.PHONY: help demo ui test test-slow test-ci check lint types imports format environment lock hashes audit sbom clean

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

# Everything but torch comes first, as the lock's hashes say and nothing beside it (--no-deps): what is not the very file
# that was locked is refused. Then torch by its exact pin, whose files differ from index to index: pip takes the build
# that its own configuration offers (a CPU build, or the one with CUDA), where an open range would take the newest
# release and its gigabytes. Of torch's dependencies only those are still missing that belong to its build (CUDA's), and
# they come pinned by torch. The package itself is added without letting it choose again.
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
	@grep -v '^torch==' requirements.lock > $(VENV)/hashed.txt
	@$(PIP) install --quiet --no-deps --require-hashes --requirement $(VENV)/hashed.txt
	@$(PIP) install --quiet "$$(grep '^torch==' requirements.lock)"
	@$(PIP) install --quiet --no-deps --no-build-isolation --editable .
	@$(PIP) check > $(VENV)/check.txt || { cat $(VENV)/check.txt >&2; exit 1; }
	@touch $@

# The ranges of pyproject.toml resolved once, in an environment of its own, and written down. What belongs to one
# platform only (torch's local version, the CUDA packages it brings) stays out: torch's own metadata asks for it.
lock: $(READY) $(TOOLS)  ## resolve pyproject.toml's ranges anew into requirements.lock
	rm -rf $(VENV)-lock
	$(BIN)/python -m venv $(VENV)-lock
	$(VENV)-lock/bin/python -m pip install --quiet "$$(grep '^torch==' requirements.lock)"
	$(VENV)-lock/bin/python -m pip install --quiet --editable '.[dev,server]' hatchling
	$(VENV)-lock/bin/python -m pip check
	$(VENV)-lock/bin/python -m pip freeze --all --exclude-editable --exclude pip --exclude wheel \
	| sed -E '/^(nvidia-|cuda-|triton)/d; s/^(torch==[^+]*)\+.*/\1/' > $(PINS)
	$(HASHED)
	rm -rf $(VENV)-lock

# A package that is added by hand needs its pin only (NAME==VERSION on a line of its own, anywhere); this does the rest.
hashes: $(TOOLS)  ## look the hashes of requirements.lock's pins up again; no version changes
	grep -o '^[A-Za-z0-9][^ ;]*==[^ ;]*' requirements.lock > $(PINS)
	$(HASHED)

# The hash of every file that the index has of each pinned release, so that other machines' wheels are there too. pip's
# own configuration says which index is asked, and is not written down. What is looked up anew is not taken from the
# lock that is there (--no-reuse-hashes): it would keep the hash of a file that was withdrawn.
PINS := $(TOOLBOX)/pins.txt
define HASHED
$(TOOLBOX)/bin/pip-compile --quiet --generate-hashes --no-reuse-hashes --allow-unsafe --strip-extras --no-annotate --no-header \
  --no-emit-index-url --no-emit-find-links --no-emit-trusted-host --output-file $(TOOLBOX)/hashed.txt $(PINS)
(echo "# Made by 'make lock': exact versions for the demo, the tests and CI, with the hashes of their files (torch's differ from"; \
 echo "# index to index). Ranges for library users are in pyproject.toml."; \
 awk '/^torch==/ {sub(/\+.*/, "", $$1); print $$1} /^[a-z0-9]/ {out = /^(torch==|nvidia-|cuda-|triton==)/} /^[a-z0-9]|^ +--hash/ {if (!out) print}' \
   $(TOOLBOX)/hashed.txt) > requirements.lock.new
mv requirements.lock.new requirements.lock
endef

# A vulnerability service is asked over the network, so this is no part of `make check`. It ends well only where each
# locked release was asked about and nothing is known of any; "Error 1" is what was found, "Error 3" that a release could
# not be asked about: nothing is known then, neither good nor bad. ARGS='-s osv' asks another service.
audit: $(TOOLS)  ## ask a vulnerability service about every release of requirements.lock
	@grep -o '^[A-Za-z0-9][^ ;]*==[^ ;]*' requirements.lock > $(PINS)
	@rm -f $(TOOLBOX)/audit.txt
	@$(TOOLBOX)/bin/pip-audit --strict --disable-pip --no-deps --progress-spinner off --requirement $(PINS) \
	  --output $(TOOLBOX)/audit.txt $(ARGS) 2> $(TOOLBOX)/audit.log; code=$$?; \
	if [ -s $(TOOLBOX)/audit.txt ]; then cat $(TOOLBOX)/audit.txt; exit $$code; fi; \
	if [ $$code -eq 0 ]; then echo "nothing is known of the $$(wc -l < $(PINS)) releases of requirements.lock"; exit 0; fi; \
	tail -n 1 $(TOOLBOX)/audit.log >&2; \
	echo "error: the vulnerability service could not be asked about every release; remedy: ask from a machine that reaches one, or make audit ARGS='-s osv'" >&2; \
	exit 3

sbom: $(READY) $(TOOLS)  ## what .venv is made of, with licences, as CycloneDX JSON in ./sbom.json
	$(TOOLBOX)/bin/cyclonedx-py environment --output-reproducible --pyproject pyproject.toml --output-file sbom.json $(BIN)/python

# What reads an index or a vulnerability service has an environment of its own: it is no part of what it looks at.
$(TOOLS): Makefile $(READY)
	@$(BIN)/python -m venv --clear $(TOOLBOX)
	@$(TOOLBOX)/bin/python -m pip install --quiet pip-tools==7.6.2 pip-audit==2.10.1 cyclonedx-bom==7.5.0
	@touch $@

clean:  ## remove the environment, caches and what the demo left (never ./workspace)
	rm -rf $(VENV) $(VENV)-lock $(TOOLBOX) demo .pytest_cache .mypy_cache .ruff_cache .hypothesis .import_linter_cache build dist sbom.json
	find platform methods search_spaces tests benchmarks -name __pycache__ -type d -prune -exec rm -rf {} +
