# Two commands: `make demo` tunes a real classifier, `make test` runs every test. Both make .venv first if it is missing.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed

.PHONY: demo test gpu check docs format clean

$(STAMP): pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "fixnorm-tune needs Python 3.11 or newer; run make PYTHON=/path/to/python3.11")'
	@echo "making $(VENV) with the pinned versions (a minute or more; PyTorch is large)"
	@$(PYTHON) -m venv $(VENV)
	@$(BIN)/python -m pip install --quiet --upgrade pip
	@$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable '.[dev]'
	@touch $@

demo: $(STAMP)
	@KEEP=$(KEEP) BIN=$(BIN) sh examples/demo.sh

# Files of tests shared out to four processes, since many wait for servers and slots, in the order of tests/conftest.py: the
# longest come first. WORKERS=0 runs all in one process.
WORKERS ?= 4
# The hundreds of processes that tests start would each compile every module anew
unexport PYTHONDONTWRITEBYTECODE
test: $(STAMP)
	$(BIN)/python -m pytest -n $(WORKERS) --dist loadfile --no-loadscope-reorder $(ARGS)

# Where .venv cannot be made, because no package index answers, this goes on with what $(PYTHON) has
gpu:
	@test -e $(STAMP) || ! test -e /dev/nvidiactl || PIP_RETRIES=0 PIP_DEFAULT_TIMEOUT=15 $(MAKE) $(STAMP) || echo "no $(VENV)"
	@$(PYTHON) benchmarks/gpu.py

check: $(STAMP)
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/lint-imports
	$(BIN)/bandit --quiet --quiet --recursive --configfile pyproject.toml fixnorm_core worker service

# The documentation's site, in build/site; a broken link is an error
docs: $(STAMP)
	NO_MKDOCS_2_WARNING=1 $(BIN)/python -m mkdocs build --strict

format: $(STAMP)
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

clean:
	rm -rf $(VENV) .demo build dist *.egg-info
