"""Train the paper's encoders on the panoramas that are here, and put what comes out beside the paper's figures.

    python -m training.reproduce --data.root PANORAMAS --output out/paper [--budget 28800]

ResNet50 and VGG16, each with attention, without, and with average pooling, 250 epochs of
training/recipes/pretrain_paper.yaml, by three seeds. Every run is a `python -m training.pretrain` in
OUTPUT/runs, and its checkpoint of epoch 10 is kept for Figure 4. Ctrl-C, SIGTERM and the end of the budget leave a
checkpoint; the same command continues there. OUTPUT/runs/made_with.json says with what all of them were made, so that
another batch size or other panoramas are refused there. OUTPUT gets reproduction.md, the page, with its pictures, and
the same numbers as reproduction.json; what has not been trained yet is listed on it.
"""

from __future__ import annotations

import json
import math
import shlex
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from types import FrameType
from typing import Any, Literal, NamedTuple, get_args

import numpy as np
import yaml

from sal360.errors import CheckpointError, TrainingError, one_line_errors
from sal360.files import check_folder_is_writable, write_text, written_beside
from training.analysis.change import encoder_tensors, layer_changes
from training.analysis.embedding import EmbeddingConfig, analyse_embedding
from training.analysis.panoramas import AnalysedConfig
from training.analysis.results import ENCODER_COLOURS, new_figure, save_figure
from training.checkpoint import newest_checkpoint, read_header
from training.config import option_names, read_config, require, require_at_least, require_path, require_seed
from training.curves import Curve, read_curves
from training.data.gaze.records import summary_of
from training.data.loader import steps_per_epoch
from training.data.panoramas import PanoramaConfig, Panoramas, open_panoramas
from training.data.taught_maps import names_below
from training.loop import AcceleratorName, PrecisionName, settled_precision
from training.models.contrastive import AttentionName
from training.pretrain import PretrainConfig
from training.processes import end_with_parent

PaperEncoder = Literal["resnet50", "vgg16"]
RECIPE = Path(__file__).parent / "recipes" / "pretrain_paper.yaml"
_VGG = ("--model.encoder", "vgg16", "--optimiser.schedule", "step", "--optimiser.step_epochs", "[120]")
_MADE_WITH = "made_with.json"
_PAPER_EPOCHS = 250


@dataclass(frozen=True)
class ReproduceConfig:
    """Which of the paper's runs are made, and how long they may take."""

    data: PanoramaConfig
    """The panoramas; without a cache they are decoded into one below `output`."""
    output: str
    """Folder of the runs and of the page."""
    budget: float = 0.0
    """Time after which training stops, to be continued by the same command, seconds; 0: no limit."""
    encoders: tuple[PaperEncoder, ...] = get_args(PaperEncoder)
    """Encoders to train."""
    attentions: tuple[AttentionName, ...] = ("self", "none", "average")
    """Kinds of attention to train each encoder with; Figures 4 and 5 are about self."""
    seeds: tuple[int, ...] = (0, 1, 2)
    """Seeds; all runs of the first come before those of the second."""
    epochs: int = _PAPER_EPOCHS
    """Number of passes over the panoramas in each run."""
    early_epochs: int = 10
    """Number of passes after which the weights are kept for Figure 4."""
    batch_size: int = 20
    """Panoramas per step."""
    accumulate: int = 1
    """Number of parts into which a batch is split, to save memory."""
    precision: PrecisionName = "auto"
    """Precision of the network; weights, loss and optimiser stay in float32. auto: bf16 where the device computes it
    faster, else fp32."""
    accelerator: AcceleratorName = "auto"
    """Device; auto uses a GPU if there is one."""
    workers: int = 4
    """Number of data-loading processes."""
    compare_steps: int = 0
    """Number of steps that the first run also makes in fp32 and in bf16, to compare their losses on the page."""

    def __post_init__(self) -> None:
        require_path("output", self.output, "a folder")
        require_at_least("budget", self.budget, 0)
        for name in ("encoders", "attentions", "seeds"):
            values = getattr(self, name)
            require(name, values, len(set(values)) == len(values) > 0, "at least one, each once")
        for seed in self.seeds:
            require_seed("seeds", seed)
        for name in ("epochs", "batch_size", "accumulate"):
            require_at_least(name, getattr(self, name), 1)
        require("early_epochs", self.early_epochs, 0 < self.early_epochs < self.epochs, f"1 to {self.epochs - 1}")
        require_at_least("workers", self.workers, 0)
        require_at_least("compare_steps", self.compare_steps, 0)


