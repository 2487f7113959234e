"""Evaluate a recorded bag: how accurate, how fast and how steady the maps are.

    sal360 evaluate BAG [--live] [--ground-truth TOPIC|DIR] [--require "p95_latency_ms<50"]

Offline, every frame is predicted once, as fast as it goes. With --live, the bag is played over DDS into the real node,
and what a subscriber receives is evaluated. The output folder gets report.html, report.json, frames.csv, overlay.mp4
and a bag with the maps beside the frames. Exit status: 0; 1 when a --require does not hold; 2 after an error.
"""

from __future__ import annotations

import argparse
import os
import platform
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml
from tqdm import tqdm

from sal360.cli import live_player
from sal360.cli.options import add_model_options, model_options
from sal360.density import HEADSET_SIGMA_DEG
from sal360.errors import ParameterError
from sal360.outputs.smoothing import SmoothingSettings, TemporalSmoothing
from sal360.predictor import Predictor
from sal360.replay.evaluation import Evaluation, evaluate_answers
from sal360.replay.figures import check_names, figure_names, figures_of, parse_requirement
from sal360.replay.frame_table import PROTOCOLS
from sal360.replay.ground_truth import GroundTruth
from sal360.replay.plots import contact_sheet, plots_of
from sal360.replay.recording import Recording, ReplayedFrame, predicted_frames
from sal360.replay.report import Report, write_csv, write_html, write_json
from sal360.replay.resources import ResourceSampler
from sal360.sources.bag import Bag, choose_image_topic
from sal360.sphere import FRAME_CONVENTIONS, Array


@dataclass
class Run:
    """One replay, offline or live, before its report is written."""

    evaluation: Evaluation
    model: str
    """Model, runtime, device and precision."""
    measured: Mapping[str, float]
    """Figures that only the run itself knows."""
    resources: Mapping[str, Array] = field(default_factory=dict)
    """Curves over "time_s"."""
    node: Mapping[str, str] = field(default_factory=dict)
    """The node's own diagnostics."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Replay, evaluate, report; 1 when a requirement does not hold."""
    options = _parser().parse_args(arguments)
    requirements = [parse_requirement(text) for text in options.require]
    protocols = [each for each in PROTOCOLS if options.protocol in (each, "both")] if options.ground_truth else []
    check_names(requirements, figure_names(live=options.live, protocols=protocols))
    if options.rate != 1 and not options.live:
        raise ParameterError("--rate was given offline", "offline runs as fast as it goes", expected="--live beside it")
    folder = options.output or Path("out/replay") / f"{options.bag.stem}_{'live' if options.live else 'offline'}"
    with Bag(options.bag) as bag:
        recording = Recording(bag, choose_image_topic(bag, options.topic, besides=options.ground_truth))
        truth = None
        if options.ground_truth:
            truth = GroundTruth(
                recording,
                options.ground_truth,
                tolerance_s=options.truth_tolerance_s,
                convention=options.truth_convention,
                sigma_deg=options.truth_sigma_deg,
            )
        run = _run(options, recording, folder, truth, protocols)
        report = Report(
            {
                "bag": str(bag.path),
                "topic": f"{recording.topic} ({recording.type})",
                "mode": f"live, {options.rate:g} times the recorded speed" if options.live else "offline",
                "machine": f"{platform.machine()}, {os.cpu_count()} processors, Python {platform.python_version()}",
                "model": run.model,
                **_about_truth(options),
            },
            figures_of(run.evaluation.rows, run.measured),
            run.evaluation.rows,
            requirements,
            _remarks(recording, truth),
            run.node,
        )
    write_csv(report.rows, folder / "frames.csv")
    write_json(report, folder / "report.json")
    sheet = contact_sheet(run.evaluation.sheet) if run.evaluation.sheet else None
    plots = plots_of(run.evaluation.rows, run.resources, run.evaluation.mean_map)
    write_html(report, plots, sheet, run.evaluation.video, folder / "report.html")
    _print(report, folder)
    if recording.damage is not None:
        raise recording.damage  # what could be read is reported; the recording is not whole all the same
    return 1 if report.unmet else 0


