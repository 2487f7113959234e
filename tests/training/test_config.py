"""Settings: errors name an option that the command has."""

from __future__ import annotations

import dataclasses
import functools
import os
import re
import subprocess
import sys
import typing
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

import training.config
from sal360.errors import CheckpointError, ParameterError
from training.analyse import ANALYSES
from training.analysis.equator import EquatorConfig
from training.average import AverageConfig
from training.calibrate import CalibrateConfig
from training.checkpoint import save_checkpoint
from training.config import SettingError, config_from_dict, option_names, read_config, write_config
from training.data.gaze.placed_photographs import PlacementConfig
from training.data.loader import StepSampler, steps_per_epoch
from training.data.prepare_osie import PrepareOsieConfig
from training.data.shards import WriteShardsConfig
from training.evaluate import EvaluateConfig, open_models
from training.export import ExportConfig, load_model
from training.loop import LoopConfig, make_fabric
from training.make_weights import MakeWeightsConfig
from training.models.prior import PriorConfig
from training.models.saliency_model import SaliencyModel, SaliencyModelConfig
from training.pretrain import PretrainConfig
from training.teach import TeachConfig, teach
from training.train_decoder import TrainDecoderConfig
from training.train_photographs import TrainPhotographsConfig

COMMANDS: list[type[Any]] = [
    PretrainConfig,
    TrainDecoderConfig,
    EvaluateConfig,
    ExportConfig,
    CalibrateConfig,
    TeachConfig,
    AverageConfig,
    MakeWeightsConfig,
    WriteShardsConfig,
    PrepareOsieConfig,
    *(kind for kind, _ in ANALYSES.values()),
]


def options_of(kind: type[Any], path: str = "") -> Iterator[tuple[str, Any, bool]]:
    """Name, type and whether it is required, of every option of a command."""
    types = typing.get_type_hints(kind)
    for field in dataclasses.fields(kind):
        if dataclasses.is_dataclass(types[field.name]):
            yield from options_of(types[field.name], f"{path}{field.name}.")
        else:
            required = field.default is field.default_factory is dataclasses.MISSING
            yield f"{path}{field.name}", types[field.name], required


def extremes(of: Any) -> list[str]:
    """Values of an option's type that it may well refuse."""
    if of in (int, float):
        return ["-1000000000", "1000000000"]
    if typing.get_origin(of) is tuple:
        return ["[]", "[1000000, -1]"] if typing.get_args(of)[0] is not str else ["[]"]
    return {str: [""], bool: ["true"]}.get(of, [])


def usable(kind: type[Any], folder: Path) -> dict[str, str]:
    """A value for each option without a default, with which the command's settings are valid."""
    values = {
        name: "[a, b]" if typing.get_origin(of) is tuple else str(folder)
        for name, of, required in options_of(kind)
        if required
    }
    values |= {"output": "maps.npz"} if kind is TeachConfig else {}
    values |= dict.fromkeys(("gaze", "panoramas"), str(folder)) if kind is MakeWeightsConfig else {}
    more = {"loop.steps": "1", "data.panoramas": str(folder)}
    return values | {name: more[name] for name, *_ in options_of(kind) if name in more}


def read(kind: type[Any], values: dict[str, str]) -> Any:
    return read_config(kind, "", [f"--{name}={value}" for name, value in values.items()])


def refusal(kind: type[Any], values: dict[str, str]) -> SettingError | None:
    """Why the settings are refused, if they are."""
    try:
        read(kind, values)
    except SettingError as error:
        return error
    except ParameterError:  # of the wrong type: reported by jsonargparse
        return None
    return None