class Variant(NamedTuple):
    """One run of the paper."""

    encoder: str
    attention: str
    seed: int

    @property
    def name(self) -> str:
        """Name of its folder."""
        return f"{self.encoder}_{self.attention}_seed{self.seed}"


def variants(config: ReproduceConfig) -> list[Variant]:
    """The runs in the order in which they are made: attention first, which most of the figures are about."""
    return [
        Variant(encoder, attention, seed)
        for seed in config.seeds
        for attention in config.attentions
        for encoder in config.encoders
    ]


def command(config: ReproduceConfig, variant: Variant, run: Path, *length: str) -> list[str]:
    """The `python -m training.pretrain` of a run; `length` is how far, as options of the loop."""
    options = ["--config", str(RECIPE), "--data.root", config.data.root, "--data.height", str(config.data.height)]
    options += ["--data.cache", config.data.cache, "--loop.run", str(run), "--loop.resume", "auto"]
    options += ["--loop.seed", str(variant.seed), "--loop.batch_size", str(config.batch_size)]
    options += ["--loop.accumulate", str(config.accumulate), "--loop.precision", config.precision]
    options += ["--loop.accelerator", config.accelerator, "--loop.workers", str(config.workers)]
    options += ["--loop.evaluate_every_epochs", "10", "--loop.log_every_steps", "1"]
    options += list(_VGG) if variant.encoder == "vgg16" else ["--model.encoder", variant.encoder]
    return [sys.executable, "-m", "training.pretrain", *options, "--model.attention", variant.attention, *length]


class Supervisor:
    """Runs commands one after the other, until the budget is used up or a signal comes.

    Args:
        budget: seconds; 0: no limit.
    """

    def __init__(self, budget: float) -> None:
        self._end = time.monotonic() + budget if budget else math.inf
        self.signal = 0
        """The signal that ended the work; 0: none."""
        self._child: subprocess.Popen[bytes] | None = None

    @property
    def is_over(self) -> bool:
        """Whether nothing more may be started."""
        return self.signal != 0 or time.monotonic() >= self._end

    def run(self, arguments: Sequence[str]) -> bool:
        """Whether a command was finished; when the time is over, SIGTERM asks it to stop with a checkpoint.

        Raises:
            TrainingError: it failed.
        """
        if self.is_over:
            return False
        print(shlex.join(arguments), file=sys.stderr, flush=True)
        # in a session of its own: Ctrl-C reaches it through this process alone, so that it comes only once
        self._child = subprocess.Popen(arguments, start_new_session=True, preexec_fn=end_with_parent)
        asked = False
        while True:
            try:
                status = self._child.wait(min(1.0, max(0.0, self._end - time.monotonic())) or 1.0)
                break
            except subprocess.TimeoutExpired:
                if self.is_over and not asked:
                    self._child.send_signal(signal.SIGTERM)
                    asked = True
        self._child = None
        if status and not self.is_over:
            raise TrainingError(f"a run ended with status {status}", "correct what it reports above, then repeat this")
        return status == 0

    @contextmanager
    def passing_on_signals(self) -> Iterator[None]:
        """SIGTERM and Ctrl-C end the command that is running, which leaves a checkpoint; the page is still written."""

        def remember(number: int, _: FrameType | None) -> None:
            self.signal = number
            if self._child is not None:
                self._child.send_signal(signal.SIGTERM)

        before = {number: signal.signal(number, remember) for number in (signal.SIGTERM, signal.SIGINT)}
        try:
            yield
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)


