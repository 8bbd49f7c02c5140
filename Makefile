# make demo   install, then train, evaluate and predict on real handwritten digits
# make test   install with the test extras, then run the suite
# make bench  measure speeds; PHOTOS=folder takes your photographs
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
DEMO := demo

.PHONY: demo test test-all lint types docs check bench clean

demo: $(VENV)/installed
	rm -rf $(DEMO)
	$(BIN)/inceptcli sample $(DEMO)/digits
	$(BIN)/inceptcli train $(DEMO)/digits --epochs 3 --img-size 64 --flips none --train-sizes 1,1 -o $(DEMO)/run
	$(BIN)/inceptcli evaluate -m $(DEMO)/run/best_model.pth
	$(BIN)/inceptcli predict -m $(DEMO)/run/best_model.pth \
		$(DEMO)/digits/0/0000.png $(DEMO)/digits/1/0001.png $(DEMO)/digits/2/0002.png

test: $(VENV)/installed-test
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n 2 --cov --cov-report=term

test-all: $(VENV)/installed-test
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n 2 -m ""

lint: $(VENV)/installed-dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

types: $(VENV)/installed-dev
	$(BIN)/mypy

# Speeds against the plain loop, and the tables of docs/benchmarks.md; on an otherwise idle machine.
bench: $(VENV)/installed-test
	for name in startup data predict train; do $(BIN)/python -m benchmarks.$$name $(PHOTOS) || exit 1; done
	$(BIN)/python -m benchmarks.page

docs: $(VENV)/installed-test
	$(BIN)/python docs/make_reference.py

check: lint types test

clean:
	rm -rf $(VENV) $(DEMO)

# One stamp a set of extras; each is made anew when the package's description changes.
$(VENV)/bin/python:
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --upgrade pip

$(VENV)/installed: pyproject.toml | $(VENV)/bin/python
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --editable .
	touch $@

$(VENV)/installed-test: pyproject.toml | $(VENV)/bin/python
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --editable '.[test]'
	touch $@ $(VENV)/installed

$(VENV)/installed-dev: pyproject.toml | $(VENV)/bin/python
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --editable '.[dev]'
	touch $@ $(VENV)/installed $(VENV)/installed-test
