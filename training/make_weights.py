"""Make the model files from their data: two training stages with taught maps between them, average, calibration
and export.

    python -m training.make_weights --gaze GAZE --panoramas PANORAMAS
    python -m training.make_weights --recipe permissive --gaze GAZE --panoramas PANORAMAS

A recipe says on which data sets the model trains; each set has its folder below GAZE (docs/gaze_data.md). The package
has the files of every recipe.

Every step is a command that can also be run by itself; `--dry_run true` prints them. Finished steps are skipped, and a
training step continues from its newest checkpoint, so an interrupted run continues where it stopped. A recipe takes
about two hours on two cores.
"""

from __future__ import annotations

import math
import shlex
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Protocol

import yaml

from sal360.errors import TrainingError, one_line_errors
from sal360.files import check_folder_is_writable, written_beside
from sal360.weights import DEFAULT, Form, Weights, bundled_model
from training.checkpoint import newest_checkpoint
from training.config import read_config, require, require_path
from training.data.gaze.datasets import DATASETS, described
from training.processes import end_with_parent

VERSION = "2.0.0"
"""Version of the weights that these steps make; each version has its own run folders."""
RECIPES = Path(__file__).parent / "recipes"


def sets_of(recipe: Weights) -> tuple[str, ...]:
    """The data sets of gaze on which a recipe trains, by their names in `DATASETS`."""
    return tuple(yaml.safe_load((RECIPES / f"photographs_{recipe}.yaml").read_text(encoding="utf-8"))["data"]["sets"])


def licence_of(recipe: Weights) -> str:
    """The licence of the weights, and which of the data sets of a recipe state none for their gaze."""
    silent = [DATASETS[name].title for name in sets_of(recipe) if DATASETS[name].licence != "MIT"]
    if not silent:
        return "Apache-2.0"
    return f"Apache-2.0; no licence stated for the gaze of {', '.join(silent)}"


def trained_on(recipe: Weights) -> str:
    """The training data in words, each set with what is known of its licence, as model files say it."""
    gaze = f"ImageNet (encoder), gaze on photographs of {described(sets_of(recipe))}"
    return f"{gaze}, shown plainly and on panoramas, and the model's maps of enlarged copies of these panoramas"


@dataclass(frozen=True)
class MakeWeightsConfig:
    """Data and output folders."""

    gaze: str = ""
    """Folder with a folder for each data set of photographs; with `dry_run` it may be left out."""
    panoramas: str = ""
    """Folder of panoramas without gaze; with `dry_run` it may be left out."""
    recipe: Weights = DEFAULT
    """permissive: data sets under permissive licences; all: all data sets of photographs."""
    runs: str = f"runs/sal360-compact-{VERSION}"
    """Folder for the results; those of each recipe are in a folder with its name."""
    dry_run: bool = False
    """Print the commands instead of running them."""

    def __post_init__(self) -> None:
        require_path("runs", self.runs, "a folder")
        if self.dry_run:
            return
        for name in ("gaze", "panoramas"):
            folder = getattr(self, name)
            require_path(name, folder, "a folder")
            require(name, folder, Path(folder).is_dir(), "a folder that exists")

    def result(self, step: str) -> str:
        """Path of the result of a step."""
        return f"{self.runs}/{self.recipe}/{step}"


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
    """Training with `recipes/photographs.yaml`, the data sets of the recipe and perhaps one more overlay."""

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
            "loop.run": config.result(self.name),
            "loop.resume": "auto",
            "loop.seed": self.seed,
            **({"start": config.result(self.start)} if self.start else {}),
            **({"data.taught": config.result(self.taught)} if self.taught else {}),
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
        checkpoints = [config.result(each) for each in self.of]
        return ["average", *_as_options({"checkpoints": checkpoints, "output": config.result(self.name)})]

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
            "checkpoints": [config.result(self.teacher)],
            "panoramas": config.panoramas,
            "heights": list(self.heights),
            "output": config.result(self.name),
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
    options: Mapping[str, Any] = field(default_factory=dict)

    def command(self, config: MakeWeightsConfig) -> list[str]:
        options = {
            "checkpoint": config.result(self.checkpoint),
            "panoramas": config.panoramas,
            "output": config.result(self.name),
            **self.options,
        }
        return ["calibrate", *_as_options(options)]

    @property
    def runs_again(self) -> bool:
        return False