def train_variant(config: ReproduceConfig, variant: Variant, per_epoch: int, supervisor: Supervisor) -> None:
    """Train a run to its end, or as far as the budget goes, and keep its weights of the early epoch."""
    run = Path(config.output) / "runs" / variant.name
    early = early_weights(config, run)
    for epochs in (config.early_epochs, config.epochs):
        if steps_done(run) < epochs * per_epoch and not supervisor.run(
            command(config, variant, run, "--loop.epochs", str(epochs))
        ):
            return
        newest = newest_checkpoint(run)
        # a run that was beyond this epoch before has other weights now: then there is no Figure 4 of it
        if newest and not early.exists() and steps_done(run) == config.early_epochs * per_epoch:
            with written_beside(early) as temporary:
                shutil.copyfile(newest / "model.safetensors", temporary)


def early_weights(config: ReproduceConfig, run: Path) -> Path:
    """The file with the weights of a run after the early epoch."""
    return run / f"epoch{config.early_epochs}.safetensors"


def steps_done(run: Path) -> int:
    """Number of steps of the newest checkpoint of a run; 0 without one."""
    newest = newest_checkpoint(run)
    return read_header(newest).step if newest else 0


def compare_precisions(config: ReproduceConfig, variant: Variant, supervisor: Supervisor) -> dict[str, list[float]]:
    """The losses of the first steps of a run in fp32 and in bf16, from the same weights with the same batches."""
    losses = {}
    for precision in ("fp32", "bf16"):
        run = Path(config.output) / "compared" / f"{variant.name}_{precision}"
        steps = ("--loop.epochs", "0", "--loop.steps", str(config.compare_steps))
        chosen = command(replace(config, precision=precision), variant, run, *steps)
        if steps_done(run) < config.compare_steps and not supervisor.run(chosen):
            return {}
        # an earlier call may have compared more steps, in one of them at least
        losses[precision] = read_curves(run)["loss"][1][: config.compare_steps]
    return losses


@dataclass(frozen=True)
class Findings:
    """What one run shows."""

    encoder: str
    attention: str
    seed: int
    epochs: float
    """Passes over the panoramas that it has made."""
    measured: float | None
    """Passes after which correlation and retrieval were measured: a run that is stopped is not measured there. None of
    the figures is known of a run whose curves were removed."""
    gamma: float | None
    """γ of the attention, of its newest step."""
    correlation: float | None
    """Mean correlation between the channels of the latent (Table 2); None if they are constant."""
    retrieval: dict[str, float]
    """Share of turned views that find their panorama, by the way in which they are embedded."""
    loss: float | None
    change: list[float] | None
    """Change of each layer from the early epoch to the newest (Figure 4)."""


def findings(run: Path, variant: Variant, per_epoch: int, early: Path | None = None) -> Findings | None:
    """What a run shows so far; None before its first checkpoint.

    Args:
        run: its folder.
        variant: which run it is.
        per_epoch: steps of a pass over the panoramas.
        early: from `early_weights`; None: there are none.
    """
    newest = newest_checkpoint(run)
    if newest is None:
        return None
    curves = read_curves(run)
    done = read_header(newest).step
    change = None
    if early and early.exists() and read_header(early).step < done:
        change = list(layer_changes(encoder_tensors(str(early)), encoder_tensors(str(newest))).values())
    last = {name: values[-1] for name, (_, values) in curves.items() if math.isfinite(values[-1])}
    measured = curves.get("retrieval/local_top1")
    return Findings(
        *variant,
        epochs=done / per_epoch,
        measured=measured[0][-1] / per_epoch if measured else None,
        gamma=last.get("attention/gamma"),
        correlation=last.get("latent/inter_map_correlation"),
        retrieval={name: last[f"retrieval/{name}_top1"] for name in _WAYS if f"retrieval/{name}_top1" in last},
        loss=last.get("loss"),
        change=change,
    )


_WAYS = ("local", "guided", "global")


PAPER = {
    "gamma": {"resnet50": "8.0", "vgg16": "8.0"},
    "correlation": {"resnet50": ".107", "vgg16": ".295"},
    "change": {"resnet50": "more than 2 on average", "vgg16": "at most 1.42"},
}
"""The supplementary's figures for attention: γ after 250 epochs (of which encoder is not stated), Table 2, Figure 4."""


