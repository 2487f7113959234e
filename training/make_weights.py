"""Make the bundled model from its data: five training stages, averages, taught maps, calibration, export.

    python -m training.make_weights --osie OSIE --panoramas PANORAMAS
    python -m training.make_weights --recipe permissive --gaze GAZE --panoramas PANORAMAS --runs runs/permissive

The recipe `bundled` makes the files that the package has. `permissive` and `all` train on several data sets of gaze,
each in its folder below GAZE (docs/gaze_data.md), and leave the package as it is.

Every step is a command that can also be run by itself; `--dry_run true` prints them. Finished steps are skipped, and a
training step continues from its newest checkpoint, so an interrupted run continues where it stopped. All steps take
about three hours on two cores, those of the other recipes about five.
"""

from __future__ import annotations

import contextlib
import ctypes
import math
import shlex
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal, Protocol

import yaml

from sal360.errors import TrainingError, one_line_errors
from sal360.files import check_folder_is_writable, written_beside
from sal360.weights import bundled_model
from training.checkpoint import newest_checkpoint
from training.config import read_config, require, require_path, require_together
from training.data.gaze.datasets import described

VERSION = "1.3.0"
"""Version of the weights that these steps make; each version has its own run folders."""
SETS_VERSION = "2.0.0"
"""Version of the weights that the recipes `permissive` and `all` make."""
_RUNS = f"runs/sal360-compact-{VERSION}"
RECIPES = Path(__file__).parent / "recipes"
Recipe = Literal["bundled", "permissive", "all"]


def sets_of(recipe: Recipe) -> tuple[str, ...]:
    """The data sets of gaze on which a recipe trains, by their names in `DATASETS`."""
    if recipe == "bundled":
        return ("osie",)
    return tuple(yaml.safe_load((RECIPES / f"photographs_{recipe}.yaml").read_text(encoding="utf-8"))["data"]["sets"])


def trained_on(recipe: Recipe) -> str:
    """The training data in words, each set with what is known of its licence, as model files say it."""
    gaze = f"ImageNet (encoder), gaze on photographs of {described(sets_of(recipe))}"
    shown = "placed on panoramas" if recipe == "bundled" else "shown plainly and on panoramas"
    return f"{gaze}, {shown}, and maps of enlarged copies of these panoramas"


@dataclass(frozen=True)
class MakeWeightsConfig:
    """Data and output folders."""

    osie: str = ""
    """Folder of the OSIE data set; with `dry_run` it may be left out."""
    panoramas: str = ""
    """Folder of panoramas without gaze; with `dry_run` it may be left out."""
    runs: str = _RUNS
    """Folder for the results of the steps; each recipe needs its own."""
    recipe: Recipe = "bundled"
    """bundled: the files in the package; permissive: data sets under permissive licences; all: all data sets."""
    gaze: str = ""
    """Recipes permissive and all: folder with a folder for each data set of photographs."""
    dry_run: bool = False
    """Print the commands instead of running them."""

    def __post_init__(self) -> None:
        require_path("runs", self.runs, "a folder")
        if self.dry_run:
            return
        own = self.recipe == "bundled" or self.runs != _RUNS
        require_together(self, ("recipe", "runs"), own, "another folder for the results of another recipe")
        for name in ("osie" if self.recipe == "bundled" else "gaze", "panoramas"):
            folder = getattr(self, name)
            require_path(name, folder, "a folder")
            require(name, folder, Path(folder).is_dir(), "a folder that exists")


class Step(Protocol):
    """A command with one result, a file or a run folder."""

    @property
    def name(self) -> str:
        """Name of the result in the folder `runs`."""

    def command(self, config: MakeWeightsConfig) -> list[str]:
        """Module of `training` and its options."""

    @property
    def runs_again(self) -> bool:
        """Whether the command runs even if its result exists."""


@dataclass(frozen=True)
class Train:
    """Decoder training with `recipes/compact.yaml` and one overlay."""

    name: str
    overlay: str = ""
    seed: int | None = None
    start: str = ""
    """Name of an earlier step from whose weights this one starts."""
    taught: str = ""
    """Name of an earlier `Teach` step."""
    options: Mapping[str, Any] = field(default_factory=dict)
    """Settings that differ from the recipes'."""

    def command(self, config: MakeWeightsConfig) -> list[str]:
        recipes = [RECIPES / "compact.yaml", *([RECIPES / f"{self.overlay}.yaml"] if self.overlay else [])]
        options = {
            "data.root": config.osie,
            "data.panoramas": config.panoramas,
            "loop.run": f"{config.runs}/{self.name}",
            "loop.resume": "auto",
            **({} if self.seed is None else {"loop.seed": self.seed}),
            **({"start": f"{config.runs}/{self.start}"} if self.start else {}),
            **({"data.taught": f"{config.runs}/{self.taught}"} if self.taught else {}),
            **self.options,
        }
        configs = [part for recipe in recipes for part in ("--config", str(recipe))]
        return ["train_decoder", *configs, *_as_options(options)]

    @property
    def runs_again(self) -> bool:
        return True  # it continues from its newest checkpoint


