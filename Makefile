# Works on a machine with Python 3.11 or newer, git and make. `make help` lists the targets.
.DEFAULT_GOAL := help
.PHONY: help run demo test soak lint tidy build build-only docker clean

BIN := .venv/bin
RUN_READY := .venv/.ready-to-run
TEST_READY := .venv/.ready-to-test
PIP_INPUTS := requirements.txt requirements-build.txt setup.py pyproject.toml scripts/setup-venv.sh
PY_SOURCES = $(wildcard scheduler admin_ui scripts wsgi.py)
VERSION = $(shell sed -n 's/^__version__ = "\(.*\)"/\1/p' scheduler/__init__.py)

# Tests run in a new random order each time; SEED=... repeats one.
SEED ?= $(shell date +%s)
PYTEST := $(BIN)/pytest -p randomly --randomly-seed=$(SEED) --randomly-dont-reset-seed

# A virtual environment does not survive being moved: its scripts carry the old path.
ifneq ($(shell cat .venv/.built-for 2>/dev/null || echo '$(CURDIR)'),$(CURDIR))
$(shell rm -f $(RUN_READY) $(TEST_READY))
endif

help: ## list the targets
	@grep -E '^[a-z-]+:.*## ' Makefile | sort | awk -F ':.*## ' '{ printf "  make %-12s %s\n", $$1, $$2 }'

run: $(RUN_READY) ## set everything up and serve on port 8080
	@exec $(BIN)/llm-scheduler serve

demo: $(RUN_READY) ## serve beside two simulated nodes and print a curl line that works
	@exec $(BIN)/python scripts/demo.py

test: $(TEST_READY) ## set up what tests need and run all of them, in random order (SEED=... repeats one)
	@scripts/setup-test.sh
	@echo "Test order: SEED=$(SEED)"
	@$(PYTEST) -m "not soak"

soak: $(TEST_READY) ## the long forms of the tests
	@$(PYTEST) -m soak

lint: $(TEST_READY) ## ruff and mypy, changing nothing
	@$(BIN)/ruff check .
	@$(BIN)/ruff format --check .
	@$(BIN)/mypy $(PY_SOURCES)

tidy: $(TEST_READY) ## let ruff repair and format what it can
	@$(BIN)/ruff check --fix .
	@$(BIN)/ruff format .

build: build-only ## wheel and source distribution into dist/
	@$(BIN)/python -c 'from setuptools import build_meta; build_meta.build_sdist("dist")' > build/sdist.log 2>&1 \
		|| { cat build/sdist.log; exit 1; }
	@ls dist/llm_scheduler-$(VERSION)*

build-only: $(RUN_READY) ## the wheel alone, with what is already built
	@mkdir -p build dist && rm -rf build/lib build/bdist.*
	@$(BIN)/pip wheel --quiet --disable-pip-version-check --no-deps --no-build-isolation --wheel-dir dist .

docker: ## the container image llm-scheduler:VERSION
	docker build --tag llm-scheduler:$(VERSION) .

clean: ## remove what was built or downloaded, but never data/
	rm -rf .venv build dist *.egg-info tests/openai_node/node_modules
	rm -rf .pytest_cache .mypy_cache .ruff_cache .hypothesis
	find . -name __pycache__ -type d -not -path './.git/*' -prune -exec rm -rf {} +

$(RUN_READY): $(PIP_INPUTS)
	@scripts/setup-venv.sh requirements-build.txt requirements.txt
	@touch $@

$(TEST_READY): $(PIP_INPUTS) requirements-dev.txt
	@scripts/setup-venv.sh requirements-build.txt requirements.txt requirements-dev.txt
	@touch $(RUN_READY) $@