class Claim(NamedTuple):
    """What the supplementary says of the encoders with attention, as a row of `CLAIMS`."""

    text: str
    figure: Literal["gamma", "correlation", "change"]
    """What it is about; of `change`, the mean over the layers."""
    encoders: tuple[PaperEncoder, ...]
    """Encoders that it takes."""
    holds: Callable[..., bool]
    """Whether it does, from the mean figure of each of them over the seeds."""


CLAIMS = (
    Claim("γ of ResNet50 reaches 8.0", "gamma", ("resnet50",), lambda resnet50: abs(resnet50) >= 8),
    Claim("γ of VGG16 reaches 8.0", "gamma", ("vgg16",), lambda vgg16: abs(vgg16) >= 8),
    Claim(
        "the channels of ResNet50's latent correlate less than VGG16's",
        *("correlation", ("resnet50", "vgg16")),
        lambda resnet50, vgg16: resnet50 < vgg16,
    ),
    Claim(
        "ResNet50's layers change by more than 2 on average after the early epoch",
        *("change", ("resnet50",)),
        lambda resnet50: resnet50 > 2,
    ),
    Claim(
        "VGG16's layers change less than ResNet50's after the early epoch",
        *("change", ("resnet50", "vgg16")),
        lambda resnet50, vgg16: vgg16 < resnet50,
    ),
)
"""The claims that the page judges."""


def page(
    config: ReproduceConfig,
    count: int,
    found: Sequence[Findings],
    compared: dict[str, list[float]],
    precisions: Sequence[str] = (),
) -> str:
    """The page, as Markdown: means over the seeds, with the sample standard deviation where there are several.

    Args:
        config: the settings.
        count: number of panoramas.
        found: what the runs show.
        compared: from `compare_precisions`.
        precisions: those that the runs had, in this call or others; empty: that of the settings.
    """
    gallery = min(count, PretrainConfig.retrieval_panoramas)
    groups: dict[tuple[str, str], list[Findings]] = {(each.encoder, each.attention): [] for each in found}
    for each in found:
        groups[each.encoder, each.attention].append(each)
    lines = [
        "# The paper's pretraining, on these panoramas",
        "",
        f"{count} panoramas, batches of {config.batch_size}, {config.epochs} epochs planned, "
        f"{' and '.join(precisions or [config.precision])}. "
        "Means over seeds, ± sample standard deviation. The paper's figures are in brackets.",
        "",
        "| run | seeds | epochs | γ | inter-map correlation (Table 2) | change of a layer since epoch "
        f"{config.early_epochs}: mean, largest (Figure 4) | loss |",
        "|---|---|---|---|---|---|---|",
    ]
    lines += [_row(encoder, attention, runs) for (encoder, attention), runs in groups.items()]
    lines += [
        "",
        f"Retrieval: share of turned views that find their own panorama among {gallery}; chance is {1 / gallery:.3f}. "
        "local: the turned view is its own query; guided: the plain view is the query, as in training; global: without "
        "attention.",
        "",
        "| run | local | guided | global |",
        "|---|---|---|---|",
    ]
    for (encoder, attention), runs in groups.items():
        shares = [_spread([each.retrieval.get(way) for each in runs]) for way in _WAYS]
        lines.append(f"| {encoder}, {attention} | {' | '.join(shares)} |")
    lines += ["", *_judged_claims(config, found), *_remarks(config, found, compared)]
    return "\n".join(lines) + "\n"


def _row(encoder: str, attention: str, runs: Sequence[Findings]) -> str:
    """A row of the first table: runs that differ in their seed."""
    paper = {name: f" ({values[encoder]})" if attention == "self" else "" for name, values in PAPER.items()}
    changes = [each.change for each in runs if each.change]
    change = "–"
    if changes:
        means, largest = [float(np.nanmean(each)) for each in changes], [float(np.nanmax(each)) for each in changes]
        change = f"{_spread(means)}, {_spread(largest)}{paper['change']}"
    gammas = [each.gamma for each in runs if each.gamma is not None]
    correlations = [each.correlation for each in runs if each.correlation is not None]
    cells = (
        f"{encoder}, {attention}",
        ", ".join(str(each.seed) for each in runs),
        _epochs(runs),
        f"{_spread(gammas)}{paper['gamma']}" if gammas else "–",
        f"{_spread(correlations)}{paper['correlation']}" if correlations else "–",
        change,
        _spread([each.loss for each in runs]),
    )
    return f"| {' | '.join(cells)} |"


