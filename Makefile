# Each target sets up all that it needs: `make demo` and `make test` work in a fresh clone with Python 3.11 or later.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
PORT ?= 4200
DOCS_PORT ?= 8000
# test processes; the files are dealt to them
JOBS ?= 2

.PHONY: demo demo-lm smoke open-source up test test-all lint audit wheel notebook format bench docs reference setup setup-dev clean help

help:
	@echo "make demo         train a small model on this machine's Python packages: 5 to 9 minutes on 2 cores; then try: $(BIN)/cpt search \"parse a date\""
	@echo "make smoke        the smallest run: tests the installation in a minute"
	@echo "make demo-lm      the paper's recipe, from a small language model that it downloads: three hours and a half on 2 cores, 8 GB of memory; resumes after Ctrl-C"
	@echo "make open-source  download the packages of a larger corpus in six languages"
	@echo "make setup        install what a run needs into $(VENV), and nothing else"
	@echo "make up           start Prefect's server and UI, all deployments and a worker"
	@echo "make test         the tests: about 19 minutes on 2 cores; make test-all: the slow ones too"
	@echo "make lint         ruff, format, import-linter, mypy, codespell, links"
	@echo "make audit        known vulnerabilities of the pinned packages, ruff's security rules, secrets in files"
	@echo "make bench        the benchmarks, in their quick form"
	@echo "make wheel        build the wheel, and run the smallest run from it in a clean environment"
	@echo "make notebook     run the tutorial's notebook anew"
	@echo "make docs         serve the documentation as a site, on port $(DOCS_PORT)"
	@echo "make reference    regenerate the reference pages from the code"
	@echo "make format       let ruff mend and format the code; make clean: remove $(VENV), artifacts and caches"

demo: setup
	@$(BIN)/cpt run --preset demo

demo-lm: $(VENV)/.lm
	@$(BIN)/cpt get-start smollm2-135m-instruct-q4
	@$(BIN)/cpt run --preset lm

smoke: setup
	@$(BIN)/cpt run --preset smoke

open-source: setup
	@$(BIN)/cpt fetch dumps/open-source.yaml

up: setup
	@$(BIN)/cpt up --port $(PORT)

test: setup-dev
	$(BIN)/python -m pytest -n $(JOBS) --dist loadfile --no-loadscope-reorder -m "not slow"

test-all: setup-dev
	$(BIN)/python -m pytest

lint: setup-dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/lint-imports
	$(BIN)/mypy
	$(BIN)/codespell
	$(BIN)/check-jsonschema --builtin-schema vendor.github-workflows .github/workflows/ci.yml
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict --quiet

docs: setup-dev
	$(BIN)/mkdocs serve --strict --dev-addr 127.0.0.1:$(DOCS_PORT)

reference: setup-dev
	$(BIN)/python -m flows.cli.reference

audit: setup-dev
	@.ci/audit

wheel:
	@PYTHON=$(PYTHON) .ci/wheel

notebook: setup-dev
	$(BIN)/python -m benchmarks.notebook

format: setup-dev
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

bench: setup-dev
	$(BIN)/python -m benchmarks.train --quick
	$(BIN)/python -m benchmarks.equivalence --quick
	$(BIN)/python -m benchmarks.extract --quick
	$(BIN)/python -m benchmarks.deduplicate --quick
	$(BIN)/python -m benchmarks.web_text --quick
	$(BIN)/python -m benchmarks.encode --quick
	$(BIN)/python -m benchmarks.index --quick

setup: $(VENV)/.runtime
setup-dev: $(VENV)/.dev

# The marker is written last: an interrupted install is done again.
$(VENV)/.runtime: pyproject.toml constraints.txt
	@test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	@echo "installing into $(VENV) (some minutes the first time)"
	@$(BIN)/python -m pip install -q --disable-pip-version-check -c constraints.txt -e '.[dumps,suites]'
	@touch $@

$(VENV)/.lm: $(VENV)/.runtime
	@echo "installing what reads a GGUF file"
	@$(BIN)/python -m pip install -q --disable-pip-version-check -c constraints.txt -e '.[lm]'
	@touch $@

$(VENV)/.dev: $(VENV)/.runtime
	@echo "installing what tests and checks need"
	@$(BIN)/python -m pip install -q --disable-pip-version-check -c constraints.txt -e '.[test,dev,bench,docs]'
	@touch $@

clean:
	rm -rf $(VENV) artifacts .pytest_cache .mypy_cache .ruff_cache .import_linter_cache
