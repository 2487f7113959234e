"""Evaluate a recorded bag or video: how accurate, how fast and how steady the maps are.

  sal360 evaluate run.mcap --ground-truth /gaze --require "standard_nss>1.2"
  sal360 evaluate run.mcap --live --require "p95_latency_ms<50"

Offline, each frame is predicted once, as fast as possible. With --live, the frames are played over DDS into the real
node, and the maps that a subscriber receives are evaluated. The output folder gets report.html, report.json,
frames.csv, overlay.mp4, spheres.html to look around in some frames, and a bag with the maps beside the frames.

Exit status: 0 success; 1 a --require does not hold, or no frame has a map, or none has ground truth; 2 an error, such
as a damaged bag.
"""

from __future__ import annotations

import argparse
import itertools
import os
import platform
import sys
from collections.abc import Iterable, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml
from tqdm import tqdm

from sal360.arrays import Floats
from sal360.cameras.settings import changed_settings
from sal360.cli import live_player
from sal360.cli.options import (
    CommandParser,
    Useless,
    add_camera,
    add_max_pixels,
    add_model_options,
    as_declared,
    in_range,
    model_options,
    refuse_useless,
)
from sal360.density import HEADSET_SIGMA_DEG
from sal360.errors import FRAME_REJECTIONS, FrameError, ParameterError, printable, require_modules
from sal360.outputs.smoothing import SmoothingSettings, TemporalSmoothing
from sal360.predictor import Predictor
from sal360.replay.evaluation import BAG_NAME, SPHERES_NAME, VIDEO_NAME, Evaluation, evaluate_frames
from sal360.replay.figures import check_names, figure_names, figures_of, parse_requirement, stamp_jumps
from sal360.replay.frame_table import PROTOCOLS, FrameResult
from sal360.replay.plots import contact_sheet, plots_of
from sal360.replay.recorded_gaze import RecordedGaze
from sal360.replay.recording import Recording, ReplayedFrame, open_recording, predicted_frames
from sal360.replay.report import Report, recording_of, write_csv, write_html, write_json
from sal360.replay.resources import ResourceSampler
from sal360.sphere import FRAME_CONVENTIONS
from sal360.viewer.page import write_static_page


@dataclass
class Run:
    """A replay, offline or live, before its report is written."""

    evaluation: Evaluation
    model: str
    """Model, runtime, device and precision."""
    measured: Mapping[str, float]
    """Figures that can only be measured during the run."""
    resources: Mapping[str, Floats] = field(default_factory=dict)
    """Curves over "time_s"."""
    node: Mapping[str, str] = field(default_factory=dict)
    """The live node's last diagnostics."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Replay, evaluate and report; 1 if a requirement does not hold."""
    options = _parser().parse_args(arguments)
    require_modules("matplotlib", "jinja2")  # which make the report at the end
    requirements = [parse_requirement(text) for text in options.require]
    protocols = [each for each in PROTOCOLS if options.protocol in (each, "both")] if options.ground_truth else []
    check_names(requirements, figure_names(live=options.live, protocols=protocols))
    refuse_useless(options, _useless(options))
    with _open_recording(options) as recording:
        folder = options.output or default_output(recording.path, f"{recording.name}_{_mode(options)}")
        _check_recording_stays(recording.path, folder)
        gaze = _recorded_gaze(options, recording)
        run = _run(options, recording, folder, gaze, protocols)
        report = Report(
            _about(options, recording, run.model),
            figures_of(run.evaluation.results, run.measured),
            run.evaluation.results,
            requirements,
            _remarks(recording, gaze, run.evaluation.results),
            run.node,
        )
        refused = _first_refusal(report, recording)
    _write(report, run, folder)
    _print(report, folder)
    return _status(report, recording, gaze, refused)


def _useless(options: argparse.Namespace) -> list[Useless]:
    """What has no effect in which case; a new option needs a row for each case in which it is not looked at."""
    truth = "--truth-tolerance-s --truth-convention --truth-sigma-deg --protocol"
    return [
        Useless("without --live", not options.live, "--rate --node-parameter", "remove it, or add --live"),
        Useless(
            "without --ground-truth", not options.ground_truth, truth, "remove it, or name maps or fixations with that"
        ),
    ]


def _open_recording(options: argparse.Namespace) -> AbstractContextManager[Recording]:
    return open_recording(options.recording, options.topic, options.ground_truth, options.max_pixels, options.camera)


def default_output(recording: Path, name: str) -> Path:
    """The output folder for a recording's report: `name`, with a number if it holds the report of another recording."""
    for number in itertools.count(1):
        folder = Path("out/replay") / (name if number == 1 else f"{name}_{number}")
        reported = recording_of(folder / "report.json")
        if reported is None or printable(reported.resolve()) == printable(recording.resolve()):
            return folder
    raise AssertionError  # unreachable: there is always a free number


