"""Every command of docs/reproduce.md and every shipped evaluation config is accepted by its command's own reader."""

from __future__ import annotations

import re
import shlex

import pytest

from training.analyse import ANALYSES
from training.config import read_config
from training.config.evaluate import EvaluateConfig
from training.config.pretrain import PretrainConfig
from training.config.train_decoder import TrainDecoderConfig
from training.data.check import INVENTORIES

KINDS = {"pretrain": PretrainConfig, "train_decoder": TrainDecoderConfig, "evaluate": EvaluateConfig}


@pytest.fixture
def commands(repository, monkeypatch):
    """The words after `python -m training.` of every command on the page."""
    monkeypatch.chdir(repository)  # configs are named relative to it
    text = (repository / "docs/reproduce.md").read_text(encoding="utf-8")
    return [shlex.split(each) for each in re.findall(r"`python -m training\.([^`]+)`", text)]


def test_every_command_on_the_page_is_accepted(commands):
    accepted = set()
    for name, *options in commands:
        if name == "data.check":
            assert options[0] in INVENTORIES
        elif name == "analyse":
            read_config(ANALYSES[options[0]][0], "", options[1:])
            accepted.add(options[0])
        elif options:
            read_config(KINDS[name], "", options)
            accepted.add(name)
    assert accepted == {*KINDS, *ANALYSES}


def test_every_row_of_the_paper_has_its_command(commands):
    """{VGG16, ResNet50} x {attention, none, average pooling} x {frozen, fine-tuned}, each on its own encoder."""
    pretrained = {}
    rows = set()
    for name, *options in commands:
        if name == "pretrain" and options:
            config = read_config(PretrainConfig, "", options)
            pretrained[config.loop.run] = (config.model.encoder, config.model.attention)
    for name, *options in commands:
        if name == "train_decoder":
            config = read_config(TrainDecoderConfig, "", options)
            if config.encoder_weights:
                encoder, attention = pretrained[config.encoder_weights]
                assert encoder == config.model.encoder
                rows.add((encoder, attention, config.frozen))
    expected = {
        (encoder, attention, frozen)
        for encoder in ("vgg16", "resnet50")
        for attention in ("self", "none", "average")
        for frozen in ("encoder", "none")
    }
    assert expected | {("compact", "self", "encoder")} == rows


def test_the_shipped_evaluation_config_is_accepted(repository):
    config = read_config(EvaluateConfig, "", ["--config", str(repository / "config/evaluate.yaml")])
    assert config.protocols == ("standard", "paper")
