"""Every command of docs/reproduce.md and the shipped evaluation settings are accepted by their command's own reader."""

from __future__ import annotations

import re
import shlex
import subprocess
from pathlib import Path

import pytest

from sal360.weights import bundled_model
from training.analyse import ANALYSES
from training.average import AverageConfig
from training.calibrate import CalibrateConfig
from training.config import read_config
from training.data.check import INVENTORIES
from training.evaluate import EvaluateConfig
from training.export import ExportConfig
from training.pretrain import PretrainConfig
from training.teach import TeachConfig
from training.train_decoder import TrainDecoderConfig

KINDS = {"pretrain": PretrainConfig, "train_decoder": TrainDecoderConfig, "evaluate": EvaluateConfig}


@pytest.fixture(scope="module")
def settings(repository):
    """(command, its settings) of every `python -m training.…` with options on the page, and the data sets checked."""
    text = (repository / "docs/reproduce.md").read_text(encoding="utf-8")
    commands = [shlex.split(each) for each in re.findall(r"`python -m training\.([^`]+ [^`]+)`", text)]
    read = []
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(repository)  # settings are named relative to it
        for name, *options in commands:
            if name == "data.check":
                read.append((name, options[0]))
            elif name == "analyse":
                read.append((options[0], read_config(ANALYSES[options[0]][0], "", options[1:])))
            else:
                read.append((name, read_config(KINDS[name], "", options)))
    return read


def test_every_command_on_the_page_is_accepted(settings):
    assert {name for name, _ in settings} == {"data.check", *KINDS, *ANALYSES}
    assert {dataset for name, dataset in settings if name == "data.check"} == set(INVENTORIES)


def test_every_row_of_the_paper_has_its_command(settings):
    """{VGG16, ResNet50} x {attention, none, average pooling} x {frozen, fine-tuned}, each on its own encoder."""
    pretrained = {
        each.loop.run: (each.model.encoder, each.model.attention) for name, each in settings if name == "pretrain"
    }
    decoders = [each for name, each in settings if name == "train_decoder" and each.encoder_weights]
    assert all(pretrained[each.encoder_weights][0] == each.model.encoder for each in decoders)
    rows = {(*pretrained[each.encoder_weights], each.frozen) for each in decoders}
    expected = {
        (encoder, attention, frozen)
        for encoder in ("vgg16", "resnet50")
        for attention in ("self", "none", "average")
        for frozen in ("encoder", "none")
    }
    assert rows == expected | {("compact", "self", "encoder")}
    assert len({each.loop.run for each in decoders}) == len(decoders)


def test_every_command_of_make_weights_is_accepted_and_starts_from_what_came_before(repository):
    done = subprocess.run(
        ["make", "--dry-run", "weights", "OSIE=gaze", "PANORAMAS=pictures"],
        cwd=repository, capture_output=True, text=True, check=True,
    )  # fmt: skip
    kinds = {
        "train_decoder": TrainDecoderConfig,
        "average": AverageConfig,
        "teach": TeachConfig,
        "calibrate": CalibrateConfig,
        "export": ExportConfig,
    }
    made = set()
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(repository)
        for line in done.stdout.replace("\\\n", " ").splitlines():
            command = re.search(r"-m training\.(\w+) ([^|;]+)", line)
            if not command:
                continue
            loop = re.search(r"for seed in ([\d ]+);", line)
            for seed in loop[1].split() if loop else [""]:
                config = read_config(kinds[command[1]], "", shlex.split(command[2].replace("$seed", seed)))
                if command[1] == "train_decoder":
                    assert (config.data.root, config.data.panoramas) == ("gaze", "pictures")
                    assert {config.start, config.data.taught} - {""} <= made
                    made.add(config.loop.run)
                else:
                    assert {getattr(config, "checkpoint", ""), *getattr(config, "checkpoints", ())} - {""} <= made
                    made.add(config.output)
                    skipped_if = re.match(r"test -[df] (\S+) \|\|", line)
                    assert skipped_if is None or skipped_if[1] == config.output
    forms = [bundled_model("fp32"), bundled_model("int8")]
    files = [path for path in sorted(made) if path.endswith(".onnx")]
    assert [Path(path).name for path in files] == [path.name for path in forms]
    assert f"cp {' '.join(files)} sal360/weights/" in done.stdout
    assert config.version in Path(config.checkpoint).parent.name  # nothing of another version is taken for this one's


def test_every_shipped_setting_of_decoder_training_is_accepted(repository):
    paths = sorted((repository / "config").glob("train_*.yaml"))
    assert len(paths) >= 5
    for path in paths:
        assert read_config(TrainDecoderConfig, "", ["--config", str(path)]).loop.run.startswith("runs/")


def test_the_shipped_evaluation_settings_are_accepted(repository):
    config = read_config(EvaluateConfig, "", ["--config", str(repository / "config/evaluate.yaml")])
    assert config.protocols == ("standard", "paper")
