# make demo   from nothing to generated text
# make test   from nothing to a full test run
# Both create .venv and install what they need; a second run reuses it.

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin

# Which MLX: Apple's GPU, NVIDIA's (a driver must be there), or the CPU.
ifeq ($(shell uname -s),Darwin)
BACKEND := metal
else ifneq ($(shell command -v nvidia-smi >/dev/null 2>&1 && nvidia-smi -L 2>/dev/null | head -n 1),)
BACKEND := cuda13
else
BACKEND := cpu
endif

.PHONY: demo test lint install clean

demo: $(VENV)/.installed-$(BACKEND)
	$(BIN)/ds4-mlx generate -p "What is 12 + 30?" --temp 0 --stats

test: $(VENV)/.tested-$(BACKEND) lint
	$(BIN)/pytest -n auto --dist loadfile

lint: $(VENV)/.tested-$(BACKEND)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

install: $(VENV)/.installed-$(BACKEND)

$(VENV)/bin/python:
	$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 10) and "ds4-mlx needs Python 3.10 or newer; name one with: make PYTHON=python3.12")'
	$(PYTHON) -m venv $(VENV)

$(VENV)/.installed-$(BACKEND): pyproject.toml | $(VENV)/bin/python
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -e ".[$(BACKEND)]"
	touch $@

$(VENV)/.tested-$(BACKEND): pyproject.toml | $(VENV)/bin/python
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -e ".[$(BACKEND),test]"
	touch $@

clean:
	rm -rf $(VENV) build *.egg-info .pytest_cache .mypy_cache .ruff_cache
