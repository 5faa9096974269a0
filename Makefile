# Each target makes .venv from requirements.txt first, where it is missing or older than requirements.txt.

SHELL := bash
.SHELLFLAGS := -euo pipefail -c
.DEFAULT_GOAL := help
.PHONY: help demo test test-all lint doctor venv clean-venv

VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed
# A file of tests stays in one process: what it imports, trains and caches is shared by its tests.
TWO := -n 2 --dist loadfile
export PIP_DISABLE_PIP_VERSION_CHECK := 1

demo: $(STAMP)  ## train mle and conditional on pep8 and compare them: about ten minutes on two cores
	$(BIN)/python scripts/demo.py

test: $(STAMP)  ## the tests that take seconds each: under ten minutes on two cores
	$(BIN)/python -m pytest -m "not slow" $(TWO)

test-all: $(STAMP)  ## every test, the long ones too
	$(BIN)/python -m pytest $(TWO)

lint: $(STAMP)  ## ruff
	$(BIN)/python -m ruff check .

doctor: $(STAMP)  ## what this machine has, and what would fail on it
	$(BIN)/python scripts/doctor.py

venv: $(STAMP)  ## only the virtual environment

# The stamp holds the checksum of what was installed: a fresh clone gives every file the same new date, and a changed
# requirements.txt must reinstall whatever its date says.
$(STAMP): requirements.txt pyproject.toml
	@sum=$$(cksum requirements.txt pyproject.toml); \
	if [ -x $(BIN)/python ] && [ "$$(cat $@ 2>/dev/null)" = "$$sum" ]; then touch $@; exit 0; fi; \
	found=; \
	for python in python3.11 python3; do \
	  if $$python -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null; then found=$$python; break; fi; \
	done; \
	if [ -z "$$found" ]; then \
	  echo "Python 3.11 or newer is needed, and neither python3.11 nor python3 is one. Install it and try again." >&2; \
	  exit 1; \
	fi; \
	if [ ! -x $(BIN)/python ]; then \
	  echo "making $(VENV) with $$found"; \
	  $$found -m venv $(VENV) || { rm -rf $(VENV); \
	    echo "could not make $(VENV): on Debian and Ubuntu this needs the package python3-venv" >&2; exit 1; }; \
	fi; \
	echo "installing requirements.txt (about two minutes and 2 GB)"; \
	$(BIN)/python -m pip install -qq --requirement requirements.txt; \
	$(BIN)/python -m pip install -qq --no-deps --no-build-isolation --editable .; \
	echo "$$sum" > $@

clean-venv:  ## remove .venv
	rm -rf $(VENV)

help:  ## this list
	@grep -E '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | sed -E 's/^([a-z-]+):[^#]*## /\1\t/' | \
	while IFS=$$'\t' read -r target text; do printf 'make %-11s %s\n' "$$target" "$$text"; done
