"""Inference that raises, dies or hangs, models that are slow to open or fail to close: the node lives and tells."""

from __future__ import annotations

import os
import signal
import sys
import threading
import time
import types

import numpy as np
import pytest
import rclpy
from diagnostic_msgs.msg import DiagnosticStatus
from lifecycle_msgs.msg import Transition
from lifecycle_msgs.srv import ChangeState, GetState
from rclpy.parameter import Parameter
from sensor_msgs.msg import Image
from std_msgs.msg import Header

from sal360.errors import ModelError
from sal360.predictor import Predictor
from sal360_ros import node as node_module
from sal360_ros.messages import image_message
from sal360_ros.node import InferenceError
from sal360_ros.processes import NodeProcess, bring_up

pytestmark = pytest.mark.ros

CONFIGURE, ACTIVATE = Transition.TRANSITION_CONFIGURE, Transition.TRANSITION_ACTIVATE
GPU_LOST = ModelError("CUDA's cuStreamSynchronize failed (an illegal memory access was encountered)", "see nvidia-smi")


class Faults:
    """Injected faults: each call takes the next one of its list, and raises it or waits for it."""

    def __init__(self):
        self.predict, self.open, self.close = [], [], []
        self._events, self._raised = [], []
        self._opening = threading.local()

    def hang(self):
        """An event that a call can wait for; set at the end of the test."""
        self._events.append(threading.Event())
        return self._events[-1]

    def release(self):
        for each in self._events:
            each.set()
        for each in self._raised:
            each.__traceback__ = None  # or it would keep the node, and its name on the graph

    def faulty(self, faults, original):
        def call(*arguments, **options):
            if faults and not getattr(self._opening, "now", False):
                self.meet(faults.pop(0))
            return original(*arguments, **options)

        return call

    def opened(self, *arguments, **options):
        if self.open:
            self.meet(self.open.pop(0))
        self._opening.now = True  # the prediction that warms a model up meets no fault
        try:
            return Predictor(*arguments, **options)
        finally:
            self._opening.now = False

    def meet(self, fault):
        if isinstance(fault, BaseException):
            self._raised.append(fault)
            raise fault
        if fault is not None:
            assert fault.wait(60)


@pytest.fixture
def faults(monkeypatch):
    made = Faults()
    monkeypatch.setattr(Predictor, "predict", made.faulty(made.predict, Predictor.predict))
    monkeypatch.setattr(Predictor, "close", made.faulty(made.close, Predictor.close))
    monkeypatch.setattr(node_module, "Predictor", made.opened)
    yield made
    made.release()


@pytest.fixture
def status(graph):
    """Level and message of the newest diagnostics."""

    def newest():
        each = graph.diagnostics.get("/saliency_node: saliency", DiagnosticStatus())
        return each.level, each.message

    return newest


@pytest.fixture
def ask(graph):
    """Sends a request to a lifecycle service of the node and returns the future of its reply."""

    def send(kind, name, **request):
        client = graph.call(graph.node.create_client, kind, f"/saliency_node/{name}")
        graph.wait_for(client.service_is_ready, f"the service {name}")
        return client.call_async(kind.Request(**request))

    return send


@pytest.fixture
def state(graph, ask):
    def state():
        future = ask(GetState, "get_state")
        graph.wait_for(future.done, "the state")
        return future.result().current_state.label

    return state


@pytest.mark.parametrize("fault", [SystemExit(3), KeyboardInterrupt(), MemoryError("no room"), GeneratorExit()])
def test_inference_continues_after_any_exception_of_a_frame(graph, camera, active_node, faults, fault):
    maps = graph.received(Image, "saliency")
    faults.predict.append(fault)
    camera.publish(camera.frame())
    graph.wait_for_line(f"frame rejected (internal_error): {type(fault).__name__}")
    camera.publish(camera.frame())
    graph.wait_for(lambda: maps, "a map of the next frame")
    assert active_node._channels[0].statistics.snapshot().rejected == {"internal_error": 1}


