# Two commands do everything: `make demo` and `make test`. Each makes .venv by itself.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
READY := $(VENV)/.ready

.PHONY: demo test chaos clean bench-training bench-gpu bench-worker bench-learning bench-queue bench-report

$(READY): pyproject.toml constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(BIN)/pip install --quiet --constraint constraints.txt --editable '.[dev]'
	touch $@

demo: $(READY)  ## the main job on bundled digits with a small, labelled budget (under 10 minutes on 2 cores)
	mkdir -p demo
	$(BIN)/hpo --db sqlite:///demo/hpo.db run --demo --out demo/report

test: $(READY)  ## lint, types and all tests
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/pytest -q -n 2 --dist loadfile --no-loadscope-reorder

chaos: $(READY)  ## 200 workers killed at random moments on SQLite and PostgreSQL, a table (about 20 minutes on 2 cores)
	$(BIN)/python -m tests.support.chaos

bench-training: $(READY)  ## ms a step: plain loop, population, matrix products alone (CPU, 10 minutes)
	$(BIN)/python -m bench.training

bench-gpu:  ## trials an hour on one GPU; any Python that has torch and CUDA: make bench-gpu PYTHON=python3
	$(PYTHON) -m bench.gpu

bench-worker: $(READY)  ## share of a worker's time in training, SQLite and PostgreSQL (10 minutes)
	$(BIN)/python -m bench.worker

bench-queue: $(READY)  ## claims a second, a trial's coordination, SQLite and PostgreSQL (half an hour; QUICK=--quick: less)
	$(BIN)/python -m bench.queue $(QUICK)

bench-report: $(READY)  ## time and size of `hpo report` on 3 x 200 trials and 120 final rounds (3 minutes)
	$(BIN)/python -m bench.report

bench-learning: $(READY)  ## do 20 rounds learn as well in a population as in the plain loop? (40 minutes)
	$(BIN)/python -m bench.learning

clean:
	rm -rf $(VENV) demo
