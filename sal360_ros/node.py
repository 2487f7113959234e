"""SaliencyNode: the lifecycle around the pipeline.

configure loads the model, runs it once and advertises the topics; activate subscribes to the frames; deactivate
unsubscribes; cleanup frees the model. A transition that fails logs one line, and the node stays in the previous state.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from diagnostic_msgs.msg import DiagnosticArray
from lifecycle_msgs.srv import ChangeState
from rclpy.event_handler import SubscriptionEventCallbacks
from rclpy.impl.implementation_singleton import rclpy_implementation
from rclpy.lifecycle import LifecycleNode, LifecycleState, TransitionCallbackReturn
from rclpy.subscription import Subscription
from sensor_msgs.msg import CompressedImage, Image

from sal360.errors import Sal360Error
from sal360.predictor import Predictor, check_prior_strength
from sal360_ros.diagnostics import PERIOD_S, ThrottledWarnings, saliency_status, same_name_trouble, silence_trouble
from sal360_ros.orientation import OrientationInput
from sal360_ros.parameter_table import ParameterTable
from sal360_ros.parameters import SaliencyParameters
from sal360_ros.pipeline import SaliencyPipeline
from sal360_ros.qos import input_qos, mismatch_logger, overridable
from sal360_ros.statistics import FrameStatistics, Snapshot
from sal360_ros.topics import OutputPublisher, make_outputs

RCLError = rclpy_implementation.RCLError


class SaliencyNode(LifecycleNode):
    """Publishes where people would look in the frames of a 360° camera; see `parameters.SaliencyParameters`."""

    def __init__(self, name: str = "saliency_node", **node_options: Any) -> None:
        super().__init__(name, automatically_declare_parameters_from_overrides=True, **node_options)
        self._predictor: Predictor | None = None
        self._saliency: OutputPublisher | None = None
        self._outputs: list[OutputPublisher] = []
        self._pipeline: SaliencyPipeline | None = None
        self._subscription: Subscription | None = None
        self._orientation: OrientationInput | None = None
        self._statistics = FrameStatistics()
        self._state_label = "unconfigured"
        self._warnings = ThrottledWarnings(self.get_logger().warning, period_s=30.0)
        self._table = ParameterTable(
            self, SaliencyParameters(), is_fixed=lambda: self._predictor is not None, check=self._check
        )
        for unknown in self._table.unknown:
            self.get_logger().warning(f"there is no parameter {unknown}; `ros2 param list` shows the names")
        for service in self.services:
            if service.srv_type is ChangeState:
                service.callback = self._refuse_impossible(service.callback)
        self._diagnostics = self.create_publisher(DiagnosticArray, "/diagnostics", 10)
        self._diagnostics_timer = self.create_timer(PERIOD_S, self._publish_diagnostics)

    # --- lifecycle ---

    def on_configure(self, state: LifecycleState) -> TransitionCallbackReturn:
        """Load the model and advertise the topics."""
        super().on_configure(state)
        return self._attempt("configure", self._configure, "inactive", undo=self._release)

    def on_activate(self, state: LifecycleState) -> TransitionCallbackReturn:
        """Start processing frames."""
        super().on_activate(state)
        return self._attempt("activate", self._activate, "active", undo=self._deactivate)

    def on_deactivate(self, state: LifecycleState) -> TransitionCallbackReturn:
        """Stop processing frames."""
        super().on_deactivate(state)
        return self._attempt("deactivate", self._deactivate, "inactive")

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
        """Free the model and leave the graph."""
        self._release()
        super().destroy_node()

    def _attempt(
        self, what: str, do: Callable[[], None], state: str, undo: Callable[[], None] = lambda: None
    ) -> TransitionCallbackReturn:
        """Make the transition to `state` and log why it fails, because rclpy swallows the exception."""
        try:
            do()
        except Exception as error:
            cause = str(error) if isinstance(error, Sal360Error) else f"{type(error).__name__}: {error}"
            self.get_logger().error(f"cannot {what}: {cause}")
            undo()
            return TransitionCallbackReturn.FAILURE
        self._state_label = state
        return TransitionCallbackReturn.SUCCESS

    def _refuse_impossible(self, change_state: Callable[..., Any]) -> Callable[..., Any]:
        """Refuse a request for a transition that does not exist in this state; rclpy's own service would raise."""

        def change_state_or_refuse(request: ChangeState.Request, response: ChangeState.Response) -> Any:
            try:
                return change_state(request, response)
            except RCLError:
                requested = request.transition.label or request.transition.id
                self.get_logger().error(
                    f"there is no transition {requested} in the state {self._state_label}; `ros2 lifecycle list` shows "
                    "those that exist"
                )
                response.success = False
                return response

        return change_state_or_refuse

    def _configure(self) -> None:
        values = self._table.read()
        self._predictor = Predictor(
            values.model,
            backend=values.backend,
            device=values.device,
            precision=values.precision,
            threads=values.threads,
            allow_pickled_programs=values.allow_pickled_programs,
        )
        self._check(values)
        self._saliency, *self._outputs = make_outputs(self)
        self.get_logger().info(f"model: {self._predictor.description}")

    def _activate(self) -> None:
        assert self._predictor is not None
        assert self._saliency is not None
        self._statistics = FrameStatistics()
        source = self._table.current.orientation
        self._orientation = OrientationInput(self, source) if source != "none" else None
        self._pipeline = SaliencyPipeline(
            self._predictor,
            self._saliency,
            self._outputs,
            lambda: self._table.current,
            self._orientation.at if self._orientation is not None else lambda _: None,
            self._statistics,
            lambda: self.get_clock().now().nanoseconds,
            self.get_logger(),
        )
        kind, topic = self._input()
        self._subscription = self.create_subscription(
            kind,
            topic,
            self._pipeline.receive,
            input_qos(),
            event_callbacks=SubscriptionEventCallbacks(
                incompatible_qos=mismatch_logger(topic, "subscription", self.get_logger().warning),
                message_lost=self._count_lost,
            ),
            qos_overriding_options=overridable(),
        )
        self.get_logger().info(f"subscribed to {topic}, publishing {self.resolve_topic_name('saliency')}")

    def _count_lost(self, event: Any) -> None:
        self._statistics.set_lost(event.total_count)

    def _input(self) -> tuple[type[Any], str]:
        """Type and full name of the frames' topic; compressed, it is `<image>/compressed`, as in image_transport."""
        topic = self.resolve_topic_name("image")
        if self._table.current.image_transport == "compressed":
            return CompressedImage, self.resolve_topic_name(f"{topic}/compressed")
        return Image, topic

    def _deactivate(self) -> None:
        if self._subscription is not None:
            self.destroy_subscription(self._subscription)
            self._subscription = None
        if self._pipeline is not None:
            self._pipeline.stop()
            self._pipeline = None

        if self._orientation is not None:
            self._orientation.destroy()
            self._orientation = None

    def _release(self) -> None:
        self._deactivate()
        for output in [self._saliency, *self._outputs]:
            if output is not None:
                output.destroy()
        self._saliency, self._outputs = None, []
        if self._predictor is not None:
            self._predictor.close()
            self._predictor = None

    # --- parameters and diagnostics ---

    def _check(self, values: SaliencyParameters) -> None:
        if self._predictor is not None:
            check_prior_strength(self._predictor.spec, values.prior_strength)

    def _publish_diagnostics(self) -> None:
        about = {}
        if self._predictor is not None:
            spec = self._predictor.spec
            about = {"model": f"{spec.name} {spec.version}", "backend": self._predictor.description}
        snapshot = self._statistics.snapshot()
        status = saliency_status(
            self.get_fully_qualified_name(), self._state_label, snapshot, about, self._trouble(snapshot)
        )
        array = DiagnosticArray(status=[status])
        array.header.stamp = self.get_clock().now().to_msg()
        self._diagnostics.publish(array)

    def _trouble(self, snapshot: Snapshot) -> str:
        trouble = same_name_trouble(self)
        if not trouble and self._pipeline is not None and snapshot.is_silent:
            trouble = silence_trouble(self, self._input()[1])
        if trouble:
            self._warnings.warn(trouble, trouble)
        return trouble