def _judged_claims(config: ReproduceConfig, found: Sequence[Findings]) -> list[str]:
    """A table of the claims about the encoders whose runs have got far enough, and whether they come out."""
    rows = []
    for claim in CLAIMS:
        means = {encoder: _mean(found, encoder, claim.figure) for encoder in claim.encoders}
        values = [value for value in means.values() if value is not None]
        if len(values) == len(means):
            here = ", ".join(f"{encoder} {value:.3f}" for encoder, value in means.items())
            rows.append(f"| {claim.text} | {here} | {'yes' if claim.holds(*values) else 'no'} |")
    if not rows:
        return []
    done = _done(found)
    planned = [each for each in variants(config) if each.attention == "self"]
    unfinished = any(done.get(each, 0) < config.epochs for each in planned)
    when = "so far; not all of these runs are finished" if unfinished else "at the end"
    fewer = f" of {config.epochs} epochs (the paper: {_PAPER_EPOCHS})" if config.epochs != _PAPER_EPOCHS else ""
    title = f"Claims of the paper about attention, and what came out {when}{fewer}:"
    return [title, "", "| claim | here | does it come out |", "|---|---|---|", *rows, ""]


def _mean(found: Sequence[Findings], encoder: str, figure: str) -> float | None:
    """The mean figure of the runs of an encoder with attention; None if none has it."""
    values = [getattr(each, figure) for each in found if (each.encoder, each.attention) == (encoder, "self")]
    known = [float(np.nanmean(value)) for value in values if value is not None]
    return float(np.mean(known)) if known else None


def _done(found: Sequence[Findings]) -> dict[Variant, float]:
    """The passes that each run has made."""
    return {Variant(each.encoder, each.attention, each.seed): each.epochs for each in found}


def _remarks(config: ReproduceConfig, found: Sequence[Findings], compared: dict[str, list[float]]) -> list[str]:
    done = _done(found)
    missing = [
        f"{each.name} ({done.get(each, 0):.0f} epochs)"
        for each in variants(config)
        if done.get(each, 0) < config.epochs
    ]
    lines = []
    if compared:
        fp32, bf16 = (np.array(compared[name]) for name in ("fp32", "bf16"))
        lines += [
            f"bf16 beside fp32, the same {len(fp32)} steps: the loss differs by {np.abs(fp32 - bf16).mean():.4f} on "
            f"average and {np.abs(fp32 - bf16).max():.4f} at most; it is {fp32[0]:.3f} first and {fp32[-1]:.3f} last.",
            "",
        ]
    if missing:
        lines += [f"Not finished: {', '.join(missing)}. The same command continues there.", ""]
    return lines


def _spread(every: Sequence[float | None]) -> str:
    values = [each for each in every if each is not None]
    if not values:
        return "–"
    mean = f"{np.mean(values):.3f}"
    return f"{mean} ± {np.std(values, ddof=1):.3f}" if len(values) > 1 else mean


def _epochs(runs: Sequence[Findings]) -> str:
    """The passes that runs have made, and those after which they were measured, if they were not at the end."""
    made, known = _range([each.epochs for each in runs]), [each.measured for each in runs if each.measured is not None]
    measured = f"at {_range(known)}" if known else "not known"
    return made if known and made == _range(known) else f"{made}; correlation and retrieval {measured}"


def _range(values: Sequence[float]) -> str:
    low, high = min(values), max(values)
    return f"{low:.0f}" if round(low) == round(high) else f"{low:.0f} to {high:.0f}"


