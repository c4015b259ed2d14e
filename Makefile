# make demo: set up and run the main job.   make test: set up and run the test suite.   make help: everything else.
#
# TORCH_INDEX  package index for torch alone; empty: the usual one (a CUDA build, several GB). The CPU build (about 190 MB) comes
#              from the index that PyTorch's installation page shows for "Compute Platform: CPU": make demo TORCH_INDEX=URL
# PYTHON       the interpreter to build .venv with; empty: the first of python3, python3.14 .. python3.11 that will do
# JOBS         test processes at a time            PYTEST_ARGS  more arguments for pytest, such as -m "not slow"
# KERNELS      limited: libraries compute as on an old processor, without AVX; rows: matrix products of few and of many rows round
#              differently. Results in float then differ in their last bits, and tests must not: make test KERNELS=limited

SHELL := /bin/bash
.SHELLFLAGS := -euo pipefail -c
.ONESHELL:
.DELETE_ON_ERROR:
.DEFAULT_GOAL := help
MAKEFLAGS += --no-print-directory

TORCH_INDEX ?=
PYTHON ?=
JOBS ?= $(shell nproc 2>/dev/null || echo 2)
PYTEST_ARGS ?=
export TORCH_INDEX PYTHON
ifeq ($(KERNELS),limited)
export ATEN_CPU_CAPABILITY := default
export MKL_CBWR := COMPATIBLE
export ONEDNN_MAX_CPU_ISA := SSE41
export OPENBLAS_CORETYPE := Nehalem
else ifeq ($(KERNELS),rows)
export MKL_CBWR := AVX2
else ifneq ($(KERNELS),)
$(error KERNELS=$(KERNELS): allowed are limited, rows, and nothing)
endif

# What an installation depends on, its place included (an editable install remembers it). A new key means: install again.
KEY := $(shell { cat pyproject.toml constraints.txt; pwd -P; echo '$(TORCH_INDEX) $(PYTHON)'; } | cksum | cut -d' ' -f1)
INSTALLED := .venv/installed-$(KEY)
WARM := .venv/warm-$(KEY)
PY := .venv/bin/python
PIP := $(PY) -m pip --disable-pip-version-check

.PHONY: help install demo test nightly lint bench clean
help: ## this text
	@grep -hE '^[a-z]+:.*##' Makefile | sed -E 's/^([a-z]+):.*## /  make \1\t/' | expand -t 18

install: $(INSTALLED) ## create .venv and install everything into it

demo: $(WARM) ## set up, then the main job: train, search, emit, simulate, synthesise, report
	@SECONDS=0; echo "== demo: configs/quickstart.yaml"
	.venv/bin/mase run configs/quickstart.yaml
	echo "== demo: done in $$SECONDS s"

test: $(WARM) ## set up, then the test suite
	@$(PY) -m pytest -n $(JOBS) --dist worksteal --durations 10 $(PYTEST_ARGS)

nightly: $(WARM) ## set up, then the tests that take minutes each
	@$(PY) -m pytest -n $(JOBS) --dist worksteal --durations 10 -m nightly $(PYTEST_ARGS)

lint: $(INSTALLED) ## style, formatting and types
	@$(PY) -m ruff check .
	$(PY) -m ruff format --check .
	$(PY) -m mypy

bench: $(WARM) ## the quick benches, every figure beside its bar
	@$(PY) -m bench.run

clean: ## remove .venv and what tools left behind; runs/ and the compile cache stay
	rm -rf .venv .pytest_cache .mypy_cache .ruff_cache .hypothesis build dist
	find . -path ./runs -prune -o -name __pycache__ -type d -prune -exec rm -rf {} +

$(INSTALLED):
	@SECONDS=0; echo "== 1/3 system: python >= 3.11 with venv, git, g++, make, perl"
	python="$$(bash .ci/preflight)"
	echo "== 2/3 environment: .venv from $$("$$python" --version)"
	rm -f .venv/installed-* .venv/warm-*
	$(PY) -c 'import pip' 2>/dev/null || "$$python" -m venv --clear .venv
	echo "== 3/3 packages: torch first$${TORCH_INDEX:+ (from $$TORCH_INDEX)}, then the rest"
	$(PIP) install --no-deps --constraint constraints.txt $${TORCH_INDEX:+--index-url "$$TORCH_INDEX"} torch
	$(PIP) install --quiet --constraint constraints.txt hatchling editables
	$(PIP) install --quiet --constraint constraints.txt --no-build-isolation --editable '.[all]'
	touch $@; echo "== installed in $$SECONDS s"

$(WARM): $(INSTALLED)
	@SECONDS=0; echo "== warm-up, once: Verilator's run-time files are compiled, Yosys for WebAssembly translates itself (minutes)"
	.venv/bin/mase doctor --warm
	touch $@; echo "== warm in $$SECONDS s"
