"""SaliencyNode: the lifecycle around the pipeline, and what happens when inference fails.

configure opens the model, runs it once and advertises the topics; activate subscribes to the frames; deactivate
unsubscribes; cleanup frees the model. A transition that fails logs one line, and the node stays in the previous state.

Three threads beside those of the pipeline: the executor's, in which transitions run; one that opens a model, which can
take minutes; and the watchdog's, which publishes `/diagnostics` and finds inference that fails or hangs. What the other
two want done with the node is done in the executor's thread.
"""

from __future__ import annotations

import contextlib
import os
import queue
import socket
import sys
import time
from collections.abc import Callable
from functools import partial
from typing import Any

from diagnostic_msgs.msg import DiagnosticArray
from lifecycle_msgs.srv import ChangeState
from rclpy.clock import Clock
from rclpy.clock_type import ClockType
from rclpy.event_handler import SubscriptionEventCallbacks
from rclpy.lifecycle import LifecycleNode, LifecycleState, TransitionCallbackReturn
from rclpy.subscription import Subscription
from sensor_msgs.msg import CompressedImage, Image

from sal360.errors import Sal360Error
from sal360.predictor import Predictor, check_prior_strength
from sal360_ros.diagnostics import (
    ERROR,
    PERIOD_S,
    WARN,
    Finding,
    LibraryLog,
    OutputWatch,
    ThrottledWarnings,
    clock_trouble,
    describe,
    frame_findings,
    saliency_status,
    same_name_trouble,
    silence_trouble,
)
from sal360_ros.orientation import OrientationInput
from sal360_ros.parameter_table import ParameterTable
from sal360_ros.parameters import SaliencyParameters
from sal360_ros.pipeline import SaliencyPipeline
from sal360_ros.qos import input_qos, mismatch_logger, overridable
from sal360_ros.shared_memory import release_segments
from sal360_ros.statistics import FrameStatistics, Snapshot
from sal360_ros.supervision import Background, Watchdog
from sal360_ros.topics import OutputPublisher, make_outputs

STOP_S = 2.0
"""Time for a frame in work to end when the node is deactivated."""
CLOSE_S = 1.0
"""Time for a model to be freed; a hanging inference prevents it."""
_CHECK_S = 0.25
_PROGRESS_S = 10.0
_EXECUTOR_LIMIT_S = 5.0
_RECOVERED = 100  # maps after which a model that was opened again has earned another try

_LATER = object()
_TRANSITIONS = ("configure", "activate", "deactivate", "cleanup", "shutdown")


def _close(predictor: Predictor) -> Background[None]:
    """Free a model beside the executor: it waits for an inference that hangs, and frees the model then."""
    return Background("close", predictor.close)


class InferenceError(Sal360Error):
    """Inference does not work any more, and the node was told to exit then."""


