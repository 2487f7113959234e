# Two commands do all: `make demo` and `make test`. Each makes its own virtual environment the first time.
PYTHON ?= python3
DEMO_VENV := .venv/demo
TEST_VENV := .venv/test
# with arguments of the caller's, a part of the tests may hold none that they choose (status 5)
PYTEST = $(TEST_VENV)/bin/python -m pytest $(PYTEST_ARGS) $(1) || { [ $$? = 5 ] && [ -n "$(PYTEST_ARGS)" ]; }
# twice quiet: only errors, not what setuptools thinks of editable installations
PIP_INSTALL = install --quiet --quiet --disable-pip-version-check --constraint constraints.txt

.PHONY: demo test weights clean

demo: $(DEMO_VENV)/ready
	$(DEMO_VENV)/bin/python -m sal360 demo --output out/demo $(DEMO_ARGS)

test: $(TEST_VENV)/ready
	$(TEST_VENV)/bin/ruff format --check .
	$(TEST_VENV)/bin/ruff check .
	$(TEST_VENV)/bin/mypy
	$(TEST_VENV)/bin/lint-imports --no-cache
# two processes: the tests of the training fork loaders, which is not safe beside the threads that the middleware leaves
	$(call PYTEST,--ignore tests/training)
	$(call PYTEST,tests/training)

# The bundled model again from its data: make weights OSIE=folder PANORAMAS=folder (some three hours on two cores).
weights: $(TEST_VENV)/ready
	$(TEST_VENV)/bin/python -m training.make_weights --osie "$(OSIE)" --panoramas "$(PANORAMAS)"

# The environments are made anew when what they are made from changes; the marker is written last, so that an
# interrupted installation is done again.
$(DEMO_VENV)/ready: setup.py constraints.txt
	@echo "Setting up $(DEMO_VENV) once: 1 GB, a minute or so after the downloads"
	$(PYTHON) -m venv --clear $(DEMO_VENV)
	$(DEMO_VENV)/bin/pip $(PIP_INSTALL) --upgrade pip "setuptools<81" wheel
	$(DEMO_VENV)/bin/pip $(PIP_INSTALL) --editable ".[ros,cpu,replay]"
	touch $@

$(TEST_VENV)/ready: setup.py constraints.txt
	@echo "Setting up $(TEST_VENV) once: 7 GB, most of it torch, a few minutes after the downloads"
	$(PYTHON) -m venv --clear $(TEST_VENV)
	$(TEST_VENV)/bin/pip $(PIP_INSTALL) --upgrade pip "setuptools<81" wheel
	$(TEST_VENV)/bin/pip $(PIP_INSTALL) --editable ".[ros,cpu,replay,train,dev]"
	$(TEST_VENV)/bin/pip $(PIP_INSTALL) --editable ".[oracle]" \
	    || echo "pysaliency needs a C compiler and python3-dev: without it, the metrics are not compared with it"
	touch $@

clean:
	rm -rf .venv out build install log *.egg-info .pytest_cache .mypy_cache .ruff_cache .hypothesis