@pytest.mark.parametrize("part", ["_now_ns", "_parameters", "_statistics", "_warnings"])
def test_inference_continues_when_something_around_it_raises_once(graph, camera, active_node, part):
    """As the node's clock does when its context is gone: the thread that raised is not missed."""
    stream = active_node._pipeline._streams[0]
    whole = getattr(stream, part)

    class Broken:
        def __call__(self, *_):
            setattr(stream, part, whole)
            raise RuntimeError("injected")

    broken = Broken()
    if part in ("_statistics", "_warnings"):
        setattr(stream, part, types.SimpleNamespace(count_rejected=broken, warn=broken, count_received=lambda: None))
        frame = camera.frame(32, 48)  # rejected, which is counted and logged
    else:
        setattr(stream, part, broken)
        frame = camera.frame()
    maps = graph.received(Image, "saliency")
    camera.publish(frame)
    graph.wait_for(lambda: getattr(stream, part) is whole, "the fault")
    camera.publish(camera.frame())
    graph.wait_for(lambda: maps, "a map of the next frame")


def test_a_thread_that_died_is_started_again(graph, camera, active_node):
    worker = active_node._pipeline._answerer
    dead = threading.Thread(target=lambda: None)
    dead.start()
    dead.join()
    alive, worker._thread = worker._thread, dead
    graph.wait_for_line("a thread of the pipeline had died and was started again")
    maps = graph.received(Image, "saliency")
    camera.publish(camera.frame())
    graph.wait_for(lambda: maps, "a map")
    assert alive.is_alive()


def test_a_model_that_fails_again_and_again_is_opened_again(graph, camera, make_node, activate, faults):
    faults.predict += [None] * 3 + [GPU_LOST] * 4
    activate(make_node(health__max_failures=4))
    maps = graph.received(Image, "saliency")
    camera.stream_until(lambda: not faults.predict, "the failures")
    line = graph.wait_for_line("inference failed 4 consecutive times")
    assert "an illegal memory access was encountered" in line
    assert "opening the model again" in line
    seen = len(maps)
    camera.stream_until(lambda: len(maps) > seen + 3, "maps of the model that was opened again")
    assert graph.values()["state"] == "active"
    graph.wait_for(lambda: graph.diagnostics["/saliency_node: saliency"].level != DiagnosticStatus.ERROR, "no error")


def test_an_occasional_failure_does_not_reopen_the_model(graph, camera, make_node, activate, faults):
    faults.predict += [GPU_LOST, GPU_LOST, None] * 4
    activate(make_node(health__max_failures=3))
    camera.stream_until(lambda: not faults.predict, "the failures")
    assert "opening the model again" not in str(graph.log)


@pytest.mark.parametrize("opens_again", [True, False])
def test_a_model_that_cannot_be_repaired_deactivates_the_node_with_the_cause(
    graph, camera, make_node, activate, faults, status, state, opens_again
):
    faults.predict += [GPU_LOST] * 1000
    node = make_node(health__max_failures=4)
    activate(node)
    if not opens_again:
        faults.open.append(ModelError("there is no CUDA device any more", "see nvidia-smi"))
    maps = graph.received(Image, "saliency")

    def deactivated():
        camera._publisher.publish(camera.frame())
        time.sleep(0.02)
        return node._state == "inactive"

    graph.wait_for(deactivated, "the node to deactivate itself")
    assert state() == "inactive"
    cause = "even after the model was opened again" if opens_again else "there is no CUDA device any more"
    graph.wait_for(lambda: "deactivated: " in status()[1], "the cause in /diagnostics")
    assert status()[0] == DiagnosticStatus.ERROR
    assert cause in status()[1]
    assert not maps
    faults.predict.clear()
    assert graph.call(node.trigger_activate).name == "SUCCESS"
    camera.stream_until(lambda: maps, "maps after the node was activated again")
    graph.wait_for(lambda: "deactivated: " not in status()[1], "the cause to be gone")


