# Everything from nothing: `make demo` and `make test` first install what requirements.lock names
# into .venv, once; after that they start at once.

VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed
UV := $(shell command -v uv)
SUPPORTED := (3, 11) <= sys.version_info[:2] <= (3, 14)
# The first that runs and fits; a name that is only a version manager's shim does not run.
PYTHON ?= $(shell for name in python3 python3.12 python3.13 python3.11 python3.14; do \
	"$$name" -c 'import sys; sys.exit(not $(SUPPORTED))' 2>/dev/null && echo "$$name" && break; done)

UV_PYTHON := $(if $(PYTHON),"$$(command -v $(PYTHON))",3.12) # uv fetches one where there is none

.PHONY: help demo test faults lint types lock clean
.DELETE_ON_ERROR:

help:
	@echo 'make demo    make slides, tile, train, predict and measure; results in demo/'
	@echo 'make test    run the tests'
	@echo 'make faults  try every row of docs/faults.md'
	@echo 'make lint    check style and format'
	@echo 'make types   check types'
	@echo 'make lock    pin the newest versions pyproject.toml allows (needs uv)'
	@echo 'make clean   remove .venv and the demo; the next make installs again'

demo: $(STAMP)
	$(BIN)/wsi-hr demo -o demo

test: $(STAMP)
	$(BIN)/python -m pytest -n 2 --dist loadfile -m 'not docker and not sweep'

faults: $(STAMP)
	$(BIN)/python -m benchmarks.fault_table

lint: $(STAMP)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

types: $(STAMP)
	$(BIN)/pyright

# The stamp goes first and comes back last, so an interrupted installation leaves none; what it did
# leave is thrown away. A changed lock is installed over what is there.
$(STAMP): requirements.lock pyproject.toml
ifeq ($(PYTHON)$(UV),)
	@echo 'wsi-hr needs Python 3.11 to 3.14 as python3 or python3.1x; name another: make PYTHON=/path/to/python3' >&2; exit 1
endif
ifneq ($(UV),)
	@test -e $@ || uv venv --quiet --clear --python $(UV_PYTHON) $(VENV)
	@rm -f $@
	uv pip install --quiet --python $(BIN)/python --require-hashes -r requirements.lock
	uv pip install --quiet --python $(BIN)/python --no-deps --editable .
else
	@test -e $@ || $(PYTHON) -m venv --clear $(VENV) || \
		{ echo 'the Python module venv is missing; on Debian and Ubuntu: apt install python3-venv' >&2; exit 1; }
	@rm -f $@
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --require-hashes -r requirements.lock
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps --editable .
endif
	@touch $@

lock:
	uv pip compile --quiet --upgrade --universal --python-version 3.11 --generate-hashes \
		--no-emit-index-url --no-header --extra dev pyproject.toml -o requirements.lock
	uv pip compile --quiet --universal --python-version 3.11 --generate-hashes \
		--no-emit-index-url --no-header --no-annotate -c requirements.lock pyproject.toml \
		-o docker/requirements.lock

clean:
	rm -rf $(VENV) demo .pytest_cache .ruff_cache .hypothesis
