# make demo   train a small ViT with SMMix on a data set made on the spot
# make test   run the tests (the GPU ones too where there is a GPU)
# make lint   ruff, mypy and clang-format
# Each creates .venv and installs into it when that is missing or out of date.

PYTHON ?= python3
# The CUDA version that the driver supports decides which DALI is installed.
EXTRA ?= $(shell nvidia-smi 2>/dev/null | grep -q 'CUDA Version: 12' && echo cuda12 || echo cuda13)
BIN := .venv/bin
CXX_FILES = $(shell find dali_mix/native/src -type f)

.PHONY: help demo test lint format clean

help:
	@sed -n '1,4s/^# //p' Makefile

.venv/installed: pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' \
		|| { echo "dali_mix needs Python 3.11 or newer; name one: make PYTHON=python3.11 $(MAKECMDGOALS)"; exit 1; }
	test -x $(BIN)/python || $(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable '.[$(EXTRA),dev]'
	@$(BIN)/python -m dali_mix.native || true  # without a compiler all works, mixing by the portable graph
	@touch $@

demo: .venv/installed
	$(BIN)/python train_imagenet.py --demo

test: .venv/installed
	$(BIN)/python -m pytest -q --numprocesses 2 --dist worksteal

lint: .venv/installed
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/clang-format --dry-run --Werror $(CXX_FILES)

format: .venv/installed
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .
	$(BIN)/clang-format -i $(CXX_FILES)

clean:
	rm -rf .venv .pytest_cache .mypy_cache .ruff_cache build *.egg-info
