"""Every benchmark that is stopped ends without a traceback, and with the status that shells expect."""

from __future__ import annotations

import argparse
import runpy
import signal
from pathlib import Path

import pytest

from tests.child_signals import sigint_of_children

# faulty_node.py is an executable of the node, which has its own end
SCRIPTS = [
    each
    for each in sorted((Path(__file__).parents[2] / "benchmarks").glob("*.py"))
    if "__main__" in each.read_text() and each.stem != "faulty_node"
]


@pytest.mark.parametrize("script", SCRIPTS, ids=lambda each: each.stem)
@pytest.mark.parametrize(("number", "status"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_a_signal_ends_a_benchmark_in_one_line(
    script: Path,
    number: signal.Signals,
    status: int,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    def interrupted(*_: object) -> None:
        assert signal.getsignal(number) is not signal.SIG_DFL
        signal.raise_signal(number)

    monkeypatch.syspath_prepend(str(script.parent))
    monkeypatch.setattr(argparse.ArgumentParser, "parse_args", interrupted)
    try:
        with sigint_of_children(), pytest.raises(SystemExit) as ended:  # ignored by `nohup make test &`
            runpy.run_path(str(script), run_name="__main__")
    except ModuleNotFoundError as error:
        pytest.skip(f"{error.name} is not installed")
    assert ended.value.code == status
    assert capsys.readouterr().err == ("interrupted\n" if number == signal.SIGINT else "")
