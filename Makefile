# make demo   enlarge the bundled photograph and show it beside the original
# make test   run the tests
# make lint   check style, types and import directions
# make bench  measure srup against other programs, its growth and its training; an hour
#
# All of it happens in a virtual environment, .venv, made by the first target that needs it. It needs python3 3.11 or
# newer; choose another with PYTHON, as in: make test PYTHON=python3.13
#
# On Linux pip takes PyTorch for CUDA, several GB. Without an NVIDIA GPU a CPU build is enough:
#   make demo PIP_EXTRA_INDEX_URL=https://download.pytorch.org/whl/cpu
# or name a file of pins in PIP_CONSTRAINT.

PYTHON = python3
VENV = .venv
BIN = $(VENV)/bin
DEMO = demo-output

.PHONY: demo test lint bench

demo: $(VENV)/installed
	@mkdir -p $(DEMO)
	$(BIN)/srup upscale upscaler/images/sample.png -o $(DEMO)/sample-x4.png \
		--compare $(DEMO)/before-after.png --overwrite
	@echo "The enlarged photograph is $(DEMO)/sample-x4.png, before beside after $(DEMO)/before-after.png"
	@echo "Now one of your own: $(BIN)/srup upscale PICTURE"

test: $(VENV)/installed-dev
	$(BIN)/pytest

lint: $(VENV)/installed-dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

bench: $(VENV)/installed-bench
	$(BIN)/python tests/benchmarks/memory.py
	$(BIN)/python tests/benchmarks/seams.py photo
	$(BIN)/python tests/benchmarks/loading.py
	$(BIN)/python tests/benchmarks/steps.py
	$(BIN)/python tests/benchmarks/convolutions.py
	$(BIN)/python -m tests.benchmarks.training
	$(BIN)/python -m tests.benchmarks.growth
	$(BIN)/python -m tests.benchmarks.peers

# Groups of dependencies need pip 25.1.
$(VENV)/pip:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
		{ echo "srup needs Python 3.11 or newer and '$(PYTHON)' is not; name one: make PYTHON=python3.13" >&2; exit 1; }
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --upgrade 'pip>=25.1'
	@touch $@

$(VENV)/installed: $(VENV)/pip pyproject.toml
	$(BIN)/python -m pip install --editable .
	@touch $@

$(VENV)/installed-dev: $(VENV)/pip pyproject.toml
	$(BIN)/python -m pip install --editable . --group dev
	@touch $@ $(VENV)/installed

# What is not to be had for this system is left out of the comparison.
$(VENV)/installed-bench: $(VENV)/installed-dev
	-$(BIN)/python -m pip install --group bench
	@touch $@
