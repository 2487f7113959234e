"""Random messages, parameters and transitions against the live node; exits 1 if it breaks any promise.

    python benchmarks/fuzz_node.py [--messages 100000] [--seed 0] [--model FILE] [--json]

The real node runs as a child process with a tiny model. It gets images of all encodings with fields that contradict
each other, corrupted compressed pictures, IMU and odometry with impossible quaternions, garbled bytes on every topic,
stamps from all times, valid and invalid values of every parameter, and transitions in any order. Again and again the
node is brought back to its defaults, and then a good frame must be answered, the counters in `/diagnostics` must add
up, and its memory is measured. At the end it must stop with status 0 and without a traceback in its log.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import shutil
import sys
import time
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import psutil
import rclpy
from builtin_interfaces.msg import Time
from diagnostic_msgs.msg import DiagnosticArray, DiagnosticStatus
from faults import OUTPUTS
from fuzz_cases import from_tests
from fuzz_messages import RandomMessages, parameter, random_value
from lifecycle_msgs.msg import State, Transition
from lifecycle_msgs.srv import ChangeState, GetState
from nav_msgs.msg import Odometry
from rcl_interfaces.srv import GetParameters, SetParameters, SetParametersAtomically
from rclpy.qos import QoSProfile
from rclpy.signals import SignalHandlerOptions
from sensor_msgs.msg import CompressedImage, Image, Imu
from tqdm import tqdm

from sal360.errors import FRAME_REJECTIONS, ParameterError, clean_end, one_line_errors
from sal360.settings import flatten
from sal360_ros.parameters import ORIENTATIONS, TRANSPORTS, SaliencyParameters
from sal360_ros.processes import NodeProcess, ProcessError
from sal360_ros.qos import input_qos
from sal360_ros.shared_memory import keep_freed_memory, use_shared_memory_profile

NODE = "/saliency_node"
LOG = "node.log"
PAUSE_S = 0.002
"""Between two messages, so that most of them are processed and not replaced by the next."""
CHECK_EVERY = 2000
"""Messages from one check to the next."""
REPLY_S, ANSWER_S, SETTLE_S = 60.0, 20.0, 20.0
"""Time for the reply of a service, the map of a good frame, and the diagnostics after the last frame."""
ALLOWED_GROWTH_MB = 16.0
MAX_MEMORY_MB = 1500.0
_SHUTDOWNS = (
    Transition.TRANSITION_UNCONFIGURED_SHUTDOWN,
    Transition.TRANSITION_INACTIVE_SHUTDOWN,
    Transition.TRANSITION_ACTIVE_SHUTDOWN,
)
_FORWARD = {
    State.PRIMARY_STATE_UNCONFIGURED: Transition.TRANSITION_CONFIGURE,
    State.PRIMARY_STATE_INACTIVE: Transition.TRANSITION_ACTIVATE,
}
_BACK = {
    State.PRIMARY_STATE_ACTIVE: Transition.TRANSITION_DEACTIVATE,
    State.PRIMARY_STATE_INACTIVE: Transition.TRANSITION_CLEANUP,
}
_VALID = {
    State.PRIMARY_STATE_UNCONFIGURED: (Transition.TRANSITION_CONFIGURE,),
    State.PRIMARY_STATE_INACTIVE: (Transition.TRANSITION_ACTIVATE, Transition.TRANSITION_CLEANUP),
    State.PRIMARY_STATE_ACTIVE: (Transition.TRANSITION_DEACTIVATE,),
}
_MEANT_TO_EXIT = {"health.hang_s": 10.0, "health.on_failure": "deactivate"}
"""Parameters with which a busy machine makes the node exit as it was told to; they keep these values."""


class Fuzz:
    """The driver: it sends the node's inputs and observes its outputs.

    Args:
        process: the node under test.
        model: its model file.
        rng: draws everything.
    """

    def __init__(self, process: NodeProcess, model: str, rng: random.Random) -> None:
        self._process, self._rng = process, rng
        self._watched = psutil.Process(process.pid)
        self._node = node = rclpy.create_node("fuzz")
        self._messages = RandomMessages(rng, time.time)
        reliable = QoSProfile(depth=10)
        self._publishers = {
            "raw": node.create_publisher(Image, "image", reliable),
            "compressed": node.create_publisher(CompressedImage, "image/compressed", reliable),
            "imu": node.create_publisher(Imu, "imu", reliable),
            "odometry": node.create_publisher(Odometry, "odom", reliable),
        }
        self._answered: set[tuple[int, int]] = set()
        self._status: dict[str, str] = {}
        node.create_subscription(Image, "saliency", self._on_map, input_qos(depth=10))
        node.create_subscription(DiagnosticArray, "/diagnostics", self._on_status, 10)
        for topic, kind in OUTPUTS.items():
            node.create_subscription(kind, topic, lambda _, topic=topic: self.counts.update([topic]), input_qos(1))
        self._change = node.create_client(ChangeState, f"{NODE}/change_state")
        self._get_state = node.create_client(GetState, f"{NODE}/get_state")
        self._set = node.create_client(SetParameters, f"{NODE}/set_parameters")
        self._set_all = node.create_client(SetParametersAtomically, f"{NODE}/set_parameters_atomically")
        self._get = node.create_client(GetParameters, f"{NODE}/get_parameters")
        self._table = {
            name: (default, rule)
            for name, default, rule in flatten(SaliencyParameters())
            if rule.changes != "start"  # a running node refuses every value
        }
        self._defaults: dict[str, Any] = {name: default for name, (default, _) in self._table.items()}
        self._defaults.update(_MEANT_TO_EXIT, model=model, threads=1)
        self._transport = "raw"
        self.counts: Counter[str] = Counter()
        self.frames: Counter[str] = Counter()
        self.reasons: Counter[str] = Counter()
        self.memory_mb: list[float] = []
        self.troubles: list[str] = []

    # --- what the node says ---

    def _on_map(self, message: Image) -> None:
        self._answered.add((message.header.stamp.sec, message.header.stamp.nanosec))
        self.counts["saliency"] += 1

    def _on_status(self, array: DiagnosticArray) -> None:
        for status in array.status:
            if status.name.startswith(NODE):
                before = int(self._status.get("received", 0))
                self._status, last = _values(status), self._status
                if int(self._status["received"]) < before:  # counted from another activation
                    self._add_frames(last)
                self.counts["diagnostics"] += 1

    def _spin(self, seconds: float) -> None:
        end_s = time.monotonic() + seconds
        while True:
            rclpy.spin_once(self._node, timeout_sec=max(0.0, min(0.05, end_s - time.monotonic())))
            if time.monotonic() >= end_s:
                return

    def _trouble(self, text: str) -> None:
        self.troubles.append(f"after {self.counts['sent']} messages: {text}")

    def _call(self, client: Any, request: Any) -> Any:
        """The reply of a service.

        Raises:
            ProcessError: the node ended, or does not reply.
        """
        end_s = time.monotonic() + REPLY_S
        while not client.service_is_ready() and time.monotonic() < end_s:
            self._process.check_alive()
            self._spin(0.05)
        future = client.call_async(request)
        while not future.done():
            self._process.check_alive()
            self._spin(0.01)
            if time.monotonic() > end_s:
                raise ProcessError(f"{client.srv_name} did not reply within {REPLY_S:g} s", "see the node's log")
        return future.result()

    # --- transitions ---

    def state(self) -> int:
        """The ID of the node's state."""
        return int(self._call(self._get_state, GetState.Request()).current_state.id)

    def transition(self, number: int) -> bool:
        """Request a transition; returns whether it succeeded."""
        request = ChangeState.Request(transition=Transition(id=number))
        return bool(self._call(self._change, request).success)

    def _random_transitions(self) -> None:
        """Some in any order; then, mostly, back to where frames are processed."""
        for _ in range(self._rng.choice((1, 2, 6))):
            self._random_transition()
        while self._rng.random() < 0.9 and (state := self.state()) in _FORWARD:
            if not self.transition(_FORWARD[state]):  # its model may be a random one
                return

    def _random_transition(self) -> None:
        self.counts["transitions"] += 1
        state = self.state()
        number = self._rng.choice((0, 1, 1, 2, 3, 3, 4, 8, 9, 60, 99, 255))
        success = self.transition(number)
        is_valid = number in _VALID.get(state, ())
        if success and not is_valid:
            self._trouble(f"transition {number} was made in state {state}")
        if is_valid and not success and number != Transition.TRANSITION_CONFIGURE:  # its model may be a random one
            self._trouble(f"transition {number} was refused in state {state}")

    def _go(self, steps: Mapping[int, int], goal: int) -> bool:
        for _ in range(len(steps) + 1):
            state = self.state()
            if state == goal:
                return True
            if not self.transition(steps[state]):
                break
        self._trouble(f"the node stays in state {self.state()}: {self._process.last_error()}")
        return False

    # --- parameters ---

    def _set_parameters(self, values: Mapping[str, Any], *, atomically: bool = False) -> list[bool]:
        messages = [parameter(name, value) for name, value in values.items()]
        if atomically:
            reply = self._call(self._set_all, SetParametersAtomically.Request(parameters=messages))
            return [reply.result.successful]
        reply = self._call(self._set, SetParameters.Request(parameters=messages))
        return [each.successful for each in reply.results]

    def _random_parameters(self) -> None:
        self.counts["parameter sets"] += 1
        names = self._rng.sample(sorted(set(self._table) - set(_MEANT_TO_EXIT)), self._rng.choice((1, 1, 3, 10)))
        drawn = {name: random_value(name, *self._table[name], self._rng) for name in names}
        values = {name: value for name, (value, _) in drawn.items()}
        extra = self._rng.choice(("", "", "", "no.such.parameter", "use_sim_time", "start_type_description_service"))
        if extra:
            values[extra] = self._rng.choice((True, False, 1, "x"))
        if self._rng.random() < 0.2:
            self._set_parameters(values, atomically=True)
        else:
            results = self._set_parameters(values)
            for (name, (value, must)), successful in zip(drawn.items(), results, strict=False):
                if must is False and successful:
                    self._trouble(f"{name} took the value {value!r}")
        if self._rng.random() < 0.1:
            self._call(self._get, GetParameters.Request(names=[*names, "no.such.parameter"]))

    # --- messages ---

    def step(self) -> None:
        """Send a random message or, at times, a call."""
        self._process.check_alive()
        self.counts["sent"] += 1
        draw = self._rng.random()
        if draw < 0.004:
            self._random_transitions()
        elif draw < 0.014:
            self._random_parameters()
        elif draw < 0.15:
            self._publish("imu", self._messages.imu())
        elif draw < 0.2:
            self._publish("odometry", self._messages.odometry())
        elif draw < 0.25:
            self._publish(self._transport, self._messages.good_frame(self._transport, self._messages.stamp()))
        else:
            transport = self._transport if self._rng.random() < 0.9 else self._rng.choice(TRANSPORTS)
            make = self._messages.image if transport == "raw" else self._messages.compressed
            self._publish(transport, make())
        self._spin(PAUSE_S)

    def _publish(self, name: str, message: Any) -> None:
        self.counts["garbled" if isinstance(message, bytes) else name] += 1
        self._publishers[name].publish(message)

    # --- checks ---

    def check(self) -> None:
        """Bring the node back to its defaults: a good frame is answered, and the counters add up."""
        self.counts["checks"] += 1
        self._set_parameters({"use_sim_time": False})
        if self.state() == State.PRIMARY_STATE_ACTIVE and self._rng.random() < 0.5:
            self._set_parameters(self._live_defaults())
        elif not self._start_over():
            return
        self._spin(0.2)
        self._check_answer()
        self._check_counts()
        self.memory_mb.append(self._watched.memory_info().rss / 2**20)

    def _live_defaults(self) -> dict[str, Any]:
        return {name: value for name, value in self._defaults.items() if self._table[name][1].changes == "live"}

    def _start_over(self, transports: Sequence[str] = TRANSPORTS) -> bool:
        """Clean up and come back with another transport and source of orientation."""
        if not self._go(_BACK, State.PRIMARY_STATE_UNCONFIGURED):
            return False
        self._transport = self._rng.choice(transports)
        changed = {"image_transport": self._transport, "orientation": self._rng.choice(ORIENTATIONS)}
        values = {**self._defaults, **changed}
        for name, successful in zip(values, self._set_parameters(values), strict=True):
            if not successful:
                self._trouble(f"{name} did not take its default {values[name]!r}")
        return self._go(_FORWARD, State.PRIMARY_STATE_ACTIVE)

    def _check_answer(self) -> None:
        end_s = time.monotonic() + ANSWER_S
        sent: set[tuple[int, int]] = set()
        self._answered.clear()
        while time.monotonic() < end_s:
            now = time.time_ns()  # best effort: the first one may get lost
            stamp = Time(sec=now // 10**9, nanosec=now % 10**9)
            sent.add((stamp.sec, stamp.nanosec))
            self._publish(self._transport, self._messages.good_frame(self._transport, stamp))
            self._spin(0.1)
            if sent & self._answered:
                return
        self._trouble(f"no good frame was answered within {ANSWER_S:g} s; {self._status.get('message', '')}")

    def _check_counts(self) -> None:
        """Each frame that was received is answered, rejected or replaced by a newer one."""
        end_s = time.monotonic() + SETTLE_S
        seen, lacks = self.counts["diagnostics"], "no diagnostics arrive"
        while time.monotonic() < end_s:
            self._spin(0.1)
            if self.counts["diagnostics"] > seen + 1:  # the first one may be from before the last frame
                lacks = _miscounted(self._status)
                if not lacks:
                    return
        self._trouble(f"the counters do not add up: {lacks}")

    def _add_frames(self, status: Mapping[str, str]) -> None:
        for name in ("received", "answered", "dropped_stale", "rejected", "lost_in_transport"):
            self.frames[name] += int(status[name])
        self.reasons.update({key: int(status[key]) for key in status if key.startswith("rejected.")})

    def run(self, messages: int) -> None:
        """Send messages, with a check before, between and after them."""
        self._warm_up()
        for _ in tqdm(range(messages), unit="message", disable=not sys.stderr.isatty()):
            self.step()
            if self.counts["sent"] % CHECK_EVERY == 0:
                self.check()
        self.check()
        self._add_frames(self._status)

    def _warm_up(self) -> None:
        """Take the largest frames and outputs once: what they need is kept for the next ones, and no leak."""
        if not self._start_over(["raw"]):
            return
        largest = {
            name: int(rule.maximum)
            for name, (_, rule) in self._table.items()
            if name.endswith("height_px") and rule.maximum is not None
        }
        self._set_parameters(largest)
        for frame in self._messages.large_frames():
            self._publish("raw", frame)
            self._check_answer()
        self.check()
        self.memory_mb.clear()

    def finish(self) -> None:
        """Shut the node down by a transition: from then on it refuses all of them, and lives until it is stopped."""
        shutdown = dict(zip(_VALID, _SHUTDOWNS, strict=True))
        if not self.transition(shutdown[self.state()]):
            self._trouble("shutdown was refused")
        for number in (1, 2, 3, 4, 5):
            if self.transition(number):
                self._trouble(f"transition {number} was made after shutdown")
        self._publish("raw", self._messages.good_frame("raw", self._messages.stamp()))
        self._spin(1.0)
        self._process.check_alive()

    def close(self) -> None:
        """Leave the graph."""
        self._node.destroy_node()


def _values(status: DiagnosticStatus) -> dict[str, str]:
    return {pair.key: pair.value for pair in status.values} | {"message": status.message}


def _miscounted(status: Mapping[str, str]) -> str:
    """The problem with the counters of a status; "" if there is none."""
    if "received" not in status:
        return "a status without counters"
    received, answered, dropped, rejected = (
        int(status[name]) for name in ("received", "answered", "dropped_stale", "rejected")
    )
    reasons = {key.removeprefix("rejected."): int(status[key]) for key in status if key.startswith("rejected.")}
    if unknown := set(reasons) - set(FRAME_REJECTIONS):
        return f"unknown reasons {unknown}"
    if sum(reasons.values()) != rejected:
        return f"{rejected} rejected, but {reasons}"
    if "internal_error" in reasons or "inference_failed" in reasons:
        return f"rejected for {reasons}: {status['message']}"
    if received != answered + dropped + rejected:
        return f"{received} received, {answered} answered, {dropped} dropped, {rejected} rejected"
    return ""


def run(messages: int, seed: int, model: str, folder: Path) -> dict[str, Any]:
    """Start the node, send everything, stop it, and judge.

    Args:
        folder: for the model and the log.
    """
    if not model:
        tiny, path = from_tests("tiny_model"), folder / "tiny.onnx"
        path.write_bytes(tiny.tiny_graph(tiny.tiny_spec()).SerializeToString())
        model = os.fspath(path)
    log = folder / LOG
    with NodeProcess("sal360_ros.saliency_node", {"model": model, "threads": 1}, log=log) as process:
        fuzz = Fuzz(process, model, random.Random(seed))
        try:
            fuzz.run(messages)
            fuzz.finish()
        except ProcessError as error:
            fuzz.troubles.append(f"after {fuzz.counts['sent']} messages: {error}")
        finally:
            fuzz.close()
        status = process.stop()
    text = log.read_text(errors="replace")
    if status != 0 or "Traceback" in text:
        fuzz.troubles.append(f"the node ended with status {status}; its log ends with {text[-1500:]}")
    return {"log_lines": text.count("\n"), **judge(fuzz)}


def judge(fuzz: Any) -> dict[str, Any]:
    """The figures of a run, and its troubles."""
    memory, troubles = fuzz.memory_mb, list(fuzz.troubles)
    third = len(memory) // 3
    growth_mb = 0.0
    if third >= 10:  # before that, the heap has not settled
        growth_mb = min(memory[-third:]) - min(memory[third : 2 * third])
    if growth_mb > ALLOWED_GROWTH_MB:
        troubles.append(f"memory grew by {growth_mb:.0f} MB, more than the allowed {ALLOWED_GROWTH_MB:g}")
    if max(memory, default=0.0) > MAX_MEMORY_MB:
        troubles.append(f"memory reached {max(memory):.0f} MB, more than the allowed {MAX_MEMORY_MB:g}")
    return {
        "counts": dict(fuzz.counts),
        "frames": dict(fuzz.frames),
        "rejected": dict(sorted(fuzz.reasons.items())),
        "memory_mb": {
            "first": memory[0] if memory else 0.0,
            "last": memory[-1] if memory else 0.0,
            "highest": max(memory, default=0.0),
            "growth": growth_mb,
        },
        "troubles": troubles,
    }


def verdict(figures: Mapping[str, Any]) -> str:
    """The figures as one paragraph."""
    memory, frames = figures["memory_mb"], figures["frames"]
    found = f"{len(figures['troubles'])} troubles" if figures["troubles"] else "no trouble"
    return (
        f"{figures['counts'].get('sent', 0)} messages in {figures['seconds']:.0f} s, {found}. Of the "
        f"frames, the node counted {', '.join(f'{count} {name}' for name, count in frames.items())}. Its memory was "
        f"{memory['first']:.0f} MB at the first check, {memory['last']:.0f} MB at the last one and "
        f"{memory['highest']:.0f} MB at most."
    )


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--messages", type=int, default=100_000, help="number of messages (default: %(default)d)")
    parser.add_argument("--seed", type=int, default=0, help="seed of all messages (default: %(default)d)")
    parser.add_argument("--model", default="", help="model file (default: a tiny one)")
    parser.add_argument("--log", type=Path, help="keep the node's log in this file")
    parser.add_argument("--json", action="store_true", help="print a JSON object instead of a summary")
    arguments = parser.parse_args()
    if arguments.messages < 1:
        raise ParameterError(f"--messages is {arguments.messages}", "give their number", expected="at least 1")
    os.environ.setdefault("ROS_DOMAIN_ID", str(random.SystemRandom().randrange(1, 100)))
    os.environ.setdefault("ROS_AUTOMATIC_DISCOVERY_RANGE", "LOCALHOST")
    keep_freed_memory()
    use_shared_memory_profile(3 * 960 * 1920)
    rclpy.init(signal_handler_options=SignalHandlerOptions.NO)  # Ctrl-C is ours
    begin_s = time.monotonic()
    with TemporaryDirectory(prefix="sal360-fuzz-") as name:
        figures = run(arguments.messages, arguments.seed, arguments.model, Path(name))
        if arguments.log:
            shutil.copyfile(Path(name) / LOG, arguments.log)
    rclpy.shutdown()
    figures["seconds"] = time.monotonic() - begin_s
    if arguments.json:
        print(json.dumps(figures))
    else:
        print(verdict(figures), *figures["troubles"], json.dumps(figures["counts"]), sep="\n")
    return 1 if figures["troubles"] else 0


if __name__ == "__main__":
    with clean_end():
        sys.exit(one_line_errors(main))
