# Two commands: `make demo` tunes a real classifier, `make test` runs every test. Both make .venv first if it is missing.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed

.PHONY: demo test gpu check format clean

$(STAMP): pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "fixnorm-tune needs Python 3.11 or newer; run make PYTHON=/path/to/python3.11")'
	@echo "making $(VENV) with the pinned versions (a minute or more; PyTorch is large)"
	@$(PYTHON) -m venv $(VENV)
	@$(BIN)/python -m pip install --quiet --upgrade pip
	@$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable '.[dev]'
	@touch $@

demo: $(STAMP)
	@KEEP=$(KEEP) BIN=$(BIN) sh examples/demo.sh

test: $(STAMP)
	$(BIN)/python -m pytest $(ARGS)

# Where .venv cannot be made, because no package index answers, this goes on with what $(PYTHON) has
gpu:
	@test -e $(STAMP) || ! test -e /dev/nvidiactl || PIP_RETRIES=0 PIP_DEFAULT_TIMEOUT=15 $(MAKE) $(STAMP) || echo "no $(VENV)"
	@$(PYTHON) benchmarks/gpu.py

check: $(STAMP)
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/lint-imports

format: $(STAMP)
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

clean:
	rm -rf $(VENV) .demo build dist *.egg-info
