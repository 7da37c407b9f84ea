# Two commands do everything on a fresh machine with Python 3.11+, git and make: `make demo` and `make test`.
PYTHON ?= python3
BIN := .venv/bin
TORCH := .venv/.torch
USED := .venv/.used
INSTALLED := .venv/.installed
THREADS ?= 3

.PHONY: demo models test check lint docs format bench clean help

help:  ## list these commands
	@grep -E '^[a-z]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:[^#]*## /\t/' | expand -t 10

# Python compiles a module at its first import. Compiling all that are installed took a third of an installation.
export PYTHONDONTWRITEBYTECODE :=
INSTALL := $(BIN)/python -m pip install --quiet --disable-pip-version-check --no-compile --constraint constraints.txt

$(TORCH): constraints.txt
	$(PYTHON) -c 'import sys; sys.exit("Python 3.11 or newer is needed, this is " + sys.version) if sys.version_info < (3, 11) else None'
	$(PYTHON) -m venv .venv
	$(INSTALL) torch
	touch $@

$(USED): $(TORCH) pyproject.toml
	$(INSTALL) --editable '.[train,images,video,serve]'
	$(BIN)/ebt fit --help-all > /dev/null  # once, or all processes of a command would compile at the same time
	touch $@

$(INSTALLED): $(USED)
	$(INSTALL) --editable '.[dev]'
	touch $@

demo: $(USED)  ## train, think and report in minutes: runs/demo/report.html
	$(BIN)/ebt demo --out runs/demo

models: $(USED)  ## train the bundled models that are missing (hours)
	$(BIN)/python models/make.py

lint: $(INSTALLED)  ## style and types
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

# Tests run in three processes, for on two cores some always wait for a program. Style and types are checked beside them, and
# what was found is told in one piece.
define SUITE
	@(told=$$($(MAKE) --no-print-directory lint 2>&1); code=$$?; printf "\n%s\n" "$$told"; exit $$code) & lint=$$!; \
	$(BIN)/python -m pytest -q -n $(THREADS) --dist loadscope --no-loadscope-reorder $(PYTEST) $(1); tests=$$?; \
	wait $$lint || { echo "make lint has failed: see above" >&2; exit 1; }; exit $$tests
endef

test: $(INSTALLED)  ## style, types and the whole test suite
	$(call SUITE)

check: $(INSTALLED)  ## style, types and the fast half of the test suite: a minute
	$(call SUITE,-m "not slow")

docs: $(INSTALLED)  ## the documentation site: site/index.html
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict --quiet

format: $(INSTALLED)  ## mend the style
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

BENCH ?= --quick

bench: $(INSTALLED)  ## all benchmarks, small (in full, hours: make bench BENCH=): runs/bench/*.json
	$(BIN)/ebt study stability $(BENCH) --out runs/bench/stability
	for name in train boards contexts second_order memory generate think; do \
		$(BIN)/python benchmarks/$$name.py $(BENCH) --json runs/bench/$$name.json || exit 1; done

clean:  ## remove the environment and caches; results in runs/ stay
	rm -rf .venv .versions .pytest_cache .mypy_cache .ruff_cache