@pytest.mark.parametrize("kind", COMMANDS, ids=lambda kind: kind.__name__)
def test_a_remedy_names_options_that_the_command_has(
    kind: type[Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("training.config._parser", functools.cache(training.config._parser))  # it is made slowly
    options = {name for name, *_ in options_of(kind)}
    good = usable(kind, tmp_path)
    assert isinstance(read(kind, good), kind)
    refused = set()
    for option, of, _ in options_of(kind):
        for error in filter(None, (refusal(kind, good | {option: value}) for value in extremes(of))):
            named = re.findall(r"--([\w.]+)", error.remedy)
            assert option in named
            assert set(named) <= options
            assert set(error.values) == set(named)
            refused.add(option)
    assert refused


@pytest.mark.parametrize(
    ("kind", "options", "message"),
    [
        (
            TrainDecoderConfig,
            {"data.placement.fov_deg": "[5, 200]"},
            r"data\.placement\.fov_deg is \(5.0, 200.0\); expected .*; set --data\.placement\.fov_deg$",
        ),
        (
            EquatorConfig,
            {"prior.scale_deg": "0"},
            r"^prior\.scale_deg is 0.0; expected 1 to 1000; set --prior\.scale_deg$",
        ),
        (TeachConfig, {"panoramas": ""}, r"^panoramas is ''; expected a folder of panoramas; set --panoramas$"),
        (CalibrateConfig, {"panoramas": " "}, r"^panoramas is ' '; expected a folder of panoramas; set --panoramas$"),
        (
            PretrainConfig,
            {"views.height": "32"},
            r"^views\.height is 32 and model\.height is 160; .*; set --views\.height or --model\.height$",
        ),
    ],
)
def test_the_path_of_a_nested_setting_is_the_commands(
    kind: type[Any], options: dict[str, str], message: str, tmp_path: Path
) -> None:
    with pytest.raises(SettingError, match=message):
        read(kind, usable(kind, tmp_path) | options)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"loop:\n\trun: x\n", "Problems parsing config"),
        (b"\xff\xfe\x00a", "codec can't decode"),
        (b"a: &a [*a]\n", "recursion"),
        (b"- a\n", "Unexpected config"),
        (b"views: null\n", r"^views is None; expected settings in it, .*; set --views$"),
        (b"loop: {workers: many}\n", r'"loop\.workers": Expected'),
        (b"loop: {wrokers: 1}\n", "wrokers"),
    ],
)
def test_a_file_without_settings_is_named_in_one_line(tmp_path: Path, content: bytes, message: str) -> None:
    path = tmp_path / "settings.yaml"
    path.write_bytes(content)
    options = ["--data.root=panoramas", "--loop.run=run", "--loop.steps=1"]
    with pytest.raises(ParameterError, match=message) as caught:
        read_config(PretrainConfig, "", ["--config", str(path), *options])
    assert "\n" not in str(caught.value)
    assert isinstance(caught.value, SettingError) or f"or in {path}" in caught.value.remedy


def test_a_dataclass_by_itself_names_its_own_field() -> None:
    with pytest.raises(SettingError, match=r"^fov_deg is \(5, 200\); expected .*; set fov_deg$"):
        PlacementConfig(fov_deg=(5, 200))
    with pytest.raises(SettingError, match=r"^steps is 0 and epochs is 0; .*; set steps or epochs$"):
        LoopConfig("run")


def test_code_that_only_knows_a_value_gets_the_option() -> None:
    with (
        pytest.raises(SettingError, match=r"^loop\.batch_size is 9; expected at most the 8 .*; set --loop\.batch_size"),
        option_names("loop"),
    ):
        steps_per_epoch(8, 9)
    with (
        pytest.raises(SettingError, match=r"^size is 3 and parts is 2; .*; set --size or --parts$"),
        option_names(batch_size="size", accumulate="parts"),
    ):
        StepSampler(8, batch_size=3, seed=0, start=0, stop=1, parts=2)
    with pytest.raises(SettingError, match=r"^a\.b\.strength is 9;.*; set --a\.b\.strength$"), option_names("a.b"):
        PriorConfig(strength=9)