@dataclass(frozen=True)
class TrainPhotographs:
    """Training on several data sets with `recipes/photographs.yaml`, the recipe's sets and perhaps one more overlay."""

    name: str
    seed: int
    overlay: str = ""
    start: str = ""
    """Name of an earlier step from whose weights this one starts."""
    taught: str = ""
    """Name of an earlier `Teach` step."""

    def command(self, config: MakeWeightsConfig) -> list[str]:
        recipes = ["photographs", f"photographs_{config.recipe}", *([self.overlay] if self.overlay else [])]
        options = {
            "data.root": config.gaze,
            "data.panoramas": config.panoramas,
            "loop.run": f"{config.runs}/{self.name}",
            "loop.resume": "auto",
            "loop.seed": self.seed,
            **({"start": f"{config.runs}/{self.start}"} if self.start else {}),
            **({"data.taught": f"{config.runs}/{self.taught}"} if self.taught else {}),
        }
        configs = [part for recipe in recipes for part in ("--config", str(RECIPES / f"{recipe}.yaml"))]
        return ["train_photographs", *configs, *_as_options(options)]

    @property
    def runs_again(self) -> bool:
        return True  # it continues from its newest checkpoint


@dataclass(frozen=True)
class Average:
    """The mean of the weights of several runs."""

    name: str
    of: tuple[str, ...]

    def command(self, config: MakeWeightsConfig) -> list[str]:
        checkpoints = [f"{config.runs}/{each}" for each in self.of]
        return ["average", *_as_options({"checkpoints": checkpoints, "output": f"{config.runs}/{self.name}"})]

    @property
    def runs_again(self) -> bool:
        return False


@dataclass(frozen=True)
class Teach:
    """Maps of the panoramas, predicted by a model at several heights."""

    name: str
    teacher: str
    heights: tuple[int, ...]

    def command(self, config: MakeWeightsConfig) -> list[str]:
        options = {
            "checkpoints": [f"{config.runs}/{self.teacher}"],
            "panoramas": config.panoramas,
            "heights": list(self.heights),
            "output": f"{config.runs}/{self.name}",
        }
        return ["teach", *_as_options(options)]

    @property
    def runs_again(self) -> bool:
        return False


@dataclass(frozen=True)
class Calibrate:
    """Temperature, blur and prior for panoramas."""

    name: str
    checkpoint: str

    def command(self, config: MakeWeightsConfig) -> list[str]:
        options = {
            "checkpoint": f"{config.runs}/{self.checkpoint}",
            "panoramas": config.panoramas,
            "output": f"{config.runs}/{self.name}",
        }
        return ["calibrate", *_as_options(options)]

    @property
    def runs_again(self) -> bool:
        return False


@dataclass(frozen=True)
class Export:
    """A model file."""

    name: str
    checkpoint: str
    precision: str
    options: Mapping[str, Any] = field(default_factory=dict)

    def command(self, config: MakeWeightsConfig) -> list[str]:
        options = {
            "checkpoint": f"{config.runs}/{self.checkpoint}",
            "panoramas": config.panoramas,
            "version": VERSION if config.recipe == "bundled" else SETS_VERSION,
            "trained_on": trained_on(config.recipe),
            "precision": self.precision,
            "output": f"{config.runs}/{self.name}",
            **self.options,
        }
        return ["export", *_as_options(options)]

    @property
    def runs_again(self) -> bool:
        return True  # the file names the revision of the code