def _check_recording_stays(recording: Path, folder: Path) -> None:
    """Refuse an output folder in which the video or bag to write would replace the recording itself."""
    path = Path(os.path.realpath(recording))
    results = {Path(os.path.realpath(folder / name)) for name in (VIDEO_NAME, BAG_NAME)}
    if results & {path, *path.parents}:
        raise ParameterError(
            f"--output is {folder}, where the results would replace the recording {recording}", "choose another folder"
        )


def _mode(options: argparse.Namespace) -> str:
    return "live" if options.live else "offline"


def _recorded_gaze(options: argparse.Namespace, recording: Recording) -> RecordedGaze | None:
    if not options.ground_truth:
        return None
    return RecordedGaze(
        recording,
        options.ground_truth,
        tolerance_s=options.truth_tolerance_s,
        convention=options.truth_convention,
        sigma_deg=options.truth_sigma_deg,
    )


def _run(
    options: argparse.Namespace,
    recording: Recording,
    folder: Path,
    gaze: RecordedGaze | None,
    protocols: Sequence[str],
) -> Run:
    model = model_options(options)
    outputs = {"gaze": gaze, "protocols": protocols, "video": options.video, "bag": options.bag_output}
    smoothing = SmoothingSettings(time_constant_s=options.smoothing_time_constant_s)
    if not options.live:
        with Predictor(**model) as predictor, ResourceSampler(os.getpid()) as sampler:
            frames = predicted_frames(recording, predictor, TemporalSmoothing(smoothing))
            evaluation = evaluate_frames(_with_progress(frames, recording), recording, folder, **outputs)
        measured = {"peak_rss_mb": sampler.figures()["peak_rss_mb"]}
        return Run(evaluation, predictor.description, measured)
    parameters = {**model, "max_pixels": options.max_pixels, "smoothing.time_constant_s": smoothing.time_constant_s}
    parameters.update({f"camera.{name}": value for name, value in changed_settings(options.camera).items()})
    parameters.update(_node_parameter(text) for text in options.node_parameter)
    with live_player()(recording, parameters, options.rate) as live:
        evaluation = evaluate_frames(_with_progress(live.frames, recording), recording, folder, **outputs)
    return Run(evaluation, live.node.get("backend", ""), live.measured, live.resources, live.node)


def _with_progress(frames: Iterable[ReplayedFrame], recording: Recording) -> Iterable[ReplayedFrame]:
    total = recording.frame_count or None
    progress: Iterable[ReplayedFrame] = tqdm(frames, total=total, unit="frame", disable=None)
    return progress


def _about(options: argparse.Namespace, recording: Recording, model: str) -> dict[str, str]:
    about = {
        recording.kind: str(recording.path),
        "topic": f"{recording.topic} ({recording.type})",
        "mode": f"live, {options.rate:g} times the recorded speed" if options.live else "offline",
        "machine": f"{platform.machine()}, {os.cpu_count()} CPUs, Python {platform.python_version()}",
        "model": model,
    }
    if camera := changed_settings(options.camera):
        about["camera"] = ", ".join(f"{name} {value}" for name, value in camera.items())
    if options.ground_truth:
        sources = ", ".join(options.ground_truth)
        about["ground truth"] = f"{sources}; fixations without a map are blurred by {options.truth_sigma_deg:g} degrees"
    return about


def _remarks(recording: Recording, gaze: RecordedGaze | None, results: Sequence[FrameResult]) -> list[str]:
    remarks = [*recording.damage, *recording.notes, *stamp_jumps(results)]
    if gaze is not None and gaze.unmatched:
        remarks.append(f"{gaze.unmatched} entries of the ground truth are too far from every frame and were left out")
    if gaze is not None and gaze.lost:
        remarks.append(f"{gaze.lost} samples of the ground truth are lost (zeros, NaN or empty) and were left out")
    return remarks


def _write(report: Report, run: Run, folder: Path) -> None:
    evaluation = run.evaluation
    write_csv(report.results, folder / "frames.csv")
    write_json(report, folder / "report.json")
    sheet = contact_sheet(evaluation.sheet) if evaluation.sheet else None
    plots = plots_of(evaluation.results, run.resources, evaluation.mean_map)
    spheres = ""
    if evaluation.scenes:
        spheres = SPHERES_NAME
        write_static_page(folder / spheres, evaluation.scenes, folder.name)
    write_html(report, plots, sheet, evaluation.video, spheres, folder / "report.html")


def _print(report: Report, folder: Path) -> None:
    width = max(len(name) for name in report.figures)
    for name, value in report.figures.items():
        print(f"{name:{width}}  {value:.4g}")
    for reason, count in report.rejected.items():
        print(f"rejected for {reason}: {count}")
    for each in report.requirements:
        print(f"{'met' if each not in report.unmet else 'NOT MET'}: {each}")
    print(f"report: {printable(folder / 'report.html')}")


