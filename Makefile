# Everything a newcomer needs: each target does its own set-up.
SHELL := /bin/bash
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip --disable-pip-version-check
export PIP_CONSTRAINT := $(CURDIR)/constraints.txt
# Byte code is made of what is imported: that of all of torch would take half a minute.
export PIP_COMPILE := 0
# Where it is not kept, each process of the tests compiles what it imports again: 3 seconds.
unexport PYTHONDONTWRITEBYTECODE
# The kernels are built in the environment they run in: no second torch is downloaded.
BUILD_TOOLS := "torch>=2.10" numpy "setuptools>=77" wheel "cmake>=3.18" ninja "pybind11>=2.12"
SOURCES := $(shell find csrc -name CMakeLists.txt -o -name '*.h' -o -name '*.cpp' -o -name '*.cu') CMakeLists.txt setup.py pyproject.toml constraints.txt

.PHONY: help demo test test-slow lint format docs bench zoo asan torch arm64 windows gpu-static gpu-static-check gpu-check wheel wheels clean
.DEFAULT_GOAL := help

help: ## Show this list.
	@grep -hE '^[a-z-]+:.*##' $(MAKEFILE_LIST) | awk -F':.*## ' '{printf "  make %-16s %s\n", $$1, $$2}'

$(BIN)/python:
	$(PYTHON) -m venv $(VENV)

$(VENV)/.kernels: $(SOURCES) | $(BIN)/python
	$(PIP) install --quiet $(BUILD_TOOLS)
	$(PIP) install --quiet --no-build-isolation -e ".[report]"
	@touch $@

# Of what is installed, its extras: the kernels are not built again.
$(VENV)/.dev: $(VENV)/.kernels
	$(PIP) install --quiet --no-build-isolation "fastssl[dev]"
	@touch $@

$(VENV)/.docs: $(VENV)/.kernels
	$(PIP) install --quiet --no-build-isolation "fastssl[docs]"
	@touch $@

demo: $(VENV)/.kernels ## Set up, benchmark, pretrain, evaluate, and write runs/demo/report.html.
	$(BIN)/fastssl demo

test: lint ## Set up, lint, and run the whole test suite: one process per core, then tests of several threads.
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n $$(nproc) --dist worksteal -m "not slow and not threads"
	$(BIN)/python -m pytest -m "threads and not slow"

test-slow: $(VENV)/.dev ## Run the tests that take minutes.
	$(BIN)/python -m pytest -m slow

lint: $(VENV)/.dev ## Run ruff, clang-format and mypy.
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/clang-format --dry-run --Werror $$(find csrc -name '*.h' -o -name '*.cpp' -o -name '*.cu')
	$(BIN)/mypy

format: $(VENV)/.dev ## Format all code.
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .
	$(BIN)/clang-format -i $$(find csrc -name '*.h' -o -name '*.cpp' -o -name '*.cu')

docs: $(VENV)/.docs ## Build the documentation site in docs/_build/html, running the tutorials; a broken link is an error.
	$(BIN)/sphinx-build -q -W --keep-going -b html docs docs/_build/html

bench: $(VENV)/.dev ## Run all benchmarks, write benchmarks/results and the tables of README.md and docs/.
	-$(PIP) install --quiet --no-deps lightly lightly-utils faiss-cpu
	$(BIN)/python benchmarks/run.py

zoo: $(VENV)/.kernels ## Compare all methods on the same small budget: docs/zoo.md.
	$(BIN)/python benchmarks/zoo.py

asan: $(VENV)/.dev ## Run the kernels under AddressSanitizer and UndefinedBehaviorSanitizer.
	bash tests/support/sanitize.sh $(BIN)/python

torch: wheel ## Test the wheel under another version of torch: make torch TORCH=2.10.0.
	bash tests/support/torch_version.sh $(TORCH)

arm64: $(VENV)/.dev ## Cross-compile the kernels for aarch64 and test them under qemu-user (Debian; tests/support/arm64.sh says what it needs).
	bash tests/support/arm64.sh $(BIN)/python

windows: $(VENV)/.dev ## Compile the kernels' sources for Windows with MinGW, without linking (Debian; tests/support/windows.sh says what it needs).
	bash tests/support/windows.sh $(BIN)/python

gpu-static: $(VENV)/.dev ## Compile all GPU kernels without a GPU: benchmarks/gpu_static.json, docs/gpu_static.md.
	$(BIN)/python benchmarks/gpu_static.py $(ARGS)

gpu-static-check: $(VENV)/.dev ## The same as a check: fails if a kernel spills or misses the matrix units.
	$(BIN)/python benchmarks/gpu_static.py --check

gpu-check: ## On a machine with torch and a GPU, without network: tests, sanitizer, benchmarks.
	$(PYTHON) -c 'import torch, fastssl._C, fastssl.kernels' 2>/dev/null || \
		PIP_CONSTRAINT= $(PYTHON) -m pip install --quiet --no-build-isolation --no-deps -e .
	$(PYTHON) benchmarks/gpu_check.py $(ARGS)

wheel: $(VENV)/.kernels ## Build a wheel into dist/.
	$(PIP) wheel --quiet --no-build-isolation --no-deps -w dist .

wheels: ## A wheel for each version of Python that the machine has, each tried in an empty environment without a compiler.
	bash tests/support/wheels.sh

clean: ## Remove build products (not the environment).
	rm -rf build dist *.egg-info fastssl/*.so $(VENV)/.kernels $(VENV)/.dev $(VENV)/.docs docs/_build docs/api
