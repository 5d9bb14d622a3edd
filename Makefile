# Two commands: `make serve` (the page at http://localhost:8080) and `make test`.
PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
PORT ?= 8080

.PHONY: serve test bench gpu-check lint install dev browser clean help

help:
	@echo "make serve   install and open the live page at http://localhost:$(PORT)"
	@echo "make test    install everything the tests need, lint, type-check, test"
	@echo "make gpu-check  on a GPU: build, test and time everything that needs one"
	@echo "make bench   run the benchmarks (needs nothing but this machine)"

# The editable install is renewed when the packaging or the kernels change.
INSTALL_INPUTS := pyproject.toml CMakeLists.txt $(wildcard kernels/CMakeLists.txt kernels/src/* kernels/cuda/*)

$(VENV)/.python:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { echo "Python 3.11 or newer is needed (found $$($(PYTHON) --version))"; exit 1; }
	@command -v c++ >/dev/null || command -v g++ >/dev/null || { if [ "$$(id -u)" = 0 ] && command -v apt-get >/dev/null; then apt-get update -qq && apt-get install -y -qq g++ python3-venv; else echo "a C++ compiler is needed: apt-get install g++"; exit 1; fi; }
	$(PYTHON) -m venv $(VENV)
	$(BIN)/pip install -q --disable-pip-version-check --upgrade "pip>=24"
	@touch $@

$(VENV)/.installed: $(VENV)/.python $(INSTALL_INPUTS)
	$(BIN)/pip install -q --disable-pip-version-check -e .
	@touch $@

$(VENV)/.dev: $(VENV)/.installed
	$(BIN)/pip install -q --disable-pip-version-check -e ".[dev]"
	@touch $@

install: $(VENV)/.installed

dev: $(VENV)/.dev

serve: install
	$(BIN)/visavis serve --port $(PORT)

# The browser tests drive a real Chromium.
browser:
	@command -v chromium >/dev/null || command -v chromium-browser >/dev/null || command -v google-chrome >/dev/null || \
	{ if [ "$$(id -u)" = 0 ] && command -v apt-get >/dev/null; then apt-get update -qq && DEBIAN_FRONTEND=noninteractive apt-get install -y -qq chromium; \
	else echo "the browser tests need Chromium: apt-get install chromium"; exit 1; fi; }

lint: dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	@mkdir -p build/types/visavis
	@for part in kernels engine server clients benchmarks; do ln -sfn ../../../$$part build/types/visavis/$$part; done
	$(BIN)/mypy -p visavis.kernels -p visavis.engine -p visavis.server -p visavis.clients -p visavis.benchmarks

test: lint browser
	$(BIN)/python -m pytest

bench: install browser
	$(BIN)/visavis bench kernels
	$(BIN)/visavis bench render
	$(BIN)/visavis bench latency
	$(BIN)/visavis bench throughput

# On a machine with an NVIDIA GPU: kernels, engines, tests and timings; a table and runs/gpu-check.json. Elsewhere it says so (exit 3).
gpu-check: dev
	@if [ -e /dev/nvidiactl ]; then CMAKE_ARGS=-DVISAVIS_CUDA=ON $(BIN)/pip install -q --disable-pip-version-check -e ".[dev,gpu]"; fi
	$(BIN)/visavis bench gpu_check

clean:
	rm -rf $(VENV) build dist .pytest_cache .mypy_cache .ruff_cache