def _run(
    options: argparse.Namespace,
    recording: Recording,
    folder: Path,
    truth: GroundTruth | None,
    protocols: Sequence[str],
) -> Run:
    model = model_options(options)
    count = recording.bag.topics[recording.topic].count
    written = {"truth": truth, "protocols": protocols, "video": options.video, "bag": options.bag_output}
    smoothing = SmoothingSettings(time_constant_s=options.smoothing_time_constant_s)
    if not options.live:
        with Predictor(**model) as predictor, ResourceSampler(os.getpid()) as sampler:
            answers = predicted_frames(recording, predictor, TemporalSmoothing(smoothing))
            evaluation = evaluate_answers(_shown(answers, count), recording, folder, **written)
        measured = {"peak_rss_mb": sampler.figures()["peak_rss_mb"]}
        return Run(evaluation, predictor.description, measured)
    parameters = {**model, "smoothing.time_constant_s": smoothing.time_constant_s}
    parameters.update(_node_parameter(text) for text in options.node_parameter)
    with live_player()(recording, parameters, options.rate) as live:
        evaluation = evaluate_answers(_shown(live.frames, count), recording, folder, **written)
    return Run(evaluation, live.node.get("backend", ""), live.measured, live.resources, live.node)


def _shown(answers: Iterable[ReplayedFrame], count: int) -> Iterable[ReplayedFrame]:
    progress: Iterable[ReplayedFrame] = tqdm(answers, total=count, unit="frame", disable=None)
    return progress


def _about_truth(options: argparse.Namespace) -> dict[str, str]:
    if not options.ground_truth:
        return {}
    sources = ", ".join(options.ground_truth)
    return {"ground truth": f"{sources}; fixations without a map are blurred by {options.truth_sigma_deg:g} degrees"}


def _remarks(recording: Recording, truth: GroundTruth | None) -> list[str]:
    remarks = [str(recording.damage)] if recording.damage else []
    if truth is not None and truth.unmatched:
        remarks.append(f"{truth.unmatched} entries of the ground truth lie near no frame and were left out")
    return remarks


def _print(report: Report, folder: Path) -> None:
    width = max(len(name) for name in report.figures)
    for name, value in report.figures.items():
        print(f"{name:{width}}  {value:.4g}")
    for reason, count in report.rejected.items():
        print(f"rejected for {reason}: {count}")
    for each in report.requirements:
        print(f"{'met' if each not in report.unmet else 'NOT MET'}: {each}")
    print(f"report: {folder / 'report.html'}")


def _node_parameter(text: str) -> tuple[str, Any]:
    name, separator, value = text.partition(":=")
    try:
        if name and separator:
            return name, yaml.safe_load(value)
    except yaml.YAMLError:
        pass
    raise ParameterError(f"the node parameter is {text!r}", "write encoding:=mono8", expected="NAME:=VALUE") from None


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="sal360 evaluate",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add = parser.add_argument
    add("bag", type=Path, metavar="BAG", help="rosbag2 folder, .mcap or .db3 file, or a ROS 1 .bag")
    add("--topic", default="", help="image topic; default: the only one")
    mode = parser.add_mutually_exclusive_group()
    mode.add_argument("--offline", action="store_true", help="every frame once, deterministic (default)")
    mode.add_argument("--live", action="store_true", help="play into the real node over DDS")
    add("--rate", type=float, default=1.0, metavar="R", help="with --live: R times the recorded speed (%(default)s)")
    add("--ground-truth", action="append", default=[], metavar="TOPIC|DIR", help="maps or fixations; may be repeated")
    add("--truth-tolerance-s", type=float, default=0.05, help="largest difference of stamps (%(default)s)")
    add("--truth-convention", choices=FRAME_CONVENTIONS, default="body", help="axes of the fixations (%(default)s)")
    add(
        "--truth-sigma-deg",
        type=float,
        default=HEADSET_SIGMA_DEG,
        metavar="SIGMA",
        help="blur that makes fixations a density where there is no map (%(default)s: gaze in a headset)",
    )
    add("--protocol", choices=("both", *PROTOCOLS), default="both", help="of the metrics (%(default)s)")
    add("--require", action="append", default=[], metavar="FIGURE<NUMBER", help="exit 1 if not; may be repeated")
    add("--output", type=Path, metavar="DIR", help="default: out/replay/<bag>_<mode>")
    add("--no-video", dest="video", action="store_false", help="write no overlay.mp4")
    add("--no-bag", dest="bag_output", action="store_false", help="write no bag with the maps")
    add_model_options(parser)
    add(
        "--smoothing-time-constant-s",
        type=float,
        default=SmoothingSettings.time_constant_s,
        metavar="S",
        help="of the maps over time, as the node smooths them; 0: none (%(default)s)",
    )
    add("--node-parameter", action="append", default=[], metavar="NAME:=VALUE", help="with --live: of the node")
    return parser