class SaliencyNode(LifecycleNode):
    """Publishes where people would look in the frames of a 360° camera; see `parameters.SaliencyParameters`."""

    def __init__(self, name: str = "saliency_node", **node_options: Any) -> None:
        super().__init__(name, automatically_declare_parameters_from_overrides=True, **node_options)
        self._predictor: Predictor | None = None
        self._opening: Background[Predictor] | None = None
        self._when_opened: Callable[[], None] = lambda: None
        self._saliency: OutputPublisher | None = None
        self._outputs: list[OutputPublisher] = []
        self._pipeline: SaliencyPipeline | None = None
        self._subscription: Subscription | None = None
        self._orientation: OrientationInput | None = None
        self._statistics = FrameStatistics()
        self._state = "unconfigured"
        self._remembered: list[Finding] = []  # what went wrong since the last successful configure or activate
        self._warnings = ThrottledWarnings(self.get_logger().warning, period_s=30.0)
        self._library_log = LibraryLog(self.get_logger())
        self._table = ParameterTable(
            self, SaliencyParameters(), is_fixed=lambda: self._state != "unconfigured", check=self._check
        )
        for unknown in self._table.unknown:
            self.get_logger().warning(f"there is no parameter {unknown}; `ros2 param list` shows the names")
        self._serve_transitions()
        self._supervise()

    # --- lifecycle ---

    def on_configure(self, state: LifecycleState) -> TransitionCallbackReturn:
        """Open the model and advertise the topics."""
        super().on_configure(state)
        return self._attempt("configure", self._configure, "inactive", undo=self._release)

    def on_activate(self, state: LifecycleState) -> TransitionCallbackReturn:
        """Start processing frames."""
        super().on_activate(state)

        def undo() -> None:
            self._stop()
            super(SaliencyNode, self).on_deactivate(state)

        return self._attempt("activate", self._activate, "active", undo)

    def on_deactivate(self, state: LifecycleState) -> TransitionCallbackReturn:
        """Stop processing frames."""
        super().on_deactivate(state)
        return self._attempt("deactivate", self._stop, "inactive")

    def on_cleanup(self, state: LifecycleState) -> TransitionCallbackReturn:
        """Free the model."""
        super().on_cleanup(state)
        return self._attempt("clean up", self._release, "unconfigured")

    def on_shutdown(self, state: LifecycleState) -> TransitionCallbackReturn:
        """Stop processing frames and free the model, from any state."""
        super().on_shutdown(state)
        return self._attempt("shut down", self._release, "finalized")

    def on_error(self, state: LifecycleState) -> TransitionCallbackReturn:
        """Free the model, so that the node can be configured again."""
        super().on_error(state)
        return self._attempt("recover", self._release, "unconfigured")

    def destroy_node(self) -> None:
        """Free the model and leave the graph, within a few seconds whatever hangs."""
        self._watchdog.stop(CLOSE_S)
        if self._opening is not None and not self._opening.is_done:
            self.get_logger().warning(
                f"stopped while the model was being opened, after {self._opening.seconds:.0f} s; an engine that was "
                "being built is lost; `sal360 build-engine` builds it beforehand"
            )
        self._release()
        self._library_log.close()
        super().destroy_node()  # type: ignore[no-untyped-call]

    def _attempt(
        self, what: str, do: Callable[[], None], state: str, undo: Callable[[], None] = lambda: None
    ) -> TransitionCallbackReturn:
        """Make the transition to `state`, and log and remember why it fails, because rclpy swallows the exception."""
        before = "unconfigured" if what == "configure" else "inactive"
        try:
            do()
        except Exception as error:
            self.get_logger().error(f"cannot {what}: {describe(error)}")
            self._remember(ERROR, f"cannot {what}: {describe(error)}")
            undo()
            self._state = before
            return TransitionCallbackReturn.FAILURE
        if what in ("configure", "activate"):
            self._remembered = []
        self._state = state
        return TransitionCallbackReturn.SUCCESS

    def _remember(self, level: bytes, text: str) -> None:
        self._remembered = [each for each in self._remembered if each.text != text] + [Finding(level, "", text)]

    def _attempt_each(self, steps: list[tuple[str, Callable[[], object]]]) -> None:
        """Do all the steps, also when one of them fails, so that nothing is left half freed."""
        for what, do in steps:
            try:
                do()
            except Exception as error:
                self.get_logger().error(f"cannot {what}: {describe(error)}")
                self._remember(WARN, f"cannot {what}: {describe(error)}")

    def _configure(self) -> None:
        values = self._table.read()
        self._predictor = self._opened()
        self._check(values)
        self._saliency, *self._outputs = make_outputs(self)
        self.get_logger().info(f"model: {self._predictor.description}")

    def _activate(self) -> None:
        if self._predictor is None:  # inference failed when the node was active before
            self._predictor = self._opened()
        self._statistics = FrameStatistics()
        self._was_reopened = False
        values = self._table.current
        self._orientation = OrientationInput(self, values.orientation) if values.orientation != "none" else None
        self._pipeline = self._new_pipeline(self._predictor)
        kind = Image if values.image_transport == "raw" else CompressedImage
        topic = self._image_topic()
        self._subscription = self.create_subscription(
            kind,
            topic,
            self._receive,
            input_qos(),
            event_callbacks=SubscriptionEventCallbacks(
                incompatible_qos=mismatch_logger(topic, "subscription", self.get_logger().warning),
                message_lost=self._count_lost,
            ),
            qos_overriding_options=overridable(),
        )
        self.get_logger().info(f"subscribed to {topic}, publishing {self.resolve_topic_name('saliency')}")

    def _image_topic(self) -> str:
        """Full name of the frames' topic; compressed, it is `<image>/compressed`, as in image_transport."""
        topic = self.resolve_topic_name("image")
        is_raw = self._table.current.image_transport == "raw"
        return topic if is_raw else self.resolve_topic_name(f"{topic}/compressed")

    def _new_pipeline(self, predictor: Predictor) -> SaliencyPipeline:
        assert self._saliency is not None
        return SaliencyPipeline(
            predictor,
            self._saliency,
            self._outputs,
            lambda: self._table.current,
            self._orientation.at if self._orientation is not None else None,
            self._statistics,
            lambda: self.get_clock().now().nanoseconds,
            self.get_logger(),
        )

    def _receive(self, message: Image | CompressedImage) -> None:
        pipeline = self._pipeline
        if pipeline is not None:
            pipeline.receive(message)
        else:  # the model is being opened again
            self._statistics.count_received()
            self._statistics.count_superseded()

    def _count_lost(self, event: Any) -> None:
        self._statistics.set_lost(event.total_count)

    def _stop(self) -> None:
        """Take no more frames, and end the threads of the pipeline."""
        subscription, self._subscription = self._subscription, None
        orientation, self._orientation = self._orientation, None
        steps: list[tuple[str, Callable[[], object]]] = []
        if subscription is not None:
            steps.append(("unsubscribe from the frames", partial(self.destroy_subscription, subscription)))
        steps.append(("stop inference", self._stop_pipeline))
        if orientation is not None:
            steps.append(("unsubscribe from the orientation", orientation.destroy))
        self._attempt_each(steps)

    def _stop_pipeline(self) -> None:
        pipeline, self._pipeline = self._pipeline, None
        if pipeline is not None and not pipeline.stop(STOP_S):
            raise TimeoutError(f"still busy after {STOP_S:g} s; its thread is left behind")

    def _release(self) -> None:
        """Free everything that configure and activate made."""
        self._stop()
        outputs = [self._saliency, *self._outputs]
        self._saliency, self._outputs = None, []
        steps = [(f"remove {output.topic}", output.destroy) for output in outputs if output is not None]
        self._attempt_each([*steps, ("free the model", self._close_model)])

    def _close_model(self) -> None:
        opening, self._opening = self._opening, None
        predictor, self._predictor = self._predictor, None
        if opening is not None:
            opening.abandon(_close)
        if predictor is not None:
            _close(predictor).result(CLOSE_S)

    # --- opening a model, beside the executor ---

    def _open(self, then: Callable[[], None]) -> None:
        """Begin to open the model; `then` is called in the executor's thread once it is open or has failed."""
        self._when_opened = then
        self._opening = Background("open", self._open_model, on_done=lambda: self._in_executor(self._after_opening))

    def _after_opening(self) -> None:
        if self._opening is not None and self._opening.is_done:  # and was not abandoned for another one
            then, self._when_opened = self._when_opened, lambda: None
            then()

    def _open_model(self) -> Predictor:
        values = self._table.read()
        return Predictor(
            values.model,
            backend=values.backend,
            device=values.device,
            precision=values.precision,
            threads=values.threads,
            allow_pickled_programs=values.allow_pickled_programs,
        )

    def _opened(self) -> Predictor:
        """The model that was opened beside the executor, or else opened here."""
        opening, self._opening = self._opening, None
        return opening.result() if opening is not None else self._open_model()

    # --- the service change_state ---

    def _serve_transitions(self) -> None:
        """Replace rclpy's service, which would stop the executor for as long as a model takes to open."""
        service = next(each for each in self.services if each.srv_type is ChangeState)
        self._send_response = service.send_response
        self._request_header: Any = None
        service.callback = self._change_state
        service.send_response = self._respond  # type: ignore[method-assign]

    def _respond(self, response: Any, header: Any) -> None:
        if response is _LATER:
            self._request_header = header
        else:
            self._send_response(response, header)

    def _change_state(self, request: ChangeState.Request, response: ChangeState.Response) -> Any:
        """Make a transition; one that needs a model is answered when the model is open."""
        wanted = request.transition.label or request.transition.id
        available = [each[:2] for each in self._state_machine.available_transitions if each[1] in _TRANSITIONS]
        number, label = next((each for each in available if wanted in each), (0, ""))
        if not label:
            self.get_logger().error(
                f"there is no transition {wanted} in the state {self._state}; `ros2 lifecycle list` shows those that "
                "exist"
            )
            response.success = False
            return response
        callbacks = {"configure": self.on_configure, "activate": self.on_activate}
        if label in callbacks and self._predictor is None:
            self._change_state_with_model(number, callbacks[label], response)
            return _LATER
        result = getattr(self, f"trigger_{label}")()
        response.success = result == TransitionCallbackReturn.SUCCESS
        return response

    def _change_state_with_model(
        self, number: int, callback: Callable[[LifecycleState], TransitionCallbackReturn], response: Any
    ) -> None:
        """The three steps of rclpy's own transitions, with the opening of the model before the second."""
        state_id, label = self._state_machine.current_state
        before = LifecycleState(state_id=state_id, label=label)
        self._state_machine.trigger_transition_by_id(number, True)
        self._state = self._state_machine.current_state[1]

        def finish() -> None:
            result = callback(before)
            self._state_machine.trigger_transition_by_label(result.to_label(), True)
            response.success = result == TransitionCallbackReturn.SUCCESS
            with contextlib.suppress(Exception):  # whoever asked may be gone
                self._send_response(response, self._request_header)

        if self._opening is not None:  # it was begun when inference failed
            self._when_opened = finish
            if self._opening.is_done:
                self._in_executor(self._after_opening)
        else:
            self._open(finish)

    # --- the watchdog ---

    def _supervise(self) -> None:
        self._jobs: queue.SimpleQueue[Callable[[], None]] = queue.SimpleQueue()
        self._wake = self.create_guard_condition(self._run_jobs)
        self._executor_seen_s: float | None = None
        self._in_executor(self._see_executor)
        self.create_timer(1.0, self._see_executor, clock=Clock(clock_type=ClockType.STEADY_TIME))
        self._was_reopened = False
        self._faulty: SaliencyPipeline | None = None  # a pipeline whose fault is being dealt with
        self._faulty_since_s = 0.0
        self._progress_s = _PROGRESS_S
        self._next_status_s = 0.0
        self._output_watch = OutputWatch()
        self._diagnostics = self.create_publisher(DiagnosticArray, "/diagnostics", 10)
        self._watchdog = Watchdog(self._watch, _CHECK_S, self._watch_error)

    def _in_executor(self, job: Callable[[], None]) -> None:
        self._jobs.put(job)
        with contextlib.suppress(Exception):  # the node is being destroyed
            self._wake.trigger()

    def _run_jobs(self) -> None:
        while not self._jobs.empty():
            self._jobs.get_nowait()()

    def _see_executor(self) -> None:
        self._executor_seen_s = time.monotonic()

    def _watch(self) -> None:
        if not self.context.ok():
            return
        self._watch_opening()
        self._watch_inference()
        if time.monotonic() >= self._next_status_s:
            self._next_status_s = time.monotonic() + PERIOD_S
            self._publish_diagnostics()

    def _watch_error(self, error: BaseException) -> None:
        self._warnings.warn("watchdog", f"the watchdog failed, and goes on: {describe(error)}")

    def _watch_opening(self) -> None:
        opening = self._opening
        if opening is None or opening.is_done:
            self._progress_s = _PROGRESS_S
        elif opening.seconds > self._progress_s:
            self._progress_s += _PROGRESS_S
            self.get_logger().info(f"still opening the model after {opening.seconds:.0f} s")

    def _watch_inference(self) -> None:
        pipeline, saliency = self._pipeline, self._saliency
        if pipeline is None or saliency is None or self._state != "active":
            return
        health = self._table.current.health
        if pipeline.revive():
            self.get_logger().error("a thread of the pipeline had died and was started again")
        fault = pipeline.fault(health.max_failures, health.hang_s)
        if not fault:
            saliency.assert_alive()
        elif pipeline is not self._faulty:
            self._faulty, self._faulty_since_s = pipeline, time.monotonic()
            self._in_executor(partial(self._recover, pipeline, fault))
        elif health.on_failure == "exit" and time.monotonic() - self._faulty_since_s > _EXECUTOR_LIMIT_S:
            print(f"error: {fault}, and the node's executor does not run; exiting", file=sys.stderr, flush=True)
            release_segments()
            os._exit(1)

    def _recover(self, pipeline: SaliencyPipeline, fault: str) -> None:
        """Open the model again, unless that has just been tried."""
        if pipeline is not self._pipeline:
            return
        if self._was_reopened and pipeline.answered < _RECOVERED:
            self._give_up(f"{fault}, also after the model was opened again")
            return
        self._was_reopened = True
        self.get_logger().error(f"{fault}; opening the model again")
        self._attempt_each([("stop inference", self._stop_pipeline), ("free the model", self._close_model)])
        self._open(then=partial(self._resume, fault))

    def _resume(self, fault: str) -> None:
        if self._state != "active":
            return
        try:
            self._predictor = self._opened()
        except Exception as error:
            self._give_up(f"{fault}, and the model cannot be opened again: {describe(error)}")
        else:
            self._pipeline = self._new_pipeline(self._predictor)
            self._remembered = []
            self.get_logger().info(f"the model is open again: {self._predictor.description}")

    def _give_up(self, reason: str) -> None:
        if self._table.current.health.on_failure == "exit":
            raise InferenceError(reason, "see the log above, and restart the node")
        self.get_logger().error(f"{reason}; deactivating")
        self.trigger_deactivate()
        self._remember(ERROR, f"deactivated: {reason}")

    # --- parameters and diagnostics ---

    def _check(self, values: SaliencyParameters) -> None:
        predictor = self._predictor
        if predictor is not None:
            check_prior_strength(predictor.spec, values.prior_strength)

    def _publish_diagnostics(self) -> None:
        predictor, opening, state, snapshot = self._predictor, self._opening, self._state, self._statistics.snapshot()
        about = {"state": state}
        if predictor is not None:
            about |= {"model": f"{predictor.spec.name} {predictor.spec.version}", "backend": predictor.description}
        fine = f"{snapshot.answered_hz:.1f} maps per second" if state == "active" else state
        if opening is not None and not opening.is_done:
            fine = f"{state}: opening the model for {opening.seconds:.0f} s"
        publishers = [self._saliency, *self._outputs]
        outputs = {each.topic: each.counts for each in publishers if each is not None}
        findings = self._findings(snapshot)
        findings += self._output_watch.findings(outputs, self._table.current.health, time.monotonic())
        for each in findings:
            if each.kind:
                self._warnings.warn(each.kind, each.text)
        status = saliency_status(
            self.get_fully_qualified_name(), socket.gethostname(), snapshot, outputs, about, fine, findings
        )
        array = DiagnosticArray(status=[status])
        now = self.get_clock().now()
        array.header.stamp = (now if now.nanoseconds else Clock().now()).to_msg()  # without /clock it is 0
        self._diagnostics.publish(array)

    def _findings(self, snapshot: Snapshot) -> list[Finding]:
        """All that is wrong, from every side."""
        findings = list(self._remembered)
        troubles = {"same name": same_name_trouble(self), "clock": clock_trouble(self)}
        findings += [Finding(WARN, kind, line) for kind, line in troubles.items() if line]
        if self._state == "finalized":
            findings.append(Finding(ERROR, "", "finalized: restart this process to use the node again"))
        seen_s = self._executor_seen_s
        if seen_s is not None and time.monotonic() - seen_s > _EXECUTOR_LIMIT_S:
            line = "the executor is blocked, so services and parameters do not respond"
            findings.append(Finding(ERROR, "executor", line))
        if self._state == "active":
            findings += self._findings_while_active(snapshot)
        return findings

    def _findings_while_active(self, snapshot: Snapshot) -> list[Finding]:
        values = self._table.current
        findings = list(frame_findings(snapshot, values.health))
        pipeline, orientation = self._pipeline, self._orientation
        if pipeline is None:
            findings.append(Finding(ERROR, "", "inference failed; the model is being opened again"))
        elif fault := pipeline.fault(values.health.max_failures, values.health.hang_s):
            findings.append(Finding(ERROR, "", fault))
        elif (stuck_s := pipeline.stuck_output_s()) > values.health.hang_s:
            findings.append(Finding(ERROR, "stuck output", f"the outputs have not returned for {stuck_s:.0f} s"))
        if orientation is not None and snapshot.unoriented_share > values.health.max_unoriented_share:
            share = f"{snapshot.unoriented_share:.0%} of the frames without orientation"
            findings.append(Finding(WARN, "orientation", f"{share}: {orientation.cause()}"))
        if snapshot.is_silent:
            image = self.resolve_topic_name("image")
            findings.append(Finding(WARN, "silence", silence_trouble(self, image, values.image_transport)))
        return findings
