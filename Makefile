# make all    the default study: figures/, cache/ and the scorecard     make test   every check
# make bench  speed against the plain way                               make clean  forget what was computed
# make test-faults  faults, bad input and SLURM at full size
# TORCH=cpu   take PyTorch's CPU build from PyTorch's own index (machines on the internet without a GPU)
PYTHON ?= python3
TORCH ?= default
CORES ?= all
BIN := .venv/bin
STAMP := .venv/.installed-$(shell cat envs/requirements.lock pyproject.toml | sha256sum | cut -c1-16)

.PHONY: all test test-faults bench lint clean
all: $(STAMP)
	. $(BIN)/activate && snakemake --cores $(CORES) --resources gpu=1 all

test: lint
	. $(BIN)/activate && OMP_NUM_THREADS=1 python -m pytest -n 3 --dist loadfile tests

# Only the folders that are there; one process, since full disks and kills disturb their neighbours.
test-faults: $(STAMP)
	. $(BIN)/activate && RECIRCUIT_FAULTS=full OMP_NUM_THREADS=1 python -m pytest $(wildcard tests/faults tests/property tests/slurm)

lint: $(STAMP)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/snakefmt --check Snakefile rules
	. $(BIN)/activate && snakemake --lint

bench: $(STAMP)
	PYTHONPATH=tests OMP_NUM_THREADS=1 MKL_NUM_THREADS=1 $(BIN)/python -m tests.bench

clean:
	rm -rf cache figures

# The name of the stamp holds a digest of the pins, so a changed lock installs again and a touched one does not.
$(STAMP):
	test -x $(BIN)/python || $(PYTHON) -m venv .venv
	rm -f .venv/.installed-*
ifeq ($(TORCH),cpu)
	$(BIN)/pip install --quiet uv
	$(BIN)/uv pip install --quiet --python $(BIN)/python --torch-backend cpu torch==$(shell sed -n 's/^torch==//p' envs/requirements.lock)
endif
	$(BIN)/pip install --quiet -r envs/requirements.lock
	$(BIN)/pip install --quiet --no-deps --no-build-isolation --editable .
	touch $@
