"""ModelSpec: everything that a runtime needs to know about a model, stored in the model file itself.

In ONNX it is one metadata entry (`METADATA_KEY`) that holds JSON; a TensorRT engine ends with the same JSON.
`training` writes it and the library reads it; they share nothing else.
"""

from __future__ import annotations

import dataclasses
import json
import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from sal360.errors import ModelError
from sal360.weights import WEIGHTS

METADATA_KEY = "sal360_spec"
SPEC_VERSION = 1
MAX_PIXELS = 2**26
"""Maximum of rows times columns of the frame and of the map: 8192 x 8192, or 16384 x 4096."""
MAX_ONNX_BYTES = 2**31
"""Protobuf's limit for the size of a file."""
_LFS_POINTER = b"version https://git-lfs"
INPUT_NAME = "frame"
OUTPUT_NAME = "saliency"


@dataclass(frozen=True)
class ModelSpec:
    """Name, version, sizes and origin of a model.

    The input `frame` is uint8, (N, input_height, input_width, 3), RGB, equirectangular. The output `saliency` is
    float32, (N, output_height, output_width): a density relative to uniform, mean 1 on the sphere.
    """

    name: str
    """Short name of the model ("sal360-compact")."""
    version: str
    """Version of the weights ("1.0.0")."""
    input_height: int
    """Rows of the input frame, pixels."""
    input_width: int
    """Columns of the input frame, pixels; twice the rows."""
    output_height: int
    """Rows of the map, pixels."""
    output_width: int
    """Columns of the map, pixels."""
    trained_on: str
    """The data sets on which it was trained, as text."""
    weights_license: str
    """Licence of the weights: an SPDX identifier or a sentence."""
    precision: str = "fp32"
    """Arithmetic inside the graph: fp32, fp16, bf16 or int8."""
    projection: str = "erp"
    """Projection of the input frame; only "erp" (equirectangular) exists."""
    git_revision: str = "unknown"
    """Git revision of the training code."""
    prior_log_rows: tuple[float, ...] = ()
    """The equator prior in the graph: the values that it adds to the log-density of each output row, in nats.

    Empty if the model has none. Because it is added before the normalisation, it can be removed or scaled exactly
    afterwards: see `predictor.scale_prior`.
    """
    parity: Mapping[str, Any] = field(default_factory=dict)
    """How the exported file's maps compare with those of the trained model (maximum and mean difference, CC)."""
    adapted: Mapping[str, Any] = field(default_factory=dict)
    """What `training.adapt` fitted, to how much gaze, and its gain on scenes that were left out; empty: nothing."""
    spec_version: int = SPEC_VERSION
    """Version of this structure."""

    def to_json(self) -> str:
        """The spec as one line of JSON."""
        return json.dumps(dataclasses.asdict(self), sort_keys=True)

    @classmethod
    def from_json(cls, text: str, source: str) -> ModelSpec:
        """Read what `to_json` wrote.

        Args:
            source: the file, for errors.

        Raises:
            ModelError: the text is not a spec or is of a newer version, or its fields contradict each other.
        """
        try:
            fields = json.loads(text)
            version = int(fields["spec_version"])
        except (ValueError, TypeError, KeyError, OverflowError, RecursionError) as error:
            raise ModelError(f"the spec in {source} cannot be read ({error})", _EXPORT_AGAIN) from None
        if version > SPEC_VERSION:
            raise ModelError(
                f"{source} has a spec of version {version}",
                "update sal360",
                expected=f"version {SPEC_VERSION} or older",
            )
        known = {each.name for each in dataclasses.fields(cls)}
        fields = {name: value for name, value in fields.items() if name in known}
        try:
            fields["spec_version"] = version
            fields["prior_log_rows"] = tuple(float(value) for value in fields.get("prior_log_rows", ()))
            fields["adapted"] = dict(fields.get("adapted", {}))
            spec = cls(**fields)
            spec.check(source)
        except (TypeError, ValueError, OverflowError) as error:
            raise ModelError(f"the spec in {source} is malformed ({error})", _EXPORT_AGAIN) from None
        return spec

    def check(self, source: str) -> None:
        """Refuse a spec whose fields contradict each other.

        Raises:
            ModelError: naming the field.
        """
        for name in ("input_height", "input_width", "output_height", "output_width"):
            size = getattr(self, name)
            if type(size) is not int or size < 1:  # a bool is an int too
                raise ModelError(
                    f"the spec in {source} has {name} = {size!r}", _EXPORT_AGAIN, expected="a positive number of pixels"
                )
        for height, width in ((self.input_height, self.input_width), (self.output_height, self.output_width)):
            if height * width > MAX_PIXELS:
                raise ModelError(
                    f"the spec in {source} has a frame or map of {width} x {height} pixels",
                    _EXPORT_AGAIN,
                    expected=f"at most {MAX_PIXELS}",
                )
        for name in ("name", "version", "trained_on", "weights_license", "precision", "git_revision"):
            text = getattr(self, name)
            if not isinstance(text, str):
                raise ModelError(f"the spec in {source} has {name} = {text!r}", _EXPORT_AGAIN, expected="a text")
        if self.projection != "erp":
            raise ModelError(
                f"{source} needs frames in the projection {self.projection!r}",
                "update sal360",
                expected="erp (equirectangular)",
            )
        if self.prior_log_rows and len(self.prior_log_rows) != self.output_height:
            raise ModelError(
                f"{source} has a prior of {len(self.prior_log_rows)} rows",
                _EXPORT_AGAIN,
                expected=f"{self.output_height} rows",
            )
        if not all(map(math.isfinite, self.prior_log_rows)):
            raise ModelError(f"{source} has a prior with values that are not finite", _EXPORT_AGAIN)