def draw_curves(output: Path, curves: dict[str, dict[str, Curve]], per_epoch: int) -> None:
    """Draw γ, inter-map correlation and local retrieval over the epochs into OUTPUT/curves.png."""
    panels = {
        "attention/gamma": "γ (paper: 8.0)",
        "latent/inter_map_correlation": "inter-map correlation (paper: VGG16 .295, ResNet50 .107)",
        "retrieval/local_top1": "retrieval by the turned view alone",
    }
    figure = new_figure(15, 4.5)
    for axes, (tag, title) in zip(figure.subplots(1, len(panels)), panels.items(), strict=True):
        for name, of_run in curves.items():
            if tag in of_run:
                steps, values = of_run[tag]
                axes.plot(np.array(steps) / per_epoch, values, label=name)
        axes.set(title=title, xlabel="epoch")
        if axes.get_lines():
            axes.legend(fontsize="x-small")
    save_figure(figure, output / "curves.png", dpi=110)


def draw_changes(output: Path, found: Sequence[Findings]) -> None:
    """Draw Figure 4, the change of every layer of the runs with attention, into OUTPUT/change.png."""
    figure = new_figure(9, 4.5)
    axes = figure.subplots()
    for each in found:
        if each.change and each.attention == "self":
            colour = ENCODER_COLOURS[each.encoder == "resnet50"]
            layers = range(1, len(each.change) + 1)
            axes.plot(layers, each.change, color=colour, label=f"{each.encoder} {each.seed}")
    axes.axhline(math.sqrt(2), color="grey", linestyle=":", label="unrelated weights of equal norm")
    axes.set(xlabel="layer, from the input", ylabel="‖ΔW‖ / ‖W‖", title="Change of the encoders' weights")
    axes.legend(fontsize="small")
    save_figure(figure, output / "change.png", dpi=110)


def write_page(
    config: ReproduceConfig, made: MadeWith, count: int, per_epoch: int, compared: dict[str, list[float]]
) -> None:
    """Write the page, its pictures and its numbers from what the runs have so far."""
    output = Path(config.output)
    runs = {each: output / "runs" / each.name for each in variants(config)}
    early = {each: early_weights(config, run) for each, run in runs.items()}
    shown = (findings(run, variant, per_epoch, early[variant]) for variant, run in runs.items())
    found = [each for each in shown if each]
    text = page(config, count, found, compared, made.precisions)
    if found:
        curves = {variant.name: read_curves(run) for variant, run in runs.items() if newest_checkpoint(run)}
        draw_curves(output, curves, per_epoch)
        draw_changes(output, found)
        text += "\n![γ, correlation and retrieval](curves.png)\n\n![Figure 4](change.png)\n"
        text += _embed(config, runs)
    numbers = {"panoramas": count, **asdict(made), "epochs": config.epochs, "runs": [asdict(each) for each in found]}
    write_text(output / "reproduction.json", json.dumps(_without_nan(numbers)))
    write_text(output / "reproduction.md", text)


def _without_nan(value: Any) -> Any:
    """Plain values with None for NaN, which JSON does not have."""
    if isinstance(value, dict):
        return {name: _without_nan(each) for name, each in value.items()}
    if isinstance(value, (list, tuple)):
        return [_without_nan(each) for each in value]
    return None if isinstance(value, float) and math.isnan(value) else value


def _embed(config: ReproduceConfig, runs: dict[Variant, Path]) -> str:
    """Figure 5 of the first seed's runs with attention."""
    chosen = [
        run for variant, run in runs.items() if variant[1:] == ("self", config.seeds[0]) and newest_checkpoint(run)
    ]
    if not chosen:
        return ""
    checkpoints = tuple(map(str, sorted(chosen, reverse=True)))  # VGG16 first: its colour in the paper
    data = AnalysedConfig(config.data.root, config.data.height, config.data.cache)
    analyse_embedding(EmbeddingConfig(checkpoints, data, config.output))
    return "\n![Figure 5](embedding.png)\n"


@dataclass(frozen=True)
class MadeWith:
    """With what all runs below an output were made, whichever call made them."""

    batch_size: int
    height: int
    names: str
    """The panoramas in words that change when they do."""
    precisions: list[str] = field(default_factory=list)
    """Precisions of the calls that trained."""


