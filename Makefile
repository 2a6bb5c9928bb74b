# make demo   train a small ViT with SMMix on a data set made on the spot
# make test   run the tests (the GPU ones too where there is a GPU)
# make test-floor  run the tests that depend on PyTorch with the oldest one that is supported, in .venv-floor
# make lint   ruff, mypy and clang-format
# Each creates .venv and installs into it when that is missing or out of date.

PYTHON ?= python3
# The CUDA version that the driver supports decides which DALI is installed.
EXTRA ?= $(shell nvidia-smi 2>/dev/null | grep -q 'CUDA Version: 12' && echo cuda12 || echo cuda13)
BIN := .venv/bin
CXX_FILES = $(shell find dali_mix/native/src -type f)

# The oldest versions that pyproject.toml allows, and what is tested with them.
FLOOR = torch==2.11.0 torchvision==0.26.0
FLOOR_TESTS = tests/methods tests/models tests/train/test_compile.py tests/train/test_updates.py

.PHONY: help demo test test-floor lint format clean

help:
	@sed -n '1,5s/^# //p' Makefile

# Compiling all of PyTorch's Python, of which few files are imported, would take a minute.
.venv/installed: pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' \
		|| { echo "dali_mix needs Python 3.11 or newer; name one: make PYTHON=python3.11 $(MAKECMDGOALS)"; exit 1; }
	test -x $(BIN)/python || $(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --no-compile --constraint constraints.txt --editable '.[$(EXTRA),dev]'
	@touch $@

.venv/native: .venv/installed
	@$(BIN)/python -m dali_mix.native || true  # without a compiler all works, mixing by the portable graph
	@touch $@

demo: .venv/native
	$(BIN)/python train_imagenet.py --demo

test: .venv/native
	$(BIN)/python -m pytest -q --numprocesses 2 --dist worksteal

.venv-floor/installed: pyproject.toml constraints.txt
	test -x .venv-floor/bin/python || $(PYTHON) -m venv .venv-floor
	grep -vE '^(torch|torchvision|triton|cuda-|nvidia-(cu|nccl|nvjitlink|nvshmem|nvtx))' constraints.txt >.venv-floor/constraints.txt
	.venv-floor/bin/python -m pip install --quiet --no-compile --constraint .venv-floor/constraints.txt $(FLOOR) --editable '.[$(EXTRA),dev]'
	@touch $@

test-floor: .venv-floor/installed
	.venv-floor/bin/python -m pytest -q --numprocesses 2 --dist worksteal $(FLOOR_TESTS)

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
	rm -rf .venv .venv-floor .pytest_cache .mypy_cache .ruff_cache build *.egg-info
