"""What import-linter cannot see: which packages a module imports the moment that it is imported itself."""

from __future__ import annotations

import subprocess
import sys

LIGHT_IMPORTS = """
import importlib, pkgutil, sys
import sal360
for module in pkgutil.walk_packages(sal360.__path__, "sal360."):
    if module.name != "sal360.__main__":
        importlib.import_module(module.name)
heavy = {"matplotlib", "onnx", "onnxruntime", "openvino", "tensorrt", "tensorrt_rtx", "torch"}
print(*sorted(heavy & set(sys.modules)))
"""
POSIX_ONLY = """
import sys
for name in ("fcntl", "grp", "pwd", "resource", "termios"):
    sys.modules[name] = None
"""


def test_the_library_is_imported_on_any_system() -> None:
    subprocess.run([sys.executable, "-c", POSIX_ONLY + LIGHT_IMPORTS], check=True)


def test_the_library_imports_heavy_packages_only_where_they_are_used() -> None:
    done = subprocess.run([sys.executable, "-c", LIGHT_IMPORTS], capture_output=True, text=True, check=True)
    assert done.stdout.split() == []