def made_with(config: ReproduceConfig, panoramas: Panoramas, *, trains: bool) -> MadeWith:
    """With what the runs are made, after a check that those of earlier calls were made with the same.

    Args:
        config: the settings, with the precision of this call.
        panoramas: those that are there.
        trains: whether this call has anything to train.

    Raises:
        CheckpointError: they were made with another batch size, or of other panoramas.
        OSError: the record cannot be written.
    """
    folder = Path(config.output) / "runs"
    names = summary_of(names_below(config.data.root, panoramas.paths))
    now = MadeWith(config.batch_size, config.data.height, names, [config.precision])
    before = _recorded(folder, names)
    if before is None:
        made = now
    else:
        for what, found, expected in (
            ("--batch_size", before.batch_size, now.batch_size),
            ("--data.height", before.height, now.height),
            ("--data.root, of panoramas", before.names, now.names),
        ):
            if found != expected:
                raise CheckpointError(
                    f"the runs in {folder} were made with {what} {found}",
                    "set it as it was, or another --output",
                    expected=f"{expected}, as set now",
                )
        more = [each for each in now.precisions if trains and each not in before.precisions]
        made = replace(now, precisions=[*before.precisions, *more])
    write_text(folder / _MADE_WITH, json.dumps(asdict(made)) + "\n")
    return made


def _recorded(folder: Path, names: str) -> MadeWith | None:
    """The record of earlier calls; that of a run's own settings where an older version made it; None without runs."""
    if not any(newest_checkpoint(run) for run in folder.glob("*_seed*")):
        return None
    try:
        return MadeWith(**json.loads((folder / _MADE_WITH).read_text(encoding="utf-8")))
    except (OSError, TypeError, ValueError):
        settings = [yaml.safe_load(each.read_text(encoding="utf-8")) for each in folder.glob("*_seed*/config.yaml")]
    if not settings:
        return None
    precisions = sorted({each["loop"]["precision"] for each in settings})
    return MadeWith(settings[0]["loop"]["batch_size"], settings[0]["data"]["height"], names, precisions)


def reproduce(config: ReproduceConfig) -> int:
    """Train what is missing, write the page, and return 0, or 128 plus the signal that ended the work.

    Raises:
        CheckpointError: the output has runs with another batch size, or of other panoramas.
        DataError, ParameterError: the panoramas are unusable, or fewer than a batch.
        TrainingError: a run failed.
        OSError: the page cannot be written.
    """
    output = Path(config.output)
    check_folder_is_writable(output)
    config = replace(config, precision=settled_precision(config.precision, config.accelerator))
    if not config.data.cache:
        config = replace(config, data=replace(config.data, cache=str(output / "cache")))
    panoramas = open_panoramas(config.data)
    count = len(panoramas)
    with option_names():
        per_epoch = steps_per_epoch(count, config.batch_size)
    planned, whole = variants(config), config.epochs * per_epoch
    made = made_with(config, panoramas, trains=any(steps_done(output / "runs" / each.name) < whole for each in planned))
    supervisor = Supervisor(config.budget)
    compared: dict[str, list[float]] = {}
    with supervisor.passing_on_signals():
        try:
            if config.compare_steps:
                compared = compare_precisions(config, planned[0], supervisor)
            for variant in planned:
                train_variant(config, variant, per_epoch, supervisor)
        except TrainingError:
            write_page(config, made, count, per_epoch, compared)  # of the runs before the one that failed
            raise
    write_page(config, made, count, per_epoch, compared)
    finished = sum(steps_done(output / "runs" / each.name) >= whole for each in planned)
    continues = "; the same command continues with the others" if finished < len(planned) else ""
    print(f"wrote {output / 'reproduction.md'}: {finished} of {len(planned)} runs are finished{continues}")
    return 128 + supervisor.signal if supervisor.signal else 0


def main() -> int:
    """The command `python -m training.reproduce`."""
    return reproduce(read_config(ReproduceConfig, "Train the paper's encoders, and compare them with its figures."))


if __name__ == "__main__":
    sys.exit(one_line_errors(main))
