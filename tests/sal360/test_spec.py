"""The model spec: written into an ONNX file and read from it; newer or malformed ones are refused in one line."""

from __future__ import annotations

import dataclasses
import json
import sys
from pathlib import Path
from typing import Any

import onnx
import pytest
from hypothesis import given
from hypothesis import strategies as st
from onnx import TensorProto, helper

from sal360.errors import ModelError
from sal360.spec import METADATA_KEY, SPEC_VERSION, ModelSpec, read_onnx_spec, write_onnx_spec

SPEC = ModelSpec(
    name="tiny",
    version="1.2.3",
    input_height=8,
    input_width=16,
    output_height=4,
    output_width=8,
    trained_on="nothing",
    weights_license="CC0-1.0",
    prior_log_rows=(-1.0, 0.25, 0.25, -1.0),
    parity={"max_difference": 1e-6},
)


@pytest.fixture
def model() -> onnx.ModelProto:
    """The smallest whole ONNX model: one Identity."""
    value = [helper.make_tensor_value_info(name, TensorProto.FLOAT, [1]) for name in ("x", "y")]
    graph = helper.make_graph([helper.make_node("Identity", ["x"], ["y"])], "tiny", value[:1], value[1:])
    return helper.make_model(graph)


def fields_of_spec(**changes: Any) -> str:
    """The JSON of SPEC with some fields changed, added, or (None) left out."""
    fields = {**dataclasses.asdict(SPEC), **changes}
    return json.dumps({name: value for name, value in fields.items() if value is not None})


def test_a_spec_comes_back_from_an_onnx_file(tmp_path: Path, model: onnx.ModelProto) -> None:
    write_onnx_spec(model, SPEC)
    onnx.save(model, tmp_path / "tiny.onnx")
    assert read_onnx_spec(tmp_path / "tiny.onnx") == SPEC


def test_writing_a_spec_replaces_the_older_one_and_keeps_other_metadata(model: onnx.ModelProto) -> None:
    model.metadata_props.add(key="author", value="somebody")
    write_onnx_spec(model, dataclasses.replace(SPEC, name="older"))
    write_onnx_spec(model, SPEC)
    entries = {entry.key: entry.value for entry in model.metadata_props}
    assert len(model.metadata_props) == 2
    assert entries["author"] == "somebody"
    assert ModelSpec.from_json(entries[METADATA_KEY], "here") == SPEC


def test_a_newer_spec_is_refused_with_the_remedy() -> None:
    with pytest.raises(ModelError, match=rf"spec of version {SPEC_VERSION + 1}.*update sal360") as caught:
        ModelSpec.from_json(fields_of_spec(spec_version=SPEC_VERSION + 1, input_height="whatever"), "m.onnx")
    assert "m.onnx" in caught.value.found


def test_unknown_fields_of_the_same_version_are_ignored() -> None:
    assert ModelSpec.from_json(fields_of_spec(colour="green"), "m.onnx") == SPEC


@pytest.mark.parametrize(
    ("text", "named"),
    [
        ("", "cannot be read"),
        ("not json", "cannot be read"),
        ("[]", "cannot be read"),
        ("null", "cannot be read"),
        ('{"spec_version": Infinity}', "cannot be read"),
        ('{"spec_version": "one"}', "cannot be read"),
        ("[" * 100_000, "cannot be read"),
        (fields_of_spec(prior_log_rows=[10**400, 0, 0, 0]), "malformed"),
        (fields_of_spec(spec_version=None), "cannot be read"),
        (fields_of_spec(name=None), "malformed.*name"),
        (fields_of_spec(prior_log_rows=["a", 0, 0, 0]), "malformed"),
        (fields_of_spec(prior_log_rows=5), "malformed"),
        (fields_of_spec(prior_log_rows=[0.0, 1.0]), "a prior of 2 rows; expected 4 rows"),
        (fields_of_spec(prior_log_rows=[0.0, float("nan"), 0.0, 0.0]), "prior.*not finite"),
        (fields_of_spec(input_height=0), "input_height = 0"),
        (fields_of_spec(output_width=-8), "output_width = -8"),
        (fields_of_spec(output_width=8.0), "output_width = 8.0"),
        (fields_of_spec(input_width="16"), "input_width = '16'"),
        (fields_of_spec(input_height=True), "input_height = True"),
        (fields_of_spec(name=5), "name = 5"),
        (fields_of_spec(projection="cubemap"), "projection 'cubemap'"),
    ],
)
def test_a_malformed_spec_is_refused_by_name(text: str, named: str) -> None:
    with pytest.raises(ModelError, match=named) as caught:
        ModelSpec.from_json(text, "m.onnx")
    assert "m.onnx" in caught.value.found
    assert "\n" not in str(caught.value)


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=5,
)


@given(st.sampled_from([each.name for each in dataclasses.fields(ModelSpec)]), json_values)
def test_any_content_of_a_field_is_read_or_refused(name: str, value: Any) -> None:
    text = json.dumps({**dataclasses.asdict(SPEC), name: value})
    try:
        spec = ModelSpec.from_json(text, "m.onnx")
    except ModelError:
        return
    assert ModelSpec.from_json(spec.to_json(), "again").to_json() == spec.to_json()


@given(st.text() | json_values.map(json.dumps))
def test_any_text_is_read_or_refused(text: str) -> None:
    with pytest.raises(ModelError):
        ModelSpec.from_json(text, "m.onnx")


@pytest.mark.parametrize(
    "content", [None, b"", b"\x00\xffno protobuf", b"PNG" * 50], ids=["missing", "empty", "a", "b"]
)
def test_a_file_that_is_not_a_model_is_refused_in_one_line(tmp_path: Path, content: bytes | None) -> None:
    path = tmp_path / "m.onnx"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(ModelError, match=r"m\.onnx") as caught:
        read_onnx_spec(path)
    assert "\n" not in str(caught.value)


def test_without_the_package_onnx_the_remedy_is_reported(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "onnx", None)
    with pytest.raises(ModelError, match=r"onnx, which reads model files, is missing; pip install onnx"):
        read_onnx_spec(tmp_path / "model.onnx")


def test_a_folder_is_not_a_model(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match="no model file"):
        read_onnx_spec(tmp_path)


def test_a_model_from_another_project_is_refused(tmp_path: Path, model: onnx.ModelProto) -> None:
    onnx.save(model, tmp_path / "other.onnx")
    with pytest.raises(ModelError, match=f"without a sal360 spec.*{METADATA_KEY}"):
        read_onnx_spec(tmp_path / "other.onnx")


def test_a_truncated_model_is_refused(tmp_path: Path, model: onnx.ModelProto) -> None:
    write_onnx_spec(model, SPEC)
    whole = model.SerializeToString()
    (tmp_path / "cut.onnx").write_bytes(whole[: len(whole) // 2])
    with pytest.raises(ModelError, match=r"cut\.onnx"):
        read_onnx_spec(tmp_path / "cut.onnx")