def test_a_size_that_the_checkpoints_model_does_not_take_names_the_commands_option(tmp_path: Path) -> None:
    config = SaliencyModelConfig(input_height=128, channels=8, strides=(8, 16), scales=3)
    save_checkpoint(tmp_path / "run", 1, SaliencyModel(config), "saliency", config, {})
    with pytest.raises(SettingError, match=r"set --input_size$"):
        load_model(ExportConfig(str(tmp_path / "run"), "out", input_size="96x192"))
    (tmp_path / "panoramas").mkdir()
    for name in "ab":
        Image.new("RGB", (128, 64)).save(tmp_path / "panoramas" / f"{name}.png")
    settings = TeachConfig(
        (str(tmp_path / "run"),), str(tmp_path / "panoramas"), str(tmp_path / "maps.npz"), heights=(64,)
    )
    with pytest.raises(SettingError, match=r"set --heights$"):
        teach(settings)
    with pytest.raises(SettingError, match=r"^prior_strengths is 5\.0; expected 0 to 4; set --prior_strengths$"):
        open_models([str(tmp_path / "run")], [5.0])


def test_settings_survive_their_yaml_and_json(tmp_path: Path) -> None:
    config = read(TrainDecoderConfig, usable(TrainDecoderConfig, tmp_path) | {"model.strides": "[8, 16]"})
    write_config(config, tmp_path / "config.yaml")
    assert read_config(TrainDecoderConfig, "", ["--config", str(tmp_path / "config.yaml")]) == config
    assert config_from_dict(TrainDecoderConfig, dataclasses.asdict(config)) == config


def test_a_checkpoints_settings_that_do_not_hold_name_no_option() -> None:
    with pytest.raises(CheckpointError, match=r"the setting prior\.floor is 3; expected 0 to 1; update"):
        config_from_dict(SaliencyModelConfig, {"strides": [4, 8], "prior": {"floor": 3}})
    with pytest.raises(CheckpointError, match="the setting 'heads' of SaliencyModelConfig is unknown"):
        config_from_dict(SaliencyModelConfig, {"heads": 2})


@pytest.mark.parametrize(
    ("kind", "settings", "message"),
    [
        (SaliencyModelConfig, {"channels": "many"}, r"setting channels is 'many'; expected a whole number; update"),
        (SaliencyModelConfig, {"channels": None}, r"setting channels is None; expected a whole number; update"),
        (SaliencyModelConfig, {"circular": 1}, r"setting circular is 1; expected true or false; update"),
        (SaliencyModelConfig, {"strides": 8}, r"setting strides is 8; expected a list, each a whole number; update"),
        (SaliencyModelConfig, {"strides": [8, "16"]}, r"expected a list, each a whole number; update"),
        (SaliencyModelConfig, {"encoder": 3}, r"setting encoder is 3; expected one of vgg16, resnet50"),
        (
            SaliencyModelConfig,
            {"prior": {"floor": "0.1"}},
            r"setting prior\.floor is '0\.1'; expected a finite number; update",
        ),
        (SaliencyModelConfig, {"prior": [1]}, r"setting prior is \[1\]; expected settings in it"),
        (
            PlacementConfig,
            {"fov_deg": [50]},
            r"fov_deg is \[50\]; expected a list, 2 values, each a finite number; update",
        ),
        (LoopConfig, {"run": "run", "resume": "no"}, r"resume is 'no'; expected true or false or auto; update"),
        (LoopConfig, {"steps": 3}, r"the setting 'run' of LoopConfig is missing; update"),
    ],
)
def test_a_checkpoints_settings_of_another_type_are_refused_in_one_line(
    kind: type[Any], settings: dict[str, Any], message: str
) -> None:
    with pytest.raises(CheckpointError, match=message):
        config_from_dict(kind, settings)


def test_a_whole_number_serves_where_any_number_does() -> None:
    assert config_from_dict(SaliencyModelConfig, {"prior": {"floor": 0}}).prior.floor == 0


def test_the_usage_is_the_command_as_it_is_typed(repository: Path) -> None:
    for command, usage in (
        ("training.make_weights", "python -m training.make_weights"),
        ("training.analyse views", "python -m training.analyse views"),
    ):
        process = [sys.executable, "-m", *command.split(), "--help"]
        told = subprocess.run(process, cwd=repository, capture_output=True, text=True, check=True).stdout
        assert " ".join(told.split()).startswith(f"usage: {usage} [--config")


