# `make demo` and `make test` do all of their own set-up; `make help` lists the rest.
PYTHON ?= python3
VENV   := .venv
BIN    := $(VENV)/bin
STAMP  := $(VENV)/.installed
N      ?= 1000

.DEFAULT_GOAL := help
.PHONY: help setup demo test test-all check sweep zoo faults fuzz settings bench plan-errors shadow gpu clean

help:            ## this list
	@grep -E '^[a-z-]+: .*##|^[a-z-]+:  *##' $(MAKEFILE_LIST) | sed 's/:[^#]*## */\t/' | sort

setup: $(STAMP)  ## create .venv with everything, in the versions that were tested

$(STAMP): pyproject.toml constraints.txt
	$(PYTHON) -c 'import sys; sys.exit(0 if sys.version_info >= (3, 11) else "Ziggurat needs Python 3.11 or newer; set PYTHON=")'
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable '.[dev,lite0,geo,slides,zarr,export,serve,members]'
	touch $@

demo: setup      ## train, evaluate and draw on the embedded data set, with two workers
	$(BIN)/ziggurat demo --plan dp=2

check: setup     ## lint, format, types, import boundaries
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

test: check      ## check, then the tests, of long tables a selection; a file of them on each of up to four processors
	$(BIN)/python -m pytest --numprocesses logical --maxprocesses 4 --dist loadfile

test-all: check  ## the same with every case of every table
	$(BIN)/python -m pytest --numprocesses logical --maxprocesses 4 --dist loadfile -m 'sampled or not slow'

sweep: setup     ## the long tests: every combination that make test takes a selection of; three tables in docs/
	$(BIN)/python -m pytest -m slow
	rm -f docs/spatial-models.json docs/pipeline-models.json docs/axes-models.json
	$(BIN)/python tests/sweep/main.py --jobs 2 --limit 1200
	$(BIN)/python tests/sweep/main.py --kind stages --jobs 2 --limit 1800
	$(BIN)/python tests/sweep/main.py --kind axes --limit 1800

zoo: setup       ## install other people's networks (2 GB), and verify more than 500 of them; a run that is stopped goes on
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable '.[dev,lite0,geo,slides,zarr,export,serve,members,zoo]'
	$(BIN)/python -m pip install --quiet --no-deps dynamic-network-architectures==0.4.4
	$(BIN)/python tests/sweep/main.py --kind third-party --jobs 2 --limit 600

faults: setup    ## kill workers more than 200 times, at every phase and at random; each run must end in the same bits
	$(BIN)/python -m pytest -m 'slow or not slow' tests/faults

fuzz: setup      ## N random programs under each plan (make fuzz N=1000); a run that is stopped goes on
	$(BIN)/python tests/fuzz/main.py --programs $(N) --out fuzz.json --pools 2

settings: setup  ## every setting, flag and plan with 12 bad values, mutations of configs and tables: more than 2,200 commands, 30 minutes
	$(BIN)/python tests/settings_fuzz/main.py

bench: setup     ## the benchmarks but plan-errors and shadow, each into its results.json
	for main in $(filter-out benchmarks/planning/main.py benchmarks/shadow/main.py,$(wildcard benchmarks/*/main.py)); do $(BIN)/python $$main || exit 1; done

plan-errors: setup ## forecasts of ziggurat plan against steps that are taken, into benchmarks/planning/cells.csv: hours; a run that is stopped goes on
	$(BIN)/python benchmarks/planning/main.py

shadow: setup    ## steps of 16, 32 and 64 shadow workers against the planner's simulation, into benchmarks/shadow/rows.csv: 15 minutes of a quiet machine
	$(BIN)/python benchmarks/shadow/main.py

gpu: setup       ## what one GPU can prove, in 8 minutes, into gpu-report.json (not run yet: no GPU was at hand)
	$(BIN)/python tests/gpu/main.py

clean:           ## remove what the other targets made
	rm -rf $(VENV) runs fuzz.json build src/*.egg-info .pytest_cache .mypy_cache .ruff_cache .import_linter_cache .hypothesis
