"""SaliencyNode: the lifecycle around the cameras and their pipeline, and what happens when inference fails.

configure opens the model, runs it once and advertises the topics; activate subscribes to the frames; deactivate
unsubscribes; cleanup frees the model. A transition that fails logs one line, and the node stays in the previous state.

There are three threads besides those of the pipeline: the executor's, in which transitions run; one that opens a model,
which can take minutes; and the watchdog's, which publishes `/diagnostics` and detects inference that fails or hangs.
The other two pass all work on the node to the executor's thread.
"""

from __future__ import annotations

import contextlib
import os
import socket
import sys
import time
from collections.abc import Callable, Iterable, Mapping
from functools import partial
from typing import Any

import cv2
import numpy as np
from diagnostic_msgs.msg import DiagnosticArray, DiagnosticStatus
from rclpy.clock import Clock
from rclpy.exceptions import InvalidHandle
from rclpy.lifecycle import LifecycleNode, LifecycleState, TransitionCallbackReturn
from sensor_msgs.msg import CompressedImage, Image

from sal360.errors import Sal360Error
from sal360.predictor import Predictor, check_prior_strength
from sal360.spec import ModelSpec
from sal360_ros.channel import CameraChannel, FusedOutputs, Steps, check_cameras
from sal360_ros.diagnostics import (
    ERROR,
    PERIOD_S,
    WARN,
    Finding,
    LibraryLog,
    ThrottledWarnings,
    clock_trouble,
    describe,
    saliency_status,
    same_name_trouble,
)
from sal360_ros.model import CLOSE_S, Model
from sal360_ros.parameter_table import ParameterTable
from sal360_ros.parameters import NODE_WIDE, SaliencyParameters, check_layout
from sal360_ros.pipeline import SaliencyPipeline
from sal360_ros.shared_memory import release_segments
from sal360_ros.statistics import OutputCounts, Snapshot
from sal360_ros.stream import CameraStream
from sal360_ros.supervision import ExecutorJobs, Watchdog
from sal360_ros.transitions import TransitionService

STOP_S = 2.0
"""Time for the current frame to finish when the node is deactivated."""
_CHECK_S = 0.25
_PROGRESS_S = 10.0
_EXECUTOR_LIMIT_S = 5.0
_REOPEN_LIMIT_S = 120.0  # an engine is in the cache by now, so nothing takes minutes
_RECOVERED = 100  # maps after which a reopened model counts as recovered and may be reopened again


class InferenceError(Sal360Error):
    """Inference has failed for good, and `health.on_failure` is "exit"."""


