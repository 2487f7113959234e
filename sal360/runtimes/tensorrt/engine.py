"""A TensorRT engine on disk: one file that ends with a description of the engine, as JSON.

The engine's bytes come first, so that `trtexec` finds them; `tail -n 60` shows the description. A single file is
replaced by one rename, so an engine is never paired with the description of another one.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import re
from dataclasses import dataclass
from pathlib import Path

from sal360.errors import ModelError
from sal360.files import write_bytes
from sal360.spec import ModelSpec

SUFFIX = ".engine"
LIBRARIES = ("tensorrt", "tensorrt_rtx")
"""Python packages that build and run engines, the preferred one first."""
INFO_VERSION = 1
_FOOTER = "\nsal360 engine description: %08d bytes\n"
_FOOTER_BYTES = len(_FOOTER % 0)
_REMEDY = "open the ONNX file instead, which builds an engine for this machine, or export the engine again"


@dataclass(frozen=True)
class EngineInfo:
    """The description of an engine: what it was built from, by what, and where it runs."""

    spec: ModelSpec
    """Spec of the ONNX file."""
    onnx_sha256: str
    """SHA-256 of the ONNX file and of its external data."""
    engine_sha256: str
    """SHA-256 of the engine."""
    library: str
    """Package of `LIBRARIES` that built it."""
    library_version: str
    """Version of that package; other versions may refuse the engine."""
    compute_capabilities: tuple[str, ...]
    """Compute capabilities of the GPUs on which it runs ("8.9")."""
    gpu_name: str
    """The GPU on which it was tuned; empty for TensorRT-RTX, which tunes an engine when it is loaded."""
    max_batch: int
    """Maximum number of frames of one call."""
    fixed_batch: bool = False
    """Whether every call takes exactly `max_batch` frames; otherwise the minimum is 1."""
    info_version: int = INFO_VERSION

    def check_runs_on(self, engine: Path, library: str, library_version: str, capability: str, gpu_name: str) -> None:
        """Refuse an engine that was built by another TensorRT or for another GPU.

        Raises:
            ModelError: naming both.
        """
        if (self.library, self.library_version) != (library, library_version):
            raise ModelError(
                f"{engine} was built by {self.library} {self.library_version}; "
                f"this machine has {library} {library_version}",
                _REMEDY,
            )
        if capability not in self.compute_capabilities:
            built_for = ", ".join(self.compute_capabilities)
            raise ModelError(
                f"{engine} was built for compute capability {built_for}; the {gpu_name} here has {capability}", _REMEDY
            )
        if self.gpu_name not in ("", gpu_name):
            raise ModelError(f"{engine} was tuned on {self.gpu_name}; this machine has {gpu_name}", _REMEDY)


def write_engine(path: Path, engine: bytes, info: EngineInfo) -> None:
    """Write an engine with its description, completely or not at all.

    Raises:
        OSError: the folder cannot be written or the disk is full.
    """
    text = json.dumps(dataclasses.asdict(info), indent=1, sort_keys=True).encode()
    write_bytes(path, engine + b"\n" + text + (_FOOTER % len(text)).encode())


def read_engine_info(path: Path) -> EngineInfo:
    """The description at the end of an engine file.

    Raises:
        ModelError: the file is missing, cut, malformed or of a newer version.
    """
    return _read(path)[1]


def read_engine(path: Path) -> tuple[bytes, EngineInfo]:
    """An engine and its description.

    Raises:
        ModelError: the file is missing, cut, damaged or of a newer version.
    """
    engine, info = _read(path)
    if sha256(engine) != info.engine_sha256:
        raise ModelError(f"{path} is damaged: the engine does not match its description", _REMEDY)
    return engine, info


def _read(path: Path) -> tuple[bytes, EngineInfo]:
    try:
        content = path.read_bytes()
    except OSError as error:
        raise ModelError(f"{path} cannot be read ({error.strerror or error})", "check the path") from None
    footer = re.fullmatch(rb"\nsal360 engine description: (\d{8}) bytes\n", content[-_FOOTER_BYTES:])
    if footer is None:
        raise ModelError(f"{path} is cut, or is not an engine that sal360 wrote", _REMEDY)
    start = len(content) - _FOOTER_BYTES - int(footer[1])
    return content[: max(0, start - 1)], _parse(content[max(0, start) : -_FOOTER_BYTES], path)


def _parse(text: bytes, path: Path) -> EngineInfo:
    try:
        fields = json.loads(text)
        version = fields["info_version"]
        if version > INFO_VERSION:
            raise ModelError(
                f"{path} has a description of version {version}; this sal360 reads up to {INFO_VERSION}",
                "update sal360",
            )
        fields["spec"] = ModelSpec.from_json(json.dumps(fields["spec"]), str(path))
        fields["compute_capabilities"] = tuple(fields["compute_capabilities"])
        info = EngineInfo(**fields)
        texts = (info.onnx_sha256, info.engine_sha256, info.library_version, info.gpu_name, *info.compute_capabilities)
        if not all(isinstance(each, str) for each in texts):
            raise ValueError("a text is missing")
        if type(info.max_batch) is not int or info.max_batch < 1:
            raise ValueError(f"max_batch is {info.max_batch!r}")
        if info.library not in LIBRARIES:
            raise ValueError(f"library is {info.library!r}")
    except (ValueError, TypeError, KeyError, RecursionError) as error:
        raise ModelError(f"{path} has a description that cannot be read ({error})", _REMEDY) from None
    return info


def sha256(data: bytes) -> str:
    """SHA-256 of `data`, hexadecimal."""
    return hashlib.sha256(data).hexdigest()
