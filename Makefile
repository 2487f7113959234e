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
# two processes: the tests of the training fork loaders, which is not safe beside the threads that the middleware leaves
	$(call PYTEST,--ignore tests/training)
	$(call PYTEST,tests/training)

# The bundled model again from its data: make weights OSIE=folder PANORAMAS=folder (some three hours on two cores, by its
# steps; goes on where it was interrupted). Each version has a folder of its own: another one's averages and maps are not
# taken for its.
VERSION := 1.3.0
RUNS := runs/sal360-compact-$(VERSION)
RUN = $(TEST_VENV)/bin/python -m training
TRAIN = $(RUN).train_decoder --config config/$(1).yaml --data.root $(OSIE) --data.panoramas $(PANORAMAS) --loop.resume auto
AVERAGE = test -d $(RUNS)/$(1) || $(RUN).average --checkpoints '[$(RUNS)/$(2), $(RUNS)/$(3)$(if $(4),$(COMMA) $(RUNS)/$(4))]' --output $(RUNS)/$(1)
COMMA := ,
TEACH = test -f $(RUNS)/$(1).npz || $(RUN).teach --checkpoints '[$(RUNS)/$(1)]' --panoramas $(PANORAMAS) --heights '[$(2),$(3),$(4)]' --output $(RUNS)/$(1).npz
TRAINED_ON := ImageNet (encoder), OSIE gaze on photographs placed on panoramas, and its own maps of these panoramas drawn larger
EXPORT = $(RUN).export --checkpoint $(RUNS)/calibrated --panoramas $(PANORAMAS) --version $(VERSION) --trained_on "$(TRAINED_ON)" --precision $(1)
weights: $(TEST_VENV)/ready
	@test -d "$(OSIE)" && test -d "$(PANORAMAS)" || { echo "say where the data are: make weights OSIE=folder PANORAMAS=folder"; exit 2; }
	$(call TRAIN,train_compact) --loop.run $(RUNS)/first
	for seed in 1 2; do $(call TRAIN,train_compact_longer) --start $(RUNS)/first --loop.run $(RUNS)/longer_$$seed --loop.seed $$seed || exit; done
	$(call AVERAGE,longer,longer_1,longer_2)
	for seed in 3 4; do $(call TRAIN,train_compact_smooth) --start $(RUNS)/longer --loop.run $(RUNS)/smooth_$$seed --loop.seed $$seed || exit; done
	$(call AVERAGE,smooth,smooth_3,smooth_4)
	$(call TEACH,smooth,384,576,768)
	$(call TRAIN,train_compact_small) --start $(RUNS)/smooth --data.taught $(RUNS)/smooth.npz --loop.run $(RUNS)/small_0 \
	    --loop.seed 0 --loop.steps 500 --optimiser.learning_rate 1.0e-3 --optimiser.encoder_factor 0.15 \
	    --data.placement.fov_deg '[45, 90]' --data.placement.inset_share 0.7
	for seed in 1 2; do $(call TRAIN,train_compact_small) --start $(RUNS)/small_0 --data.taught $(RUNS)/smooth.npz \
	    --loop.run $(RUNS)/small_$$seed --loop.seed $$seed || exit; done
	$(call AVERAGE,small,small_1,small_2)
	$(call TEACH,small,576,768,960)
	$(call TRAIN,train_compact_panoramas) --start $(RUNS)/small --data.taught $(RUNS)/small.npz --loop.run $(RUNS)/panoramas_0 \
	    --loop.seed 21 --loop.steps 500 --optimiser.learning_rate 1.2e-3 \
	    --data.placement.slots 2 --data.placement.mean_photographs 2
	for seed in 31 32; do $(call TRAIN,train_compact_panoramas) --start $(RUNS)/panoramas_0 --data.taught $(RUNS)/small.npz \
	    --loop.run $(RUNS)/panoramas_$$seed --loop.seed $$seed || exit; done
	$(call AVERAGE,panoramas,panoramas_31,panoramas_32,small)
	test -d $(RUNS)/calibrated || $(RUN).calibrate --checkpoint $(RUNS)/panoramas --panoramas $(PANORAMAS) --output $(RUNS)/calibrated
# both before either comes into the source tree, whose revision they name; int8 sees each of the 62 panoramas once
	$(call EXPORT,fp32) --output $(RUNS)/sal360_compact.onnx
	$(call EXPORT,int8) --output $(RUNS)/sal360_compact_int8.onnx --calibration_frames 62
	cp $(RUNS)/sal360_compact.onnx $(RUNS)/sal360_compact_int8.onnx sal360/weights/

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