def test_a_node_that_is_told_to_exit_then_ends_its_executor_with_the_cause(graph, camera, make_node, activate, faults):
    faults.predict += [GPU_LOST] * 1000
    activate(make_node(health__max_failures=4, health__on_failure="exit"))

    def ended():
        camera._publisher.publish(camera.frame())
        time.sleep(0.02)
        return graph._error is not None

    graph.wait_for(ended, "the executor to end")
    error, graph._error = graph._error, None
    assert isinstance(error, InferenceError)
    assert "consecutive times" in str(error)
    assert "even after the model was opened again" in str(error)


def test_a_hanging_inference_is_replaced_by_a_model_that_is_opened_again(graph, camera, make_node, activate, faults):
    hang = faults.hang()
    faults.predict += [None, None, hang]
    node = activate(make_node(health__hang_s=0.5))
    maps = graph.received(Image, "saliency")
    first = node._model.predictor
    camera.stream_until(lambda: not faults.predict, "the hang")
    graph.wait_for_line("inference has not returned for")
    camera.stream_until(lambda: node._model.predictor not in (None, first), "the model to be opened again")
    seen = len(maps)
    camera.stream_until(lambda: len(maps) > seen + 3, "maps")
    hang.set()
    graph.wait_for(lambda: not first._backend._is_open, "the first model to be freed once its inference returned")


def counters(statistics):
    """Frames received, and what became of them."""
    found = statistics.snapshot()
    return found.received, found.answered + found.superseded + sum(found.rejected.values())


def test_every_frame_is_counted_when_the_model_is_opened_again(graph, camera, make_node, activate, faults):
    faults.predict += [faults.hang()]
    node = activate(make_node(health__hang_s=0.5))
    camera.stream_until(lambda: "the model is open again" in str(graph.log), "the model to be opened again")
    camera.stream_until(lambda: node._pipeline.answered, "a map")
    faults.release()  # the thread that hung adds nothing

    def all_counted():
        received, counted = counters(node._channels[0].statistics)
        assert counted <= received
        return counted == received

    graph.wait_for(all_counted, f"{counters(node._channels[0].statistics)} to be equal")


def test_a_value_that_the_model_cannot_have_is_refused_while_it_is_closed(
    graph, camera, make_node, make_model, activate, faults
):
    """Otherwise every frame would be rejected once the model is open again."""
    node = activate(make_node(model=str(make_model(prior_log_rows=())), health__max_failures=3))
    opening = faults.hang()
    faults.predict += [GPU_LOST] * 1000
    faults.open.append(opening)
    camera.stream_until(lambda: not faults.open, "the model to be opened again")
    faults.predict.clear()
    assert node._model.predictor is None
    result = graph.call(node.set_parameters, [Parameter("prior_strength", value=0.5)])[0]
    assert not result.successful
    assert "has no equator prior" in result.reason
    opening.set()
    maps = graph.received(Image, "saliency")
    camera.stream_until(lambda: maps, "a map")


def test_a_model_whose_opening_hangs_as_well_is_abandoned(
    graph, camera, make_node, activate, faults, status, monkeypatch
):
    """As a GPU does that hangs altogether."""
    monkeypatch.setattr(node_module, "_REOPEN_LIMIT_S", 0.5)
    faults.predict += [faults.hang()]
    node = activate(make_node(health__hang_s=0.5))
    faults.open.append(faults.hang())
    camera.stream_until(lambda: not faults.open, "the second hang")
    graph.wait_for(lambda: node._state == "inactive", "the node to deactivate itself")
    graph.wait_for(lambda: "opening the model again has not finished" in status()[1], "the cause in /diagnostics")
    assert status()[0] == DiagnosticStatus.ERROR
    maps = graph.received(Image, "saliency")
    assert graph.call(node.trigger_activate).name == "SUCCESS"
    camera.stream_until(lambda: maps, "maps of another model")


def test_deactivate_and_shutdown_do_not_wait_for_a_hanging_inference(graph, camera, active_node, faults, status):
    hang = faults.hang()
    faults.predict += [hang]
    camera.stream_until(lambda: not faults.predict, "the hang")
    assert graph.call(active_node.trigger_deactivate).name == "SUCCESS"
    graph.wait_for(lambda: "still busy after" in status()[1], "the abandoned thread in /diagnostics")
    assert graph.call(active_node.trigger_shutdown).name == "SUCCESS"
    assert active_node._model.predictor is None
    hang.set()


