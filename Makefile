# Two commands set everything up on a fresh machine: `make` (a virtual environment with what was tested), then use it.
PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin

.PHONY: setup test test-short lint run docs clean

setup: $(BIN)/diffstyle

# constraints.txt pins the versions that were tested; pyproject.toml itself asks only for ranges.
$(BIN)/diffstyle: pyproject.toml constraints.txt
	@echo "setup, 1 of 3: a virtual environment in $(VENV)"
	@$(PYTHON) -m venv $(VENV)
	@$(BIN)/python -m pip install --quiet --upgrade pip
	@echo "setup, 2 of 3: PyTorch, Ray and the rest of what constraints.txt pins, as pip says below: 2 to 10 minutes, by the"
	@echo "               network, and 3 GB of disk; more where PyTorch comes with CUDA"
	@$(BIN)/python -m pip install --progress-bar on -c constraints.txt -e '.[dev]'
	@touch $@
	@echo "setup, 3 of 3: done; now: source $(VENV)/bin/activate"

run: setup
	$(BIN)/diffstyle run jobs/tiny.yaml

test: setup
	$(BIN)/python -m pytest

test-short: setup
	$(BIN)/python -m pytest -m 'not slow'

lint: setup
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

# The site: build/docs/index.html.
docs: setup
	$(BIN)/python docs/fill_tables.py
	$(BIN)/python -m sphinx --quiet --fail-on-warning --keep-going docs build/docs

clean:
	rm -rf $(VENV) results build dist *.egg-info