@pytest.mark.parametrize(
    ("option", "value"),
    [
        ("optimiser.learning_rate", ".inf"),
        ("views.translation_px", "1.0e999"),
        ("views.crop_ratio", "[0.5, .inf]"),
        ("loop.ema", ".nan"),
    ],
)
def test_a_number_that_is_not_finite_is_refused(option: str, value: str, tmp_path: Path) -> None:
    with pytest.raises(SettingError, match=rf"^{re.escape(option)} is .*; expected .*a finite number; set --{option}"):
        read(PretrainConfig, usable(PretrainConfig, tmp_path) | {option: value})


@pytest.mark.parametrize("weight", [".inf", ".nan"])
def test_a_weight_of_a_set_that_is_not_finite_is_refused(weight: str, tmp_path: Path) -> None:
    values = usable(TrainPhotographsConfig, tmp_path) | {"data.sets": f"{{osie: {weight}}}"}
    with pytest.raises(SettingError, match=r"^data\.sets is .*; expected a mapping, each value a finite number"):
        read(TrainPhotographsConfig, values)


@pytest.mark.parametrize("content", ["loop: [1]", "loop: null", "loop: 3", "loop: {}\nviews:"])
def test_settings_in_a_file_that_are_no_settings_are_refused_even_if_options_replace_them(
    content: str, tmp_path: Path
) -> None:
    path = tmp_path / "settings.yaml"
    path.write_text(content)
    options = [f"--{name}={value}" for name, value in usable(PretrainConfig, tmp_path).items()]
    with pytest.raises(SettingError, match=r"^(loop|views) is .*; expected settings in it.*; set --(loop|views)$"):
        read_config(PretrainConfig, "", ["--config", str(path), *options, "--views.height=160"])


@pytest.mark.parametrize("kind", [*COMMANDS, TrainPhotographsConfig], ids=lambda kind: kind.__name__)
def test_seeds_that_a_library_refuses_and_empty_folders_of_output_are_refused(kind: type[Any], tmp_path: Path) -> None:
    good = usable(kind, tmp_path)
    for option, of, _ in options_of(kind):
        values = ("-1", str(1 << 32)) if of is int and option.endswith("seed") else ()
        if of is str and option in ("out", "output", "runs", "loop.run"):
            values = ("", " ")
        for value in values:
            with pytest.raises(SettingError, match=f"^{re.escape(option)} is ") as caught:
                read(kind, good | {option: value})
            assert f"--{option}" in caught.value.remedy


def test_a_variable_of_torchrun_that_is_no_number_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    for text in ("abc", "0", "-1", "2.5"):
        monkeypatch.setenv("WORLD_SIZE", text)
        with pytest.raises(ParameterError, match=rf"^the environment variable WORLD_SIZE is '{text}'; .*; unset it"):
            make_fabric(LoopConfig("run", steps=1, accelerator="cpu"))


def test_a_missing_extra_is_one_line_and_not_a_traceback(repository: Path, tmp_path: Path) -> None:
    (tmp_path / "sitecustomize.py").write_text(
        "import sys\n"
        "class WithoutTorch:\n"
        "    def find_spec(self, name, path=None, target=None):\n"
        "        if name == 'torch':\n"
        "            raise ModuleNotFoundError(f'No module named {name!r}', name=name)\n"
        "sys.meta_path.insert(0, WithoutTorch())\n"
    )
    environment = {**os.environ, "PYTHONPATH": f"{tmp_path}{os.pathsep}{repository}"}
    command = [sys.executable, "-m", "training.pretrain", "--help"]
    ended = subprocess.run(command, capture_output=True, text=True, env=environment, check=False)
    assert (ended.returncode, ended.stdout) == (2, "")
    assert ended.stderr.startswith('error: the Python module torch is missing; pip install ".[train]"')
    assert ended.stderr.count("\n") == 1