_EXPORT_AGAIN = "export the model again with python -m training.export"


def write_onnx_spec(model: Any, spec: ModelSpec) -> None:
    """Put the spec into the metadata of a loaded `onnx.ModelProto`; it replaces an older one."""
    kept = [entry for entry in model.metadata_props if entry.key != METADATA_KEY]
    del model.metadata_props[:]
    model.metadata_props.extend(kept)
    model.metadata_props.add(key=METADATA_KEY, value=spec.to_json())


def read_onnx_spec(path: str | Path) -> ModelSpec:
    """The spec in an ONNX file, read without a runtime.

    Raises:
        ModelError: the file cannot be read, is not an ONNX model or has no spec; or the package onnx is missing.
    """
    return spec_of(load_onnx(path), str(path))


def load_onnx(path: str | Path) -> Any:
    """The `onnx.ModelProto` in a file, without its external data.

    Raises:
        ModelError: the file cannot be read, is too large or not an ONNX model; or the package onnx is missing.
    """
    try:
        import onnx  # slow to import, and only needed when a model is opened
    except ModuleNotFoundError:
        raise ModelError("the Python module onnx, which reads model files, is missing", "pip install onnx") from None

    path = Path(path)
    if not path.is_file():
        raise no_model_file(path)
    if path.stat().st_size > MAX_ONNX_BYTES:
        raise ModelError(
            f"{path} has {path.stat().st_size / 1e9:.1f} GB; an ONNX file has at most 2 GB", "check the path"
        )
    try:
        content = path.read_bytes()
    except OSError as error:
        raise ModelError(f"{path} cannot be read ({error.strerror})", "check its permissions and the disk") from None
    if not content:
        raise ModelError(f"{path} is empty", "export or download it again")
    if content.startswith(_LFS_POINTER):
        raise ModelError(f"{path} is a Git LFS pointer", "run `git lfs pull` in its repository, or download the model")
    try:
        return onnx.load_model_from_string(content)
    except Exception as error:  # protobuf raises its own family of errors
        raise ModelError(f"{path} is not an ONNX model ({_first_line(error)})", "export or download it again") from None


def no_model_file(path: Path) -> ModelError:
    """The error of a path that is not of a file."""
    bundled = " or ".join(WEIGHTS)
    return ModelError(f"there is no model file {path}", f"check the path, or name a bundled model: {bundled}")


def spec_of(model: Any, source: str) -> ModelSpec:
    """The spec in the metadata of an `onnx.ModelProto`; `source` names the file in errors.

    Raises:
        ModelError: there is no spec, or it is malformed.
    """
    for entry in model.metadata_props:
        if entry.key == METADATA_KEY:
            return ModelSpec.from_json(entry.value, source)
    raise ModelError(
        f"{source} is an ONNX model without a sal360 spec (the metadata entry {METADATA_KEY})",
        "export it with python -m training.export",
    )


def _first_line(error: Exception) -> str:
    return str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
