# Two commands do everything: `make demo` and `make test`. Each makes .venv by itself. `make help` lists the others.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
READY := $(VENV)/.ready

# `make test COVERAGE=--cov` also reports the branches that the tests cover, and fails below the floor in pyproject.toml.
# CI does so; by hand it would only take longer.
COVERAGE ?=

# A CPU's instruction sets decide how float32 rounds, so tests/training runs under several of them, but for what computes nothing.
NUMERICS := ATEN_CPU_CAPABILITY=default ATEN_CPU_CAPABILITY=avx2 MKL_CBWR=COMPATIBLE MKL_CBWR=AVX2
TRAINING := $(BIN)/pytest -q tests/training --ignore=tests/training/test_fake_cuda.py -m 'not long'

.PHONY: help demo test test-long docs chaos clean \
	bench-training bench-peak bench-gpu bench-search bench-worker bench-learning bench-queue bench-report bench-functions bench-lanes bench-examples bench-intervals bench-looks bench-verdicts bench-racing bench-overview bench-fleet bench-pages bench-pictures

KERNELS := hatch_build.py $(wildcard hpo/training/kernels/*.c hpo/training/kernels/*.h)

# Modules are compiled on all cores, where pip would use one; some packages have files for other versions of Python.
$(READY): pyproject.toml constraints.txt $(KERNELS)
	$(PYTHON) -m venv $(VENV)
	$(BIN)/pip install --quiet --no-compile --constraint constraints.txt --editable '.[dev]'
	$(BIN)/python -m compileall -q -j 0 $(VENV)/lib >/dev/null || true
	touch $@

help:  ## this list
	@sed -n 's/^\([a-z-]*\):.*##/\1:/p' $(MAKEFILE_LIST)

demo: $(READY)  ## the main job on bundled digits with a small, labelled budget (3 to 5 minutes on 2 cores)
	mkdir -p demo
	$(BIN)/hpo --db sqlite:///demo/hpo.db run --demo --out demo/report

test: $(READY)  ## lint, format, types and all tests but the long ones
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	printf '%s\n' $(BIN)/mypy $(NUMERICS:%="% $(TRAINING)") | xargs -d '\n' -P 2 -I '{}' sh -c '{}'
	$(BIN)/pytest -q -n 3 --dist loadfile --no-loadscope-reorder -m 'not long' $(COVERAGE)

test-long: $(READY)  ## what takes long: the README command by command, a broken machine on PostgreSQL, Triton's compiler (an hour)
	$(BIN)/pip install --quiet --no-deps --constraint constraints.txt triton || echo "no triton here: its tests are skipped"
	$(BIN)/pytest -q -m long

docs: $(READY)  ## docs/cli.md from the commands
	$(BIN)/python -m hpo.cli.reference > docs/cli.md

chaos: $(READY)  ## 200 workers killed at random moments on SQLite and PostgreSQL, a table (about 20 minutes on 2 cores)
	$(BIN)/python -m tests.support.chaos

bench-training: $(READY)  ## ms a step: plain loop, population, torch's products alone (CPU, 10 minutes)
	$(BIN)/python -m bench.training

bench-peak: $(READY)  ## the most that a core multiplies and adds, and the least that a step takes by that (10 seconds)
	$(BIN)/python -m bench.peak

bench-gpu:  ## right and how fast on one GPU, part by part; any Python that has torch and CUDA: make bench-gpu PYTHON=python3
	bash bench/gpu_run.sh bench/out

bench-search: $(READY)  ## a search by Optuna and a plain loop against hpo's workers, in turns (half an hour)
	$(BIN)/python -m bench.search

bench-worker: $(READY)  ## share of a worker's time in training, SQLite and PostgreSQL (10 minutes)
	$(BIN)/python -m bench.worker

bench-queue: $(READY)  ## claims a second, a trial's coordination, SQLite and PostgreSQL (half an hour; QUICK=--quick: less)
	$(BIN)/python -m bench.queue $(QUICK)

bench-functions: $(READY)  ## what users' functions cost in child processes, and their checkpoints (10 minutes)
	$(BIN)/python -m bench.functions

bench-lanes: $(READY)  ## a search by a user's recipe in 1, 4 and 8 lanes of one process (5 minutes)
	$(BIN)/python -m bench.lanes

bench-intervals: $(READY)  ## how often the interval for new test images covers, by simulation (2 minutes)
	$(BIN)/python -m bench.intervals

bench-looks: $(READY)  ## what it costs to look more than once, by simulation (10 minutes)
	$(BIN)/python -m bench.looks

bench-verdicts: $(READY)  ## how often verdicts over repeats and of equality are wrong, by simulation (10 minutes)
	$(BIN)/python -m bench.verdicts

bench-racing: $(READY)  ## what racing would save in the confirm phase, by simulation (a minute)
	$(BIN)/python -m bench.racing

bench-overview: $(READY)  ## ms that the lab's overview, hpo top and /metrics take, SQLite and PostgreSQL (a minute)
	$(BIN)/python -m bench.overview

bench-fleet: $(READY)  ## hundreds of workers whose trainings sleep, with deaths and pauses, on PostgreSQL (half an hour; QUICK=--quick: less)
	$(BIN)/python -m bench.fleet $(QUICK)

bench-pages: $(READY)  ## what 20 browsers cost the workers, and each page's time, PostgreSQL and SQLite (10 minutes; QUICK=--quick: less)
	$(BIN)/python -m bench.pages $(QUICK)

bench-examples: $(READY)  ## the examples' finished reports, run again (an hour)
	$(BIN)/python -m bench.examples $(ARGS)

bench-pictures: $(READY)  ## README's picture of the lab's overview, by Chromium (3 minutes)
	$(BIN)/python -m bench.pictures

bench-report: $(READY)  ## time and size of `hpo report` on 3 x 200 trials and 120 final rounds (3 minutes)
	$(BIN)/python -m bench.report

bench-learning: $(READY)  ## do 20 rounds learn as well in a population as in the plain loop? (40 minutes)
	$(BIN)/python -m bench.learning

clean:  ## .venv and the demo's results away
	rm -rf $(VENV) demo
