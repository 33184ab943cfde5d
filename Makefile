# make run    train the main job and say where its report is (OUT=DIR chooses the folder)
# make test   formatting, lint, types and tests; what takes longer stands beside it:
# make test-hostile   the attacks as an ordinary user and in a box
# make test-installed what is installed from wheels: plugins of others, the template's, the tutorials
# make test-chaos     runs under faults
# make test-home      loops of other trainers, loggers of others, notebooks, installed for it; pages in a browser
# make test-any_data  jobs on data and models of every kind, beside the same loops in plain PyTorch
# make test-cli       signals and lost outputs, at any moment of a run
# make test-isolation replies of plugins, fuzzed
# make test-run       one seed, one set of weights: killed, resumed, with any number of workers
# make test-hooks     a role that is added by one file
# make test-docs, test-tools, test-tracking  made pages, cut series, journals of any bytes
# make test-bench     count the instructions of a step and a call, where there is valgrind
# make rooms  all of these
# make soak   the long runs that `make test` leaves out
# make bench  measure beside plain PyTorch and others, at most 20 minutes (BENCH_ARGS, e.g. '1 4 --quick')
# make docs   build the documentation into site/, every warning an error
# make lint   formatting, lint and types only
# make clean  remove what these made
#
# A fresh machine needs only Python >= 3.11: make run PYTHON=/path/to/python3

# The first of these that is at least 3.11.
PYTHON ?= $(shell for p in python3.13 python3.12 python3.11 python3 python; do \
  if "$$p" -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null; then echo "$$p"; break; fi; done)
VENV ?= .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed
DEV_STAMP := $(VENV)/.installed-dev
BENCH_STAMP := $(VENV)/.installed-bench
DOCS_STAMP := $(VENV)/.installed-docs
DECLARED := pyproject.toml constraints.txt core/version.py

# The longest first.
ROOMS := $(addprefix test-,home any_data installed hostile cli chaos isolation run hooks docs tools tracking bench)

.PHONY: run test rooms $(ROOMS) computes rest attacks waits commands soak bench docs lint clean
.DELETE_ON_ERROR:

run: $(STAMP)
	$(BIN)/ringfence train examples/mnist10k.yaml $(if $(OUT),--out $(OUT))

# Four of these at a time on two cores, as they wait now and then; the longest first.
COMPUTES := $(addprefix tests/,api builtin compat engine hooks imports inference integrations models plugins tensors testing)
ATTACKS := tests/hostile
WAITS := tests/fuzz tests/isolation
COMMANDS := tests/cli
FOLDERS := $(filter-out tests/__pycache__,$(patsubst %/,%,$(wildcard tests/*/)))
REST := $(filter-out $(COMPUTES) $(ATTACKS) $(WAITS) $(COMMANDS),$(FOLDERS)) $(wildcard tests/test_*.py)
# With one thread each: threads of torch that share cores with others spin as they wait for each other.
PYTEST := OMP_NUM_THREADS=1 $(BIN)/python -m pytest
BESIDE := $(PYTEST) -m 'not soak and not room' $(PYTEST_ARGS)

test: $(DEV_STAMP)
	@echo "linters and runs of tests, four side by side; each is shown once it has ended, in some minutes"
	@$(MAKE) --no-print-directory -j4 --output-sync=target attacks rest commands waits computes lint

computes:
	$(BESIDE) $(COMPUTES)

rest:
	$(BESIDE) $(REST)

attacks:
	$(BESIDE) $(ATTACKS)

waits:
	$(BESIDE) $(WAITS)

commands:
	$(BESIDE) $(COMMANDS)

rooms: $(ROOMS)

# What a folder holds beyond `make test`.
$(ROOMS): test-%: $(DEV_STAMP)
	$(PYTEST) -m 'not soak and room' tests/$* $(PYTEST_ARGS)

soak: $(DEV_STAMP)
	SLACK_S=2 $(BIN)/python -m pytest -m 'soak or alone' $(PYTEST_ARGS)

bench: $(BENCH_STAMP)
	$(BIN)/python bench/run.py $(BENCH_ARGS)

# The theme would print at each build what it thinks of a later mkdocs, which pyproject.toml keeps out.
docs: $(DOCS_STAMP)
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict
	@echo "open site/index.html; the search works where it is served: $(BIN)/mkdocs serve"

lint: $(DEV_STAMP)
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/python tools/link_types.py
	$(BIN)/mypy

clean:
	rm -rf build dist site .types .pytest_cache .ruff_cache .mypy_cache .hypothesis *.egg-info
	rm -rf $(VENV)

$(STAMP): $(DECLARED)
	@test -n "$(PYTHON)" || { echo "no Python >= 3.11 found; name one: make run PYTHON=/path/to/python3" >&2; exit 1; }
	@echo "installing ringfence, and torch and what else it needs, into $(VENV): once, a minute or more"
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[tensorboard]'
	@touch $@

$(DEV_STAMP): $(STAMP)
	@echo "installing what the tests, the linters and the documentation need into $(VENV): once"
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[dev,docs]'
	@touch $@

$(BENCH_STAMP): $(STAMP)
	@echo "installing what the benchmarks need into $(VENV): once"
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[bench]'
	@touch $@

$(DOCS_STAMP): $(STAMP)
	@echo "installing what the documentation needs into $(VENV): once"
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[docs]'
	@touch $@