FILES = tuple(bundled_model(form) for form in ("fp32", "int8"))
STEPS: tuple[Step, ...] = (
    Train("first"),
    *(Train(f"longer_{seed}", "compact_longer", seed, start="first") for seed in (1, 2)),
    Average("longer", ("longer_1", "longer_2")),
    *(Train(f"smooth_{seed}", "compact_smooth", seed, start="longer") for seed in (3, 4)),
    Average("smooth", ("smooth_3", "smooth_4")),
    Teach("smooth.npz", "smooth", (384, 576, 768)),
    Train(
        "small_0",
        "compact_small",
        seed=0,
        start="smooth",
        taught="smooth.npz",
        options={
            "loop.steps": 500,
            "optimiser.learning_rate": 1.0e-3,
            "optimiser.encoder_factor": 0.15,
            "data.placement.fov_deg": [45, 90],
            "data.placement.inset_share": 0.7,
        },
    ),
    *(Train(f"small_{seed}", "compact_small", seed, start="small_0", taught="smooth.npz") for seed in (1, 2)),
    Average("small", ("small_1", "small_2")),
    Teach("small.npz", "small", (576, 768, 960)),
    Train(
        "panoramas_0",
        "compact_panoramas",
        seed=21,
        start="small",
        taught="small.npz",
        options={
            "loop.steps": 500,
            "optimiser.learning_rate": 1.2e-3,
            "data.placement.slots": 2,
            "data.placement.mean_photographs": 2,
        },
    ),
    *(Train(f"panoramas_{seed}", "compact_panoramas", seed, "panoramas_0", "small.npz") for seed in (31, 32)),
    Average("panoramas", ("panoramas_31", "panoramas_32", "small")),
    Calibrate("calibrated", "panoramas"),
    Export(FILES[0].name, "calibrated", "fp32"),
    # int8 calibration uses each of the 62 panoramas once
    Export(FILES[1].name, "calibrated", "int8", {"calibration_frames": 62}),
)


SETS_STEPS: tuple[Step, ...] = (
    TrainPhotographs("photographs", seed=0),
    Teach("photographs.npz", "photographs", (384, 576, 768)),
    *(
        TrainPhotographs(f"panoramas_{seed}", seed, "photographs_panoramas", "photographs", "photographs.npz")
        for seed in (1, 2)
    ),
    Average("panoramas", ("panoramas_1", "panoramas_2")),
    Calibrate("calibrated", "panoramas"),
    Export(FILES[0].name, "calibrated", "fp32"),
    Export(FILES[1].name, "calibrated", "int8", {"calibration_frames": 62}),
)
"""The steps of the recipes `permissive` and `all`."""


def commands(config: MakeWeightsConfig) -> Iterator[tuple[Step, list[str]]]:
    """Each step with its command line."""
    for step in STEPS if config.recipe == "bundled" else SETS_STEPS:
        module, *options = step.command(config)
        yield step, [sys.executable, "-m", f"training.{module}", *options]


def make_weights(config: MakeWeightsConfig) -> None:
    """Run every step whose result is missing, then copy the model files of the recipe `bundled` into the package.

    Raises:
        TrainingError: a step failed; its own message gives the reason.
    """
    if config.dry_run:
        named = replace(
            config,
            osie=config.osie or "OSIE",
            gaze=config.gaze or "GAZE",
            panoramas=config.panoramas or "PANORAMAS",
            runs="RUNS" if config.recipe != "bundled" and config.runs == _RUNS else config.runs,
        )
        print("\n".join(shlex.join(command) for _, command in commands(named)))
        return
    if config.recipe == "bundled":
        check_folder_is_writable(FILES[0].parent)
    for step, command in commands(config):
        if not step.runs_again and _is_done(Path(config.runs) / step.name):
            print(f"{step.name}: done before")
        else:
            begin_s = time.monotonic()
            if subprocess.run(command, check=False, preexec_fn=_end_with_parent).returncode:
                raise TrainingError(
                    f"the step {step.name} failed", "fix what its message says, then run this command again"
                )
            print(f"{step.name}: {(time.monotonic() - begin_s) / 60:.1f} min", flush=True)
    if config.recipe != "bundled":
        print("made " + " and ".join(str(Path(config.runs) / path.name) for path in FILES))
        return
    for path in FILES:  # at the end, so that both files name the revision of an unchanged source tree
        with written_beside(path) as temporary:
            shutil.copyfile(Path(config.runs) / path.name, temporary)


def _is_done(result: Path) -> bool:
    """Whether a step has made its file or checkpoint; a full disk leaves an empty folder."""
    return result.is_file() or newest_checkpoint(result) is not None


def _end_with_parent() -> None:
    """In a child process: end when its parent ends. A second start would otherwise train in the same folder."""
    with contextlib.suppress(AttributeError):  # only Linux has the call
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGTERM)


_PR_SET_PDEATHSIG = 1


def _as_options(options: Mapping[str, Any]) -> list[str]:
    """Options as command-line arguments for jsonargparse."""
    parts = []
    for name, value in options.items():
        is_list = isinstance(value, list)
        text = yaml.safe_dump(value, default_flow_style=True, width=math.inf).strip() if is_list else str(value)
        parts += [f"--{name}", text]
    return parts


def main() -> None:
    """The command `python -m training.make_weights`."""
    make_weights(read_config(MakeWeightsConfig, "Rebuild the bundled model from its data."))


if __name__ == "__main__":
    sys.exit(one_line_errors(main))
