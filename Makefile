# Two commands do everything: `make demo` and `make test`. Each makes its own virtual environment the first time.
PYTHON ?= python3
# The ROS 2 distribution: jazzy or kilted, whose wheels cannot be installed together. `:=`, because an installed ROS also
# exports ROS_DISTRO.
ROS_DISTRO := jazzy
ROS_EXTRA_jazzy := ros
ROS_EXTRA_kilted := ros-kilted
ROS_EXTRA := $(or $(ROS_EXTRA_$(ROS_DISTRO)),$(error ROS_DISTRO is "$(ROS_DISTRO)"; choose jazzy or kilted))
DEMO_VENV := .venv/demo$(ROS_EXTRA:ros%=%)
TEST_VENV := .venv/test$(ROS_EXTRA:ros%=%)
# set by the ROS wheels in a process that has found its libraries; the mark of another environment would hide ours
unexport _ROS_WHEELS_BOOTSTRAP_COMPLETE
# with PYTEST_ARGS, some of the runs may select no test (status 5)
PYTEST = $(TEST_VENV)/bin/python -m pytest $(PYTEST_ARGS) $(1) || { [ $$? = 5 ] && [ -n "$(PYTEST_ARGS)" ]; }
# two tests at a time, each on one core
IN_PARALLEL = --numprocesses 2 --dist worksteal
# --quiet twice: errors only, without setuptools' notes on editable installations
PIP_INSTALL = install --quiet --quiet --disable-pip-version-check --constraint constraints.txt

.PHONY: demo test test-node test-library weights clean

demo: $(DEMO_VENV)/ready
	$(DEMO_VENV)/bin/python -m sal360 demo --output out/demo $(DEMO_ARGS)

test: $(TEST_VENV)/ready
	$(TEST_VENV)/bin/ruff format --check .
	$(TEST_VENV)/bin/ruff check .
	$(TEST_VENV)/bin/mypy
	$(TEST_VENV)/bin/lint-imports --no-cache
	$(MAKE) --no-print-directory --jobs=2 --output-sync=line test-node test-library
	OMP_NUM_THREADS=1 $(call PYTEST,$(IN_PARALLEL) tests/training)

# in runs apart: training's tests fork data loaders, which is unsafe beside the middleware's threads, and the tests of the
# node leave each other no time when they run in parallel. They mostly wait, so those of the library run beside them.
test-node:
	$(call PYTEST,--ignore tests/training --ignore tests/sal360)

test-library:
	OMP_NUM_THREADS=1 nice $(call PYTEST,tests/sal360)

# Rebuild the bundled model from its data: make weights GAZE=folder PANORAMAS=folder (about two hours on two cores).
weights: $(TEST_VENV)/ready
	$(TEST_VENV)/bin/python -m training.make_weights --gaze "$(GAZE)" --panoramas "$(PANORAMAS)"

# An environment is rebuilt when setup.py or constraints.txt changes. The marker comes last, so that an interrupted
# installation starts over.
$(DEMO_VENV)/ready: setup.py constraints.txt
	@echo "Setting up $(DEMO_VENV) once: 1 GB, a minute or so after the downloads"
	$(PYTHON) -m venv --clear $(DEMO_VENV)
	$(DEMO_VENV)/bin/pip $(PIP_INSTALL) --upgrade pip "setuptools<81" wheel
	$(DEMO_VENV)/bin/pip $(PIP_INSTALL) --editable ".[$(ROS_EXTRA),cpu,replay,viewer]"
	touch $@

$(TEST_VENV)/ready: setup.py constraints.txt
	@echo "Setting up $(TEST_VENV) once: 7 GB, most of it torch, a few minutes after the downloads"
	$(PYTHON) -m venv --clear $(TEST_VENV)
	$(TEST_VENV)/bin/pip $(PIP_INSTALL) --upgrade pip "setuptools<81" wheel
	$(TEST_VENV)/bin/pip $(PIP_INSTALL) --editable ".[$(ROS_EXTRA),cpu,replay,viewer,train,dev]"
	$(TEST_VENV)/bin/pip $(PIP_INSTALL) --editable ".[oracle]" \
	    || echo "pysaliency could not be installed (it needs a C compiler and python3-dev): its comparison tests are skipped"
	touch $@

clean:
	rm -rf .venv out build install log *.egg-info .pytest_cache .mypy_cache .ruff_cache .hypothesis
