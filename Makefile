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
	$(DEMO_VENV)/bin/python -m sal360_ros.demo --output out/demo $(DEMO_ARGS)

test: $(TEST_VENV)/ready
	$(TEST_VENV)/bin/ruff format --check .
	$(TEST_VENV)/bin/ruff check .
	$(TEST_VENV)/bin/mypy
# two processes: the tests of the training fork loaders, which is not safe beside the threads that the middleware leaves
	$(call PYTEST,--ignore tests/training)
	$(call PYTEST,tests/training)

# The bundled model again from its data: make weights OSIE=folder PANORAMAS=folder (three hours on two cores; goes on
# where it was interrupted)
DATA = --data.root $(OSIE) --data.panoramas $(PANORAMAS) --loop.resume auto
TRAIN = $(TEST_VENV)/bin/python -m training.train_decoder
AVERAGE = $(TEST_VENV)/bin/python -m training.average
weights: $(TEST_VENV)/ready
	@test -d "$(OSIE)" && test -d "$(PANORAMAS)" || { echo "say where the data are: make weights OSIE=folder PANORAMAS=folder"; exit 2; }
	$(TRAIN) --config config/train_compact.yaml $(DATA)
	for seed in 1 2; do $(TRAIN) --config config/train_compact_longer.yaml $(DATA) \
	    --loop.run runs/compact_longer_$$seed --loop.seed $$seed || exit; done
	test -d runs/compact_longer_average || $(AVERAGE) --checkpoints '[runs/compact_longer_1, runs/compact_longer_2]' --output runs/compact_longer_average
	for seed in 3 4; do $(TRAIN) --config config/train_compact_smooth.yaml $(DATA) \
	    --loop.run runs/compact_smooth_$$seed --loop.seed $$seed || exit; done
	test -d runs/compact_smooth_average || $(AVERAGE) --checkpoints '[runs/compact_smooth_3, runs/compact_smooth_4]' --output runs/compact_smooth_average
	test -f runs/taught.npz || $(TEST_VENV)/bin/python -m training.teach --checkpoints '[runs/compact_smooth_average]' --panoramas $(PANORAMAS) --output runs/taught.npz
	$(TRAIN) --config config/train_compact_taught.yaml $(DATA) --loop.run runs/compact_taught_0 --start runs/compact_smooth_average \
	    --loop.seed 0 --loop.steps 500 --optimiser.learning_rate 1.0e-3 --optimiser.encoder_factor 0.15 \
	    --data.placement.fov_deg '[45, 90]' --data.placement.inset_share 0.7
	for seed in 1 2; do $(TRAIN) --config config/train_compact_taught.yaml $(DATA) \
	    --loop.run runs/compact_taught_$$seed --loop.seed $$seed || exit; done
	test -d runs/compact_average || $(AVERAGE) --checkpoints '[runs/compact_taught_1, runs/compact_taught_2]' --output runs/compact_average
	test -d runs/compact_calibrated || $(TEST_VENV)/bin/python -m training.calibrate --checkpoint runs/compact_average --panoramas $(PANORAMAS) --output runs/compact_calibrated
	$(TEST_VENV)/bin/python -m training.export --checkpoint runs/compact_calibrated --version 1.2.0 --output sal360_ros/weights/sal360_compact.onnx

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