class SaliencyNode(LifecycleNode):
    """Publishes where people would look in the frames of 360° cameras; see `parameters.SaliencyParameters`."""

    def __init__(self, name: str = "saliency_node", **node_options: Any) -> None:
        super().__init__(name, automatically_declare_parameters_from_overrides=True, **node_options)
        self._jobs = ExecutorJobs(self)
        self._model = Model(self._open_model, self._jobs.put)
        self._pipeline: SaliencyPipeline | None = None
        self._reopened = 0  # number of times that the model was opened again since the node was activated
        self._faulty: SaliencyPipeline | None = None  # a pipeline whose failure is being handled
        self._faulty_since_s = 0.0
        self._remembered: list[Finding] = []  # problems since the last successful configure or activate
        self._progress_s = _PROGRESS_S
        self._next_status_s = 0.0
        self._watch_failures: list[str] = []  # of the watchdog's last check
        self._spec: ModelSpec | None = None  # of the configured model, even while it is closed after failures
        self._warnings = ThrottledWarnings(self.get_logger().warning, period_s=30.0)
        self._library_log = LibraryLog(self.get_logger())
        self._table = ParameterTable(
            self,
            SaliencyParameters(),
            is_fixed=lambda: self._state != "unconfigured",
            check=self._check,
            members=lambda values: values.cameras,
            common=NODE_WIDE,
        )
        self._table.warn_of_unknown(self.get_logger().warning)
        self._fused = FusedOutputs(self, lambda: self._table.current)
        names = self._table.current.cameras
        self._channels = [CameraChannel(self, name, partial(self._table.of, name)) for name in names]
        TransitionService(self, self._state_machine, self._open_first, self.get_logger().error)
        self._diagnostics = self.create_publisher(DiagnosticArray, "/diagnostics", 10)
        self._watchdog = Watchdog(self._watch, _CHECK_S, self._watch_error)

    @property
    def _state(self) -> str:
        """Label of the lifecycle state: "inactive", "configuring"."""
        return str(self._state_machine.current_state[1])

    # --- lifecycle ---

    def on_configure(self, state: LifecycleState) -> TransitionCallbackReturn:
        """Open the model and advertise the topics."""
        super().on_configure(state)
        return self._attempt("configure", self._configure, undo=self._release)

    def on_activate(self, state: LifecycleState) -> TransitionCallbackReturn:
        """Start processing frames."""
        super().on_activate(state)

        def undo() -> None:
            self._stop()
            super(SaliencyNode, self).on_deactivate(state)

        return self._attempt("activate", self._activate, undo)

    def on_deactivate(self, state: LifecycleState) -> TransitionCallbackReturn:
        """Stop processing frames."""
        super().on_deactivate(state)
        return self._attempt("deactivate", self._stop)

    def on_cleanup(self, state: LifecycleState) -> TransitionCallbackReturn:
        """Free the model."""
        super().on_cleanup(state)
        return self._attempt("clean up", self._release)

    def on_shutdown(self, state: LifecycleState) -> TransitionCallbackReturn:
        """Stop processing frames and free the model, from any state."""
        super().on_shutdown(state)
        return self._attempt("shut down", self._release)

    def on_error(self, state: LifecycleState) -> TransitionCallbackReturn:
        """Free the model, so that the node can be configured again."""
        super().on_error(state)
        return self._attempt("recover", self._release)

    def destroy_node(self) -> None:
        """Free the model and leave the graph within a few seconds, even if something hangs."""
        self._watchdog.stop(CLOSE_S)
        opening_s = self._model.opening_s
        if opening_s is not None:
            self.get_logger().warning(
                f"stopped while the model was being opened, after {opening_s:.0f} s; an engine that was being built is "
                "lost; `sal360 build-engine` builds it beforehand"
            )
        self._release()
        self._library_log.close()
        super().destroy_node()  # type: ignore[no-untyped-call]
        with contextlib.suppress(InvalidHandle):  # it was already destroyed
            self._state_machine.destroy_when_not_in_use()  # else the node stays on the graph while a thread uses it

    def _attempt(
        self, what: str, do: Callable[[], None], undo: Callable[[], None] = lambda: None
    ) -> TransitionCallbackReturn:
        """Make a transition; if it fails, log and remember the cause, because rclpy swallows the exception."""
        try:
            do()
        except Exception as error:
            self.get_logger().error(f"cannot {what}: {describe(error)}")
            self._remember(ERROR, f"cannot {what}: {describe(error)}")
            undo()
            return TransitionCallbackReturn.FAILURE
        if what in ("configure", "activate"):
            self._remembered = []
        return TransitionCallbackReturn.SUCCESS

    def _remember(self, level: bytes, text: str) -> None:
        self._remembered = [each for each in self._remembered if each.text != text] + [Finding(level, "", text)]

    def _attempt_each(self, steps: Steps) -> None:
        """Do all the steps, even if one of them fails, so that nothing is left half freed."""
        for what, do in steps:
            try:
                do()
            except Exception as error:
                self.get_logger().error(f"cannot {what}: {describe(error)}")
                self._remember(WARN, f"cannot {what}: {describe(error)}")

    def _configure(self) -> None:
        self._table.read()
        predictor = self._model.get()
        self._spec = predictor.spec
        cameras = {channel.name: self._table.of(channel.name) for channel in self._channels}
        check_cameras(cameras)
        for values in cameras.values():
            self._check(values)
        for channel in self._channels:
            channel.advertise(predictor.spec)
        if self._table.current.fuse:
            self._fused.advertise(predictor.spec)
        self.get_logger().info(f"model: {predictor.description}")

    def _activate(self) -> None:
        predictor = self._model.get()  # no longer open if inference failed when the node was last active
        self._reopened = 0
        self._pipeline = self._new_pipeline(predictor, [channel.start(predictor.spec) for channel in self._channels])
        for index, channel in enumerate(self._channels):
            channel.subscribe(partial(self._receive, index))

    def _new_pipeline(self, predictor: Predictor, streams: list[CameraStream]) -> SaliencyPipeline:
        return SaliencyPipeline(predictor, streams, self._fused.fusion(), lambda: self._table.current.batch_wait_s)

    def _receive(self, camera: int, message: Image | CompressedImage) -> None:
        pipeline = self._pipeline
        if pipeline is not None:
            pipeline.receive(camera, message)
        else:  # the model is being opened again
            statistics = self._channels[camera].statistics
            statistics.count_received()
            statistics.count_superseded()

    def _stop(self) -> None:
        """Stop receiving frames, and end the threads of the pipeline."""
        steps = [step for channel in self._channels for step in channel.unsubscribe()]
        steps.append(("stop inference", self._stop_pipeline))
        self._attempt_each(steps + [step for channel in self._channels for step in channel.stop()])

    def _stop_pipeline(self) -> None:
        pipeline, self._pipeline = self._pipeline, None
        if pipeline is not None and not pipeline.stop(STOP_S):
            raise TimeoutError(f"still busy after {STOP_S:g} s; its thread is abandoned")

    def _release(self) -> None:
        """Free everything that configure and activate made."""
        self._stop()
        self._spec = None
        steps = [step for each in (*self._channels, self._fused) for step in each.retire()]
        self._attempt_each([*steps, ("free the model", self._model.close)])

    # --- the watchdog ---

    def _watch(self) -> None:
        if not self.context.ok():
            return
        failures = []
        for check in (self._watch_opening, self._watch_inference):
            try:
                check()
            except Exception as error:  # the diagnostics must continue, and report it
                failures.append(describe(error))
        self._watch_failures = failures
        if time.monotonic() >= self._next_status_s:
            self._next_status_s = time.monotonic() + PERIOD_S
            self._publish_diagnostics()

    def _watch_error(self, error: BaseException) -> None:
        self._warnings.warn("watchdog", f"the watchdog failed and continues: {describe(error)}")

    def _watch_opening(self) -> None:
        opening_s = self._model.opening_s
        if opening_s is None:
            self._progress_s = _PROGRESS_S
        elif opening_s > self._progress_s:
            self._progress_s += _PROGRESS_S
            self.get_logger().info(f"still opening the model after {opening_s:.0f} s")
        if opening_s is not None and opening_s > _REOPEN_LIMIT_S and self._state == "active":
            self._jobs.put(self._abandon_reopening)

    def _watch_inference(self) -> None:
        pipeline, publishers = self._pipeline, [each.saliency for each in (*self._channels, self._fused)]
        if pipeline is None or self._state != "active":
            return
        health = self._table.current.health
        if pipeline.revive():
            self.get_logger().error("a thread of the pipeline had died and was started again")
        fault = pipeline.fault(health.max_failures, health.hang_s)
        if not fault:
            for publisher in filter(None, publishers):
                publisher.assert_alive()
        elif pipeline is not self._faulty:
            self._faulty, self._faulty_since_s = pipeline, time.monotonic()
            self._jobs.put(partial(self._recover, pipeline, fault))
        elif health.on_failure == "exit" and time.monotonic() - self._faulty_since_s > _EXECUTOR_LIMIT_S:
            print(f"error: {fault}, and the node's executor is blocked; exiting", file=sys.stderr, flush=True)
            release_segments()
            os._exit(1)

    def _recover(self, pipeline: SaliencyPipeline, fault: str) -> None:
        """Open the model again, unless that has just been tried."""
        if pipeline is not self._pipeline:
            return
        if self._reopened and pipeline.answered < _RECOVERED:
            self._give_up(f"{fault}, even after the model was opened again")
            return
        self._reopened += 1
        self.get_logger().error(f"{fault}; opening the model again")
        self._attempt_each([("stop inference", self._stop_pipeline), ("free the model", self._model.close)])
        self._model.open(then=partial(self._resume, fault))

    def _resume(self, fault: str) -> None:
        if self._state != "active":
            return
        try:
            predictor = self._model.get()
        except Exception as error:
            self._give_up(f"{fault}, and the model cannot be opened again: {describe(error)}")
        else:
            streams = [channel.stream(predictor.spec) for channel in self._channels]
            self._pipeline = self._new_pipeline(predictor, streams)
            self._remembered = []
            self.get_logger().info(f"the model is open again: {predictor.description}")

    def _abandon_reopening(self) -> None:
        opening_s = self._model.opening_s
        if self._state == "active" and opening_s is not None:
            self._model.close()
            self._give_up(f"inference failed, and opening the model again has not finished after {opening_s:.0f} s")

    def _give_up(self, reason: str) -> None:
        if self._table.current.health.on_failure == "exit":
            raise InferenceError(reason, "see the log above, then restart the node")
        self.get_logger().error(f"{reason}; deactivating")
        self.trigger_deactivate()
        self._remember(ERROR, f"deactivated: {reason}")

    # --- parameters and diagnostics ---

    def _open_model(self) -> Predictor:
        values = self._table.read()
        if values.threads == 0:
            cv2.setNumThreads(-1)  # OpenCV's own choice, also after the node was configured with another number
        predictor = Predictor(
            values.model,
            backend=values.backend,
            device=values.device,
            precision=values.precision,
            threads=values.threads,
            allow_pickled_programs=values.allow_pickled_programs,
        )
        if len(values.cameras) > 1:
            _warm_up(predictor, len(values.cameras))
        return predictor

    def _open_first(self, transition: str, then: Callable[[], None]) -> bool:
        """Start opening the model that a transition needs; `then` is called when it is open or cannot be opened."""
        is_needed = transition in ("configure", "activate") and self._model.predictor is None
        if is_needed:
            self._model.open(then)
        return is_needed

    def _check(self, values: SaliencyParameters) -> None:
        if self._spec is not None:  # else they are checked when the node is configured
            check_prior_strength(self._spec, values.prior_strength)
            check_layout(values)

    def _publish_diagnostics(self) -> None:
        findings = self._gathered(self._findings)
        self._warn("", findings)
        if [channel.name for channel in self._channels] == [""]:
            statuses = [self._camera_status(0, self._about(), self._opening(), findings)]
        else:
            about = {"state": self._state}
            statuses = [self._camera_status(index, about, "", []) for index in range(len(self._channels))]
            findings += self._gathered(self._fused.output_findings)
            outputs = self._fused.output_counts()
            statuses.insert(0, self._status("saliency", None, outputs, self._about(), self._opening(), findings))
        array = DiagnosticArray(status=statuses)
        now = self.get_clock().now()
        array.header.stamp = (now if now.nanoseconds else Clock().now()).to_msg()  # without /clock it is 0
        self._diagnostics.publish(array)

    def _camera_status(self, camera: int, about: dict[str, str], fine: str, others: list[Finding]) -> DiagnosticStatus:
        """The status of a camera, with the problems of the node if they are not in a status of their own."""
        channel = self._channels[camera]
        snapshot = channel.statistics.snapshot()
        findings = self._gathered(partial(self._camera_findings, camera, snapshot))
        self._warn(channel.name, findings)
        findings = list(dict.fromkeys([*others, *findings]))
        if not fine and self._state == "active":
            fine = f"{snapshot.answered_hz:.1f} maps per second"
        return self._status(channel.name or "saliency", snapshot, channel.output_counts(), about, fine, findings)

    def _status(
        self,
        subject: str,
        snapshot: Snapshot | None,
        outputs: Mapping[str, OutputCounts],
        about: dict[str, str],
        fine: str,
        findings: list[Finding],
    ) -> DiagnosticStatus:
        name = f"{self.get_fully_qualified_name()}: {subject}"
        return saliency_status(name, socket.gethostname(), snapshot, outputs, about, fine or self._state, findings)

    def _about(self) -> dict[str, str]:
        predictor = self._model.predictor
        about = {"state": self._state, "model_reopened": str(self._reopened)}
        if predictor is not None:
            about |= {"model": f"{predictor.spec.name} {predictor.spec.version}", "backend": predictor.description}
        return about

    def _opening(self) -> str:
        """How long the model has been being opened, in words; "" if none is being opened."""
        opening_s = self._model.opening_s
        return f"{self._state}: opening the model, {opening_s:.0f} s so far" if opening_s is not None else ""

    def _gathered(self, find: Callable[[], Iterable[Finding]]) -> list[Finding]:
        try:
            return list(find())
        except Exception as error:  # an incomplete status is better than none
            incomplete = Finding(ERROR, "diagnostics", f"the diagnostics are incomplete: {describe(error)}")
            return [*self._remembered, incomplete]

    def _warn(self, camera: str, findings: Iterable[Finding]) -> None:
        for each in findings:
            if each.kind:
                self._warnings.warn(f"{camera}: {each.kind}", f"{camera}: {each.text}" if camera else each.text)

    def _findings(self) -> list[Finding]:
        """The problems of the node, whatever its cameras do."""
        findings = list(self._remembered)
        troubles = {"same name": same_name_trouble(self), "clock": clock_trouble(self)}
        findings += [Finding(WARN, kind, line) for kind, line in troubles.items() if line]
        findings += [Finding(ERROR, "watchdog", f"the watchdog fails: {line}") for line in self._watch_failures]
        if self._state == "finalized":
            findings.append(Finding(ERROR, "", "finalized: restart this process to use the node again"))
        if self._jobs.blocked_s > _EXECUTOR_LIMIT_S:
            line = "the executor is blocked, so services and parameters do not respond"
            findings.append(Finding(ERROR, "executor", line))
        if self._state == "active" and (fault := self._fault()):
            findings.append(Finding(ERROR, "", fault))
        return findings

    def _fault(self) -> str:
        """What is wrong with inference while the node is active; "" if nothing is."""
        pipeline, health = self._pipeline, self._table.current.health
        if pipeline is None:
            return "inference failed; the model is being opened again"
        return pipeline.fault(health.max_failures, health.hang_s)

    def _camera_findings(self, camera: int, snapshot: Snapshot) -> list[Finding]:
        """The problems of one camera."""
        channel, pipeline = self._channels[camera], self._pipeline
        findings: list[Finding] = []
        if self._state == "active":
            stuck_s = pipeline.stuck_output_s(camera) if pipeline is not None and not self._fault() else 0.0
            findings += channel.findings(snapshot, stuck_s)
        return findings + list(channel.output_findings())


def _warm_up(predictor: Predictor, cameras: int) -> None:
    """Run batches of every size that occurs, because a runtime prepares each in its first run."""
    black = np.zeros((predictor.spec.input_height, predictor.spec.input_width, 3), np.uint8)
    try:
        for number in range(cameras, 1, -1):
            predictor.predict_batch([black] * number, ["rgb"] * number)
    except BaseException:
        predictor.close()
        raise
