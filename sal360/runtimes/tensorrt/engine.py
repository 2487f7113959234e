"""A TensorRT engine on disk and, beside it, a JSON sidecar that says what it is and where it runs."""

from __future__ import annotations

import dataclasses
import hashlib
import json
from dataclasses import dataclass
from pathlib import Path

from sal360.errors import ModelError
from sal360.files import write_bytes, write_text
from sal360.spec import ModelSpec

SUFFIX = ".engine"
SIDECAR_VERSION = 1
_REMEDY = "build it again from the ONNX file on this machine (python -m sal360.cli.build_engine), or open the ONNX file"


@dataclass(frozen=True)
class EngineInfo:
    """What the sidecar says of its engine."""

    spec: ModelSpec
    """Of the ONNX file it was built from."""
    onnx_sha256: str
    """Of that file."""
    engine_sha256: str
    """Of the engine, so that the two files cannot be mixed up and a cut file is noticed."""
    library: str
    """"tensorrt" or "tensorrt_rtx"."""
    library_version: str
    """Release that built it; no other one is sure to read it."""
    compute_capabilities: tuple[str, ...]
    """Kinds of GPU that it runs on ("8.9")."""
    gpu_name: str
    """The card that it was tuned on; empty for engines that are finished on the card they run on."""
    max_batch: int
    """Most frames of one call; the fewest is 1."""
    sidecar_version: int = SIDECAR_VERSION

    def check_runs_on(self, engine: Path, library: str, library_version: str, capability: str, gpu_name: str) -> None:
        """Refuse an engine that was built for another TensorRT or another card.

        Raises:
            ModelError: naming both.
        """
        if (self.library, self.library_version) != (library, library_version):
            raise ModelError(
                f"{engine} was built by {self.library} {self.library_version}",
                _REMEDY,
                expected=f"{library} {library_version}",
            )
        if capability not in self.compute_capabilities:
            built_for = ", ".join(self.compute_capabilities)
            raise ModelError(
                f"{engine} was built for compute capability {built_for}", _REMEDY, expected=f"{capability} ({gpu_name})"
            )
        if self.gpu_name not in ("", gpu_name):
            raise ModelError(f"{engine} was tuned on {self.gpu_name}", _REMEDY, expected=gpu_name)


def sidecar_path(engine: Path) -> Path:
    """Where an engine's sidecar lies."""
    return engine.with_name(engine.name + ".json")


def write_engine(path: Path, engine: bytes, info: EngineInfo) -> None:
    """Write an engine and then its sidecar, each whole or not at all; until both are there, reading refuses.

    Raises:
        OSError: the folder cannot be written or the disk is full.
    """
    write_bytes(path, engine)
    write_text(sidecar_path(path), json.dumps(dataclasses.asdict(info), indent=1, sort_keys=True) + "\n")


def read_engine_info(path: Path) -> EngineInfo:
    """An engine's sidecar.

    Raises:
        ModelError: it is missing, malformed or of a newer version.
    """
    sidecar = sidecar_path(path)
    if not sidecar.is_file():
        raise ModelError(f"{path} has no sidecar", _REMEDY, expected=f"{sidecar.name} beside it")
    try:
        fields = json.loads(sidecar.read_text(encoding="utf-8"))
        if fields["sidecar_version"] > SIDECAR_VERSION:
            raise ModelError(
                f"{sidecar} is of version {fields['sidecar_version']}",
                "update sal360_ros",
                expected=str(SIDECAR_VERSION),
            )
        fields["spec"] = ModelSpec.from_json(json.dumps(fields["spec"]), str(sidecar))
        fields["compute_capabilities"] = tuple(fields["compute_capabilities"])
        return EngineInfo(**fields)
    except (ValueError, TypeError, KeyError) as error:
        raise ModelError(
            f"{sidecar} cannot be read ({error})", _REMEDY, expected="what was written with the engine"
        ) from None


def read_engine(path: Path) -> tuple[bytes, EngineInfo]:
    """An engine and its sidecar.

    Raises:
        ModelError: the sidecar cannot be read, or the engine is not the one that it describes.
    """
    info = read_engine_info(path)
    engine = path.read_bytes()
    if sha256(engine) != info.engine_sha256:
        raise ModelError(
            f"{path} is cut or is not the engine of its sidecar", _REMEDY, expected="both as they were written"
        )
    return engine, info


def sha256(data: bytes) -> str:
    """The hash of a file's content, hexadecimal."""
    return hashlib.sha256(data).hexdigest()