@dataclass(frozen=True)
class Export:
    """A model file."""

    form: Form
    checkpoint: str
    options: Mapping[str, Any] = field(default_factory=dict)

    @property
    def name(self) -> str:
        return f"{self.form}.onnx"

    def command(self, config: MakeWeightsConfig) -> list[str]:
        options = {
            "checkpoint": config.result(self.checkpoint),
            "panoramas": config.panoramas,
            "name": bundled_model(weights=config.recipe).stem.replace("_", "-"),
            "version": VERSION,
            "trained_on": trained_on(config.recipe),
            "weights_license": licence_of(config.recipe),
            "precision": self.form,
            "output": config.result(self.name),
            **self.options,
        }
        return ["export", *_as_options(options)]

    @property
    def runs_again(self) -> bool:
        return True  # the file names the revision of the code


FORMS: tuple[Form, ...] = ("fp32", "int8")
"""Both forms of the model; the package has a file of each."""
STEPS: tuple[Step, ...] = (
    Train("photographs", seed=0),
    Teach("photographs.npz", "photographs", (384, 576, 768)),
    Train("panoramas", 1, "photographs_panoramas", "photographs", "photographs.npz"),
    Train("tilted", 2, "photographs_tilted", "panoramas", "photographs.npz"),
    Average("average", ("panoramas", "tilted")),
    Calibrate("calibrated", "average", {"gain_nats": 0.36, "distance_deg": 14, "blur_deg": 2, "floor": 0.05}),
    Export("fp32", "calibrated"),
    # int8 calibration uses each of the 62 panoramas once
    Export("int8", "calibrated", {"calibration_frames": 62}),
)


def commands(config: MakeWeightsConfig) -> Iterator[tuple[Step, list[str]]]:
    """Each step with its command line."""
    for step in STEPS:
        module, *options = step.command(config)
        yield step, [sys.executable, "-m", f"training.{module}", *options]


def make_weights(config: MakeWeightsConfig) -> None:
    """Run every step whose result is missing, then copy the model files into the package.

    Raises:
        TrainingError: a step failed; its own message gives the reason.
    """
    if config.dry_run:
        named = replace(config, gaze=config.gaze or "GAZE", panoramas=config.panoramas or "PANORAMAS")
        print("\n".join(shlex.join(command) for _, command in commands(named)))
        return
    check_folder_is_writable(bundled_model().parent)
    for step, command in commands(config):
        if not step.runs_again and _is_done(Path(config.result(step.name))):
            print(f"{step.name}: done before")
        else:
            begin_s = time.monotonic()
            if subprocess.run(command, check=False, preexec_fn=end_with_parent).returncode:
                raise TrainingError(
                    f"the step {step.name} failed", "fix what its message says, then run this command again"
                )
            print(f"{step.name}: {(time.monotonic() - begin_s) / 60:.1f} min", flush=True)
    for form in FORMS:  # at the end: both name the revision of an unchanged tree
        with written_beside(bundled_model(form, config.recipe)) as temporary:
            shutil.copyfile(config.result(Export(form, "").name), temporary)


def _is_done(result: Path) -> bool:
    """Whether a step has made its file or checkpoint; a full disk leaves an empty folder."""
    return result.is_file() or newest_checkpoint(result) is not None


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
    make_weights(read_config(MakeWeightsConfig, "Make the model files from their data."))


if __name__ == "__main__":
    sys.exit(one_line_errors(main))