def _status(report: Report, recording: Recording, gaze: RecordedGaze | None, refused: str) -> int:
    """The exit status; problems of the run are printed on stderr.

    Args:
        refused: why a frame was rejected, if all were.

    Raises:
        DataError: the recording could not be read completely.
    """
    for remark in report.remarks:
        if remark not in recording.damage:
            print(f"note: {printable(remark)}", file=sys.stderr)
    if recording.damage:
        *others, last = recording.damage.values()
        for error in others:
            print(f"error: {error}", file=sys.stderr)
        raise last  # the report covers what could be read
    if not report.figures["answered"]:
        print(f"error: no frame has a map; {_why_no_map(report, refused)}", file=sys.stderr)
        return 1
    if gaze is not None and not report.figures.get("frames_with_truth"):
        print("error: no frame with a map has ground truth; choose another --ground-truth", file=sys.stderr)
        return 1
    return 1 if report.unmet else 0


def _first_refusal(report: Report, recording: Recording) -> str:
    """What is wrong with the first frame of the most frequent reason, if no frame has a map; "" otherwise."""
    if report.figures["answered"] or not report.rejected:
        return ""
    reason, _ = report.rejected.most_common(1)[0]
    for frame in recording.frames():
        try:
            frame.decoded()
        except FrameError as error:
            if error.reason == reason:
                return error.found
    return ""


_REMEDIES = {
    "too_large": "raise --max-pixels",
    "not_2_to_1": "describe the frames with --camera (docs/cameras.md)",
    "camera_mismatch": "correct --camera (docs/cameras.md)",
}


def _why_no_map(report: Report, refused: str) -> str:
    if not report.rejected:
        return "all frames were dropped; lower --rate" if report.results else "there are no frames; record it again"
    reason, count = report.rejected.most_common(1)[0]
    share = f"{count} of {len(report.results)} frames"
    found = f": {refused}" if refused else ""
    remedy = _REMEDIES.get(reason, "choose another topic or recording")
    return f"{share}: rejected for {reason} ({FRAME_REJECTIONS[reason]}){found}; {remedy}"


def _node_parameter(text: str) -> tuple[str, Any]:
    name, separator, value = text.partition(":=")
    if name.startswith("camera."):
        raise ParameterError(f"--node-parameter sets {name}", "describe the frames with --camera, for the report, too")
    if name in ("cameras", "fuse"):
        raise ParameterError(f"--node-parameter sets {name}", "remove it; a replay has one camera")
    try:
        if name and separator:
            return name, yaml.safe_load(value)
    except (yaml.YAMLError, ValueError, RecursionError):  # ValueError: a date that does not exist
        pass
    raise ParameterError(
        f"the node parameter is {text!r}", "write it as in encoding:=mono8", expected="NAME:=VALUE"
    ) from None


def _parser() -> argparse.ArgumentParser:
    parser = CommandParser("evaluate RECORDING", __doc__)
    add = parser.add_argument
    add("recording", type=Path, metavar="RECORDING", help="rosbag2 folder or file, ROS 1 .bag, or video")
    add("--topic", default="", help="image topic of a bag (default: the only one)")
    add("--output", type=Path, metavar="DIR", help="output folder (default: out/replay/<name>_<mode>)")
    add("--no-video", dest="video", action="store_false", help="do not write overlay.mp4")
    add("--no-bag", dest="bag_output", action="store_false", help="do not write the bag with the maps")
    add(
        "--require",
        action="append",
        default=[],
        metavar="FIGURE<NUMBER",
        help="exit with status 1 if this does not hold; repeatable",
    )
    add(
        "--smoothing-time-constant-s",
        type=as_declared(SmoothingSettings(), "time_constant_s"),
        default=SmoothingSettings.time_constant_s,
        metavar="S",
        help="time constant of the temporal smoothing, seconds; 0: none",
    )
    _add_truth_options(parser)
    add_camera(parser)
    add_max_pixels(parser)
    add_model_options(parser)
    group = parser.add_argument_group("live replay")
    mode = group.add_mutually_exclusive_group()
    mode.add_argument("--offline", action="store_true", help="predict each frame once, in this process (default)")
    mode.add_argument("--live", action="store_true", help="play the bag into the real node over DDS; needs ROS 2")
    group.add_argument("--rate", type=float, default=1.0, metavar="R", help="playback speed, times the recorded speed")
    group.add_argument(
        "--node-parameter",
        action="append",
        default=[],
        metavar="NAME:=VALUE",
        help="parameter of the node; repeatable",
    )
    return parser


def _add_truth_options(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument_group("ground truth").add_argument
    add(
        "--ground-truth",
        action="append",
        default=[],
        metavar="TOPIC|DIR",
        help="maps or fixations to compare with; repeatable",
    )
    add(
        "--truth-tolerance-s",
        type=in_range(float, 0, 3600),
        default=0.05,
        metavar="S",
        help="maximum difference between the stamps of ground truth and frame, seconds",
    )
    add("--truth-convention", choices=FRAME_CONVENTIONS, default="body", help="axes of the fixations")
    add(
        "--truth-sigma-deg",
        type=in_range(float, 0, 60),
        default=HEADSET_SIGMA_DEG,
        metavar="DEG",
        help="standard deviation of the blur that turns fixations into a map, degrees",
    )
    add("--protocol", choices=("both", *PROTOCOLS), default="both", help="protocol of the metrics")
