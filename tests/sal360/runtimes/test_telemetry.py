"""Nothing that a runtime does is reported to anybody."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest


def test_openvino_reports_nothing_and_leaves_no_identifier(tiny_model: Path, tmp_path: Path, repository: Path) -> None:
    pytest.importorskip("openvino")
    program = f"""
import sys
from sal360.runtimes import open_model
open_model({str(tiny_model)!r}, backend="openvino", device="cpu").close()
print([name for name in sys.modules if name.startswith("openvino_telemetry.")])
"""
    environment = {name: value for name, value in os.environ.items() if name != "CI"}  # which also turns it off
    ran = subprocess.run(
        [sys.executable, "-c", program],
        capture_output=True,
        text=True,
        check=True,
        cwd=repository,
        env={**environment, "HOME": str(tmp_path)},
    )
    assert ran.stdout == "[]\n"
    assert not list(tmp_path.iterdir())
