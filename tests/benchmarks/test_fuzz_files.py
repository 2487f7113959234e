"""benchmarks/fuzz_files.py makes the same corrupted files each time, judges how commands end, and finds no trouble."""

from __future__ import annotations

import filecmp
import importlib
import multiprocessing
import os
import signal
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

pytest.importorskip("av")
pytest.importorskip("torch")


@pytest.fixture(autouse=True)
def benchmarks(repository: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(repository / "benchmarks"))


@pytest.fixture(scope="session")
def originals(tmp_path_factory: pytest.TempPathFactory, repository: Path) -> Path:
    folder = tmp_path_factory.mktemp("fuzz") / "originals"
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(str(repository / "benchmarks"))
        importlib.import_module("fuzz_cases").write_originals(folder)
    return folder


def test_a_case_is_the_same_each_time(originals: Path, tmp_path: Path) -> None:
    fuzz_cases = importlib.import_module("fuzz_cases")
    fuzz_cases.write_originals(tmp_path / "again")
    kinds = set()
    for number in range(60):
        made = []
        for each, of in enumerate((originals, tmp_path / "again")):
            folder = tmp_path / f"{each}-{number}"
            folder.mkdir()
            made.append(fuzz_cases.Spoiler(of, seed=3).make(number, folder)[0])
        first, second = made
        assert str(first) == str(second)
        kinds.add(first.kind)
        if first.path.is_dir():
            compared = filecmp.dircmp(first.path, second.path)
            assert not compared.diff_files
            assert not compared.left_only
        else:
            assert first.path.read_bytes() == second.path.read_bytes()
    assert kinds == set(fuzz_cases.KINDS)


def test_every_mutation_takes_any_bytes() -> None:
    fuzz_cases = importlib.import_module("fuzz_cases")
    for name, (mutate, _) in fuzz_cases.MUTATIONS.items():
        results = {
            mutate(data, fuzz_cases.random.Random(seed))
            for seed in range(20)
            for data in (b"a", b"\0\xff", b"x,y,z\n1,0,0\n" * 100)
        }
        assert all(isinstance(each, bytes) for each in results), name
        assert name == "empty" or any(results), name


@pytest.mark.parametrize(
    ("result", "found"),
    [
        ({"status": 0}, ""),
        ({"status": 1, "lines": ("skipped a.jpg: it is empty; replace it",)}, ""),
        ({"status": 2, "lines": ("error: no; do", "note: a clock was set")}, ""),
        ({"status": 0, "lacks": "3 of 6 frames"}, "status 0, but 3 of 6 frames"),
        ({"status": 2}, "status 2 without a word"),
        ({"status": 1, "lines": ("Corrupt JPEG data",)}, "1 lines on stderr are not ours: Corrupt JPEG data"),
        ({"status": 2, "lines": ("Traceback (most recent call last):",)}, "traceback on stderr"),
        ({"status": 2, "crash": "Traceback\nValueError: 31"}, "traceback: ValueError: 31"),
        ({"status": 2, "lines": ("error: a", "error: b")}, "2 lines on stderr: error: a"),
        ({"status": 1, "command": "predict", "lines": ("skipped a", "skipped a")}, "a line twice: skipped a"),
    ],
)
def test_how_a_command_ends_is_judged(result: dict[str, Any], found: str) -> None:
    fuzz_commands = importlib.import_module("fuzz_commands")
    fields = {"command": "source", "status": 0, "lines": (), "crash": "", "lacks": ""}
    assert fuzz_commands.finding(fuzz_commands.Result(**{**fields, **result})) == found


def test_frames_that_nothing_in_the_file_counts_are_an_outcome_and_no_finding() -> None:
    fuzz_commands = importlib.import_module("fuzz_commands")
    result = fuzz_commands.Result("source", 0, (), "", "", is_unnoticed=True)
    assert fuzz_commands.finding(result) == ""
    assert fuzz_commands.outcome(result) == "fewer frames, which the file does not show"


def test_memory_that_grows_is_a_trouble() -> None:
    fuzz_files = importlib.import_module("fuzz_files")
    flat = fuzz_files.Tally(memory_mb=[500.0 + 50 * (number % 7 == 0) for number in range(900)], peak_mb=600.0)
    assert fuzz_files.judge(flat)["troubles"] == []
    growing = fuzz_files.Tally(memory_mb=[500.0 + number for number in range(900)], peak_mb=3000.0)
    assert [each.split(",")[0] for each in fuzz_files.judge(growing)["troubles"]] == [
        "memory grew by 300 MB",
        "memory reached 3000 MB",
    ]


def die(_job: Any, connection: Any) -> None:
    """A worker that ends by a signal on its second case."""
    connection.send({})
    connection.recv()
    connection.send({"finding": "", "kind": "picture", "outcome": "complete"})
    connection.recv()
    os.kill(os.getpid(), signal.SIGKILL)


def test_a_worker_that_dies_is_a_finding_and_is_replaced(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    fuzz_files = importlib.import_module("fuzz_files")
    monkeypatch.setattr(fuzz_files, "work", die)
    monkeypatch.setattr(fuzz_files, "write_originals", lambda _: None)
    fork = SimpleNamespace(get_context=lambda _: multiprocessing.get_context("fork"))
    monkeypatch.setattr(fuzz_files, "multiprocessing", fork)
    tally = fuzz_files.run(range(4), 0, tmp_path)
    assert [each["finding"] for each in tally.findings] == ["the process ended by SIGKILL"] * 2
    assert tally.workers == 2
    assert "SIGKILL" in capsys.readouterr().err


@pytest.mark.slow
def test_some_corrupted_files_of_every_kind_have_no_finding(tmp_path: Path) -> None:
    fuzz_files = importlib.import_module("fuzz_files")
    figures = fuzz_files.judge(fuzz_files.run(range(40), 7, tmp_path))
    assert figures["troubles"] == []
    assert figures["files"] == 40
    assert len({each.split(":")[0] for each in figures["outcomes"]}) >= 5
