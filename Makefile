# One line each for a newcomer; CI calls the same targets (.ci/run). Needs Python >= 3.11 and make.
# A C compiler is optional: without one mixbit uses its PyTorch and Python implementations, which are slower.

SHELL := bash
.SHELLFLAGS := -eu -o pipefail -c
.DEFAULT_GOAL := help
.DELETE_ON_ERROR:

BIN := .venv/bin
WORKERS ?= 2
# mkdocs-material announces its successor at every build; mkdocs is pinned below 2, so there is nothing to do about it.
export NO_MKDOCS_2_WARNING := 1

# What the installed package depends on. Its Python files are not in the list: the install is editable.
INSTALL_INPUTS := pyproject.toml constraints.txt setup.py src/mixbit/_version.py $(wildcard src/mixbit/*/_*.c)

.PHONY: help demo setup-mcu setup-oracles setup-all test check pytest fuzz mutants tables FORCE bench bench-cifar10 bench-arena bench-export bench-mcu bench-peers docs docs-serve format clean distclean

help:  ## this list
	@awk -F ':.*## ' '/^[a-z0-9-]+:.*## / {printf "  make %-14s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

# The environment. `.ok` holds what the demo needs; `.dev` adds what the other targets need.
.venv/bin/python:
	@python=""; \
	for candidate in $(PYTHON) python3.11 python3 python3.12 python3.13; do \
	  if "$$candidate" -c 'import sys, venv, ensurepip; sys.exit(sys.version_info < (3, 11))' 2>/dev/null; then \
	    python="$$candidate"; break; \
	  fi; \
	done; \
	if [ -z "$$python" ]; then \
	  echo "mixbit needs Python >= 3.11 with venv and ensurepip (Debian: apt-get install python3-venv)." >&2; \
	  echo "None of these fits: $(PYTHON) python3.11 python3 python3.12 python3.13." >&2; \
	  echo "Name one: make PYTHON=/path/to/python3.11 ..." >&2; exit 1; \
	fi; \
	"$$python" -m venv .venv

.venv/.ok: .venv/bin/python $(INSTALL_INPUTS)
	$(BIN)/python -m pip install --quiet -c constraints.txt -e '.[train,data]'
	@touch $@

.venv/.dev: .venv/.ok
	$(BIN)/python -m pip install --quiet -c constraints.txt -e '.[dev]'
	@touch $@

demo: .venv/.ok  ## train, search, allocate and fine-tune on embedded digits; prints one table
	$(BIN)/mixbit demo

# The compiler, its C library and the emulator for exported microcontroller code. Without them those tests skip.
MCU_PACKAGES := gcc-arm-none-eabi libnewlib-arm-none-eabi qemu-system-arm

setup-mcu:  ## compiler and emulator for microcontrollers (apt-get, asks for sudo)
	@if command -v qemu-system-arm >/dev/null && test -e "$$(arm-none-eabi-gcc -print-file-name=libc.a 2>/dev/null)"; then \
	  echo "arm-none-eabi-gcc and qemu-system-arm are installed."; \
	elif ! command -v apt-get >/dev/null; then \
	  echo "No apt-get here. Install by other means: $(MCU_PACKAGES)." >&2; exit 1; \
	else \
	  sudo=$$(test "$$(id -u)" = 0 || echo sudo); \
	  $$sudo apt-get install --yes --no-install-recommends $(MCU_PACKAGES) || \
	    { $$sudo apt-get update && $$sudo apt-get install --yes --no-install-recommends $(MCU_PACKAGES); }; \
	fi

# What tests compare with: homology packages, other runtimes, a second emulator, another NSGA-II, attacks. Without them those tests are not run.
setup-oracles: .venv/.dev  ## packages that tests compare with (340 MB)
	$(BIN)/python -m pip install --quiet -c constraints.txt -e '.[oracles]' unicorn

# All of the above but the microcontrollers' at once: pip looks packages up once and builds mixbit once.
setup-all: .venv/bin/python  ## the environments of demo, tests and oracles in one go, as CI has them
	$(BIN)/python -m pip install --quiet -c constraints.txt -e '.[train,data,dev,oracles]' unicorn
	@touch .venv/.ok .venv/.dev

# `make pytest ISA=avx2` runs the tests as on a processor without AVX-512, `ISA=default` without PyTorch's vector kernels;
# `make pytest ARGS=--durations=10` tells the ten slowest.
ISA_VARIABLES_avx2 := ATEN_CPU_CAPABILITY=avx2 ONEDNN_MAX_CPU_ISA=AVX2
ISA_VARIABLES_default := ATEN_CPU_CAPABILITY=default

test: check pytest  ## everything CI runs: make check, tests, doctests, README commands

# What Python compiles is kept, also where the environment says otherwise: both workers and every command that a test
# starts read it, and pytest's rewriting of asserts is a third of the time that it takes to find the tests.
pytest: export PYTHONDONTWRITEBYTECODE :=
pytest: .venv/.dev
	$(if $(ISA),$(or $(ISA_VARIABLES_$(ISA)),$(error ISA=$(ISA) is not known. Legal: avx2, default, or nothing for the processor's own))) \
	  OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n $(WORKERS) --dist worksteal -q $(ARGS)

fuzz: .venv/.dev  ## all malformed commands, settings and files: each must be refused with one message
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n $(WORKERS) -m "fuzz or not bench" -q tests/fuzz

.venv/.mutants: .venv/.dev
	$(BIN)/python -m pip install --quiet -c constraints.txt -e '.[mutants]'
	@touch $@

# `make mutants BASE=v1.0`, `make mutants ALL=1 COUNT=500 SEED=0`, `make mutants FILES="src/mixbit/training/loop.py" PER_FILE=20`.
BASE ?= main
COUNT ?= 500
SEED ?= 0
PER_FILE ?= 0

mutants: .venv/.mutants  ## do the tests notice small mistakes in changed lines (BASE=main)? ALL=1: a sample, an hour; FILES=...
	OMP_NUM_THREADS=1 $(BIN)/python -m tests.mutants $(if $(ALL),--all) --base "$(BASE)" --count $(COUNT) --seed $(SEED) \
	  --per-file $(PER_FILE) --workers $(WORKERS) $(FILES)

check: .venv/.dev  ## ruff (lint and format) and mypy --strict
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy --strict src

format: .venv/.dev  ## apply ruff's formatting and safe fixes
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

# Tables of the pages, each by the commands of benchmarks/registry.py: `make table-ptq`, `make table-ptq ARGS=--fresh`,
# `make table-ptq ARGS=--smoke` (seconds, into runs/smoke). Rows that are in the result files are reused.
REMAKE := $(BIN)/python benchmarks/remake.py

tables: .venv/.dev  ## all tables of the pages, what each takes and needs, and its commands; make table-NAME runs these
	$(REMAKE) --list

table-%: .venv/.dev FORCE
	$(REMAKE) $* $(ARGS)

table-peers_%: .venv-peers/.ok .venv/.dev FORCE
	$(REMAKE) peers_$* $(ARGS)

bench: .venv/.dev  ## the measured claims, an hour; writes benchmarks/results/*.json
	$(BIN)/python -m pytest -m bench -q tests
	$(REMAKE) $@ $(ARGS)

bench-arena: .venv/.dev  ## all methods side by side on ResNet-20 and CIFAR-10, hours on a CPU; needs MIXBIT_DATA
	$(REMAKE) $@ $(ARGS)

bench-export: .venv/.dev  ## exported files (bytes, speed, exactness) and latency tables, hours on a CPU; needs MIXBIT_DATA
	$(REMAKE) $@ $(ARGS)

bench-mcu: .venv/.dev  ## kernels and MLPerf Tiny on emulated microcontrollers, an hour; needs make setup-mcu, MIXBIT_DATA
	$(REMAKE) $@ $(ARGS)

bench-cifar10: .venv/.dev  ## the ResNet-20 result on real images, hours on a CPU; needs MIXBIT_DATA
	$(REMAKE) $@ $(ARGS)

# Other toolkits have an environment of their own: their pins contradict ours. torchvision's wheel asks for CUDA, so it
# comes without what it asks for.
.venv-peers/.ok: .venv/.ok pyproject.toml benchmarks/peers/constraints.txt
	test -x .venv-peers/bin/python || $(BIN)/python -m venv .venv-peers
	.venv-peers/bin/python -m pip install --quiet -c benchmarks/peers/constraints.txt -e '.[peers]'
	.venv-peers/bin/python -m pip install --quiet -c benchmarks/peers/constraints.txt --no-deps torchvision
	@touch $@

bench-peers: .venv-peers/.ok .venv/.dev  ## other toolkits on the same ResNet-20, data and budget, many minutes; needs MIXBIT_DATA
	$(BIN)/python -m pytest -m bench -q tests/benchmarks
	$(REMAKE) $@ $(ARGS)

docs: .venv/.dev  ## the documentation site, in site/
	$(BIN)/mkdocs build --strict

docs-serve: .venv/.dev  ## the site on http://127.0.0.1:8000 while you write
	$(BIN)/mkdocs serve --strict

clean:  ## caches and builds
	rm -rf build dist site .mypy_cache .pytest_cache .ruff_cache .hypothesis src/*.egg-info
	find src tests -name '__pycache__' -type d -prune -exec rm -rf {} +

distclean: clean  ## and the environments
	rm -rf .venv .venv-peers
	rm -f src/mixbit/quantizers/_kernels*.so src/mixbit/topology/_births*.so src/mixbit/topology/_lattice*.so