def test_a_model_that_cannot_be_freed_leaves_the_node_unconfigured_and_usable(
    graph, camera, active_node, faults, status, ask
):
    faults.close += [ModelError("CUDA's cuStreamDestroy_v2 failed", "see nvidia-smi")]
    assert graph.call(active_node.trigger_deactivate).name == "SUCCESS"
    assert graph.call(active_node.trigger_cleanup).name == "SUCCESS"
    graph.wait_for(lambda: "cannot free the model: CUDA's cuStreamDestroy_v2 failed" in status()[1], "the cause")
    assert not ask(ChangeState, "change_state", transition=Transition(id=ACTIVATE)).done()
    maps = graph.received(Image, "saliency")
    for transition in (active_node.trigger_configure, active_node.trigger_activate):
        assert graph.call(transition).name == "SUCCESS"
    camera.stream_until(lambda: maps, "a map")


def test_a_model_whose_freeing_hangs_is_abandoned(graph, camera, active_node, faults, status):
    faults.close.append(faults.hang())
    for transition in (active_node.trigger_deactivate, active_node.trigger_cleanup):
        assert graph.call(transition).name == "SUCCESS"
    graph.wait_for(lambda: "cannot free the model: TimeoutError: still busy after 1 s" in status()[1], "the cause")
    maps = graph.received(Image, "saliency")
    for transition in (active_node.trigger_configure, active_node.trigger_activate):
        assert graph.call(transition).name == "SUCCESS"
    camera.stream_until(lambda: maps, "a map")


def test_everything_else_is_freed_when_one_part_cannot_be(graph, active_node, monkeypatch):
    def fail(*_):
        raise RuntimeError("injected")

    monkeypatch.setattr(active_node, "destroy_subscription", fail)
    monkeypatch.setattr(active_node._channels[0].saliency, "destroy", fail)
    predictor = active_node._model.predictor
    for transition in (active_node.trigger_deactivate, active_node.trigger_cleanup):
        assert graph.call(transition).name == "SUCCESS"
    assert not predictor._backend._is_open
    monkeypatch.undo()
    graph.wait_for(lambda: "/saliency/overlay" not in dict(graph.node.get_topic_names_and_types()), "the topics to go")


def test_a_model_that_is_slow_to_open_blocks_neither_services_nor_diagnostics(
    graph, camera, make_node, faults, status, ask, state
):
    opening = faults.hang()
    faults.open.append(opening)
    make_node()
    reply = ask(ChangeState, "change_state", transition=Transition(id=CONFIGURE))
    graph.wait_for(lambda: not faults.open, "the model to be opened")
    assert state() == "configuring"
    graph.wait_for(lambda: status()[1].startswith("configuring: opening the model, "), "progress in /diagnostics")
    for refused in (Transition(id=CONFIGURE), Transition(label="transition_success"), Transition(id=ACTIVATE)):
        other = ask(ChangeState, "change_state", transition=refused)
        graph.wait_for(other.done, f"a reply to {refused}")
        assert not other.result().success
    assert not reply.done()
    opening.set()
    graph.wait_for(reply.done, "the reply to configure")
    assert reply.result().success
    assert state() == "inactive"
    reply = ask(ChangeState, "change_state", transition=Transition(id=ACTIVATE))
    graph.wait_for(reply.done, "the reply to activate")
    maps = graph.received(Image, "saliency")
    camera.stream_until(lambda: maps, "a map")


def test_a_model_that_cannot_be_opened_refuses_the_service_request_with_the_cause(
    graph, make_node, faults, status, ask, state
):
    faults.open += [ModelError("the engine is for another GPU", "build it here"), SystemExit("a library exits")]
    make_node()
    for cause in ("the engine is for another GPU", "SystemExit: a library exits"):
        reply = ask(ChangeState, "change_state", transition=Transition(id=CONFIGURE))
        graph.wait_for(reply.done, "the reply")
        assert not reply.result().success
        assert state() == "unconfigured"
        graph.wait_for(lambda cause=cause: cause in status()[1], "the cause in /diagnostics")
        assert status()[0] == DiagnosticStatus.ERROR
    reply = ask(ChangeState, "change_state", transition=Transition(id=CONFIGURE))
    graph.wait_for(reply.done, "the reply")
    assert reply.result().success
    graph.wait_for(lambda: status() == (DiagnosticStatus.OK, "inactive"), "the cause to be gone")


def test_a_node_can_be_destroyed_while_its_model_is_being_opened(graph, make_node, faults, ask):
    opening = faults.hang()
    faults.open.append(opening)
    node = make_node()
    ask(ChangeState, "change_state", transition=Transition(id=CONFIGURE))
    graph.wait_for(lambda: not faults.open, "the model to be opened")
    graph._executor.remove_node(node)
    begin_s = time.monotonic()
    node.destroy_node()
    assert time.monotonic() - begin_s < 10
    graph._nodes.remove(node)
    graph.wait_for_line("stopped while the model was being opened")
    opening.set()
    graph.wait_for(lambda: "open" not in {each.name for each in threading.enumerate()}, "the thread to end")


def test_a_process_that_is_told_to_exit_when_inference_fails_ends_with_status_2_and_the_cause(
    driver, tiny_model, tmp_path
):
    (tmp_path / "broken_node.py").write_text(
        "import sys\n"
        "from sal360_ros.saliency_node import main\n"
        "from sal360.predictor import Predictor\n"
        "whole, calls = Predictor.predict, []\n"
        "def predict(*arguments):\n"
        "    calls.append(0)\n"
        "    if len(calls) > 3:\n"
        "        raise SystemExit('a library that exits')\n"
        "    return whole(*arguments)\n"
        "Predictor.predict = predict\n"
        "sys.exit(main())\n"
    )
    environment = {"PYTHONPATH": os.pathsep.join([str(tmp_path), *sys.path])}
    parameters = {"model": str(tiny_model), "backend": "onnxruntime", "device": "cpu"}
    health = {"health.on_failure": "exit", "health.max_failures": 2}
    with NodeProcess("broken_node", parameters | health, environment=environment, log=tmp_path / "log") as process:
        bring_up(driver, "/saliency_node", process)
        camera = driver.create_publisher(Image, "image", 1)
        frame = image_message(np.zeros((32, 64, 3), np.uint8), "rgb8", Header())
        deadline_s = time.monotonic() + 60
        while process._process.poll() is None and time.monotonic() < deadline_s:
            camera.publish(frame)
            time.sleep(0.05)
        assert process._process.poll() == 2
        assert "a library that exits" in process.last_error()


def test_a_process_that_is_stopped_while_it_opens_its_model_ends_at_once_and_leaves_nothing(driver, tmp_path):
    """Also when an import has started threads before the executable could block signals in them."""
    (tmp_path / "slow_node.py").write_text(
        "import sys, time\n"
        "import sal360_ros.node\n"
        "sal360_ros.node.Predictor = lambda *_, **__: time.sleep(3600)\n"
        "from sal360_ros.saliency_node import main\n"
        "sys.exit(main())\n"
    )
    log = tmp_path / "log"
    environment = {"PYTHONPATH": os.pathsep.join([str(tmp_path), *sys.path])}
    with NodeProcess("slow_node", environment=environment, log=log) as process:
        client = driver.create_client(ChangeState, "/saliency_node/change_state")
        assert client.wait_for_service(30)
        client.call_async(ChangeState.Request(transition=Transition(id=CONFIGURE)))
        states = driver.create_client(GetState, "/saliency_node/get_state")
        state, deadline_s = "", time.monotonic() + 60
        while state != "configuring":
            assert time.monotonic() < deadline_s, state
            future = states.call_async(GetState.Request())
            rclpy.spin_until_future_complete(driver, future, timeout_sec=30)
            state = future.result().current_state.label
        begin_s = time.monotonic()
        os.kill(process.pid, signal.SIGTERM)
        assert process._process.wait(30) == 0
        assert time.monotonic() - begin_s < 15
    assert "stopped while the model was being opened" in log.read_text()
