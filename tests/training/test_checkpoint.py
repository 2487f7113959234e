"""Checkpoints are complete or absent, and errors name the problem."""

from __future__ import annotations

import errno
import os
import subprocess
import sys
import textwrap
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from torch import nn

from sal360.errors import CheckpointError
from training import checkpoint
from training.checkpoint import load_state, load_weights, newest_checkpoint, read_header, save_checkpoint


class Model(nn.Module):
    def __init__(self, width: int = 4) -> None:
        super().__init__()
        self.encoder = nn.Linear(3, width)
        self.head = nn.Linear(width, 2)


def save(run: Path, step: int, model: nn.Module | None = None, **options: Any) -> Path:
    config = {"encoder": "resnet50", "gamma": 0.5}
    return save_checkpoint(run, step, model or Model(), "contrastive", config, {"step": step}, **options)


def test_weights_header_and_state_come_back(tmp_path: Path) -> None:
    model, other = Model(), Model()
    saved = save(tmp_path, 7, model)
    for path in (saved, tmp_path, tmp_path / "last", saved / "model.safetensors"):
        header = load_weights(path, other, kind="contrastive")
        assert torch.equal(model.head.weight, other.head.weight)
        assert (header.kind, header.step, dict(header.config)) == (
            "contrastive",
            7,
            {"encoder": "resnet50", "gamma": 0.5},
        )
    assert load_state(saved) == {"step": 7}


def test_one_part_of_the_model_can_be_taken(tmp_path: Path) -> None:
    model, encoder = Model(), nn.Linear(3, 4)
    load_weights(save(tmp_path, 1, model), encoder, kind="contrastive", part="encoder")
    assert torch.equal(encoder.weight, model.encoder.weight)


def test_last_points_to_the_newest_and_old_ones_go(tmp_path: Path) -> None:
    for step in (5, 10, 100):
        save(tmp_path, step, keep=2)
    assert sorted(os.listdir(tmp_path)) == ["last", "step-00000010", "step-00000100"]
    assert (tmp_path / "last").resolve() == newest_checkpoint(tmp_path) == tmp_path / "step-00000100"


def test_a_step_is_never_overwritten(tmp_path: Path) -> None:
    save(tmp_path, 5)
    with pytest.raises(CheckpointError, match="step-00000005 exists"):
        save(tmp_path, 5)


def test_memory_order_of_convolutions_does_not_matter(tmp_path: Path) -> None:
    model = nn.Conv2d(3, 4, 3).to(memory_format=torch.channels_last)
    other = nn.Conv2d(3, 4, 3)
    load_weights(save(tmp_path, 1, model), other, kind="contrastive")
    assert torch.equal(model.weight, other.weight)


def absent(run: Path) -> None:
    assert not run.exists()


def other_encoder(run: Path) -> None:
    save(run, 1, Model(width=8))


def other_kind(run: Path) -> None:
    save_checkpoint(run, 1, Model(), "saliency", {}, {})


def truncated(run: Path) -> None:
    path = save(run, 1) / "model.safetensors"
    path.write_bytes(path.read_bytes()[:-5])


def foreign(run: Path) -> None:
    (run / "step-00000001").mkdir(parents=True)
    save_file(Model().state_dict(), run / "step-00000001" / "model.safetensors")


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (absent, "does not exist; give a run folder"),
        (Path.mkdir, "has no checkpoint"),
        (other_encoder, r"does not fit .*resnet50; encoder.weight has the shape \(8, 3\), not \(4, 3\)\)"),
        (other_kind, "holds a saliency model; give the checkpoint of a contrastive model"),
        (truncated, "is broken"),
        (foreign, "was not written by this project's training"),
    ],
)
def test_an_unusable_checkpoint_is_named_and_leaves_the_model(
    tmp_path: Path, damage: Callable[[Path], None], message: str
) -> None:
    run, model = tmp_path / "run", Model()
    before = model.encoder.weight.clone()
    damage(run)
    with pytest.raises(CheckpointError, match=message):
        load_weights(run, model, kind="contrastive")
    assert torch.equal(before, model.encoder.weight)


def test_the_remedy_for_a_broken_checkpoint_is_the_one_before_it_if_there_is_one(tmp_path: Path) -> None:
    for step in (1, 2):
        save(tmp_path, step)
    for step, remedy in ((2, "remove .*step-00000002 to use step-00000001"), (1, "give another checkpoint")):
        weights = tmp_path / f"step-0000000{step}" / "model.safetensors"
        weights.write_bytes(weights.read_bytes()[:-10])
        with pytest.raises(CheckpointError, match=f"is broken .*; {remedy}"):
            load_weights(weights.parent, Model(), kind="contrastive")


@pytest.mark.parametrize(
    "header",
    [
        "[]",
        "1",
        '{"kind": "contrastive", "config": [], "step": 1, "git_revision": ""}',
        '{"kind": "contrastive", "config": {}, "step": "x", "git_revision": ""}',
    ],
)
def test_a_header_of_another_form_is_refused(tmp_path: Path, header: str) -> None:
    path = tmp_path / "other.safetensors"
    save_file(Model().state_dict(), path, {"sal360": header})
    with pytest.raises(CheckpointError, match="was not written by this project"):
        read_header(path)


def test_truncated_state_is_named(tmp_path: Path) -> None:
    saved = save(tmp_path, 1)
    state = saved / "training_state.pt"
    state.write_bytes(state.read_bytes()[:-100])
    with pytest.raises(CheckpointError, match=r"training_state.pt is broken"):
        load_state(saved)


def test_full_disk_leaves_the_old_checkpoint_whole(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    save(tmp_path, 1)
    before = sorted(tmp_path.rglob("*"))

    def full(path: Path, data: bytes) -> None:
        path.write_bytes(data[: len(data) // 2])
        raise OSError(errno.ENOSPC, "No space left on device", str(path))

    monkeypatch.setattr(checkpoint, "_write_flushed", full)
    with pytest.raises(OSError, match="No space left"):
        save(tmp_path, 2)
    assert sorted(tmp_path.rglob("*")) == before
    assert read_header(tmp_path).step == 1


# The child kills itself with SIGKILL before the n-th operation on the disk, for every n until a save gets through.
KILLED_EVERYWHERE = """
    import os, signal, sys
    from pathlib import Path
    from torch import nn
    from training import checkpoint
    from training.checkpoint import newest_checkpoint

    run, model = Path(sys.argv[1]), nn.Linear(300, 300)
    checkpoint.git_revision = lambda: "test"

    def save_and_die(step, fatal):
        seen = 0
        def watch(event, arguments):
            nonlocal seen
            if event in ("open", "os.rename", "os.remove", "os.rmdir", "os.symlink", "os.mkdir", "shutil.rmtree"):
                seen += 1
                if seen == fatal:
                    os.kill(os.getpid(), signal.SIGKILL)
        sys.addaudithook(watch)
        fsync = os.fsync
        os.fsync = lambda handle: (watch("open", ()), fsync(handle))
        checkpoint.save_checkpoint(run, step, model, "contrastive", {}, {"step": step}, keep=1)

    checkpoint.save_checkpoint(run, 1, model, "contrastive", {}, {"step": 1}, keep=1)
    newest, fatal, kills = 1, 0, 0
    while True:
        fatal += 1
        if not (child := os.fork()):
            save_and_die(newest + 1, fatal)
            os._exit(0)
        killed = os.waitpid(child, 0)[1] == signal.SIGKILL
        found = newest_checkpoint(run)
        header = checkpoint.load_weights(found, model, kind="contrastive")
        assert header.step == checkpoint.load_state(found)["step"] in (newest, newest + 1), (header, newest)
        assert checkpoint.read_header(run / "last").step == header.step or killed
        newest = header.step
        kills += killed
        if not killed:
            break
    assert kills >= 10, kills
    assert sorted(os.listdir(run)) == ["last", found.name], os.listdir(run)
"""


def test_kill_at_any_moment_of_saving_leaves_a_whole_checkpoint(tmp_path: Path, repository: Path) -> None:
    command = [sys.executable, "-c", textwrap.dedent(KILLED_EVERYWHERE), str(tmp_path)]
    environment = {**os.environ, "PYTHONPATH": str(repository), "OMP_NUM_THREADS": "1"}
    done = subprocess.run(command, capture_output=True, text=True, env=environment, timeout=120)
    assert done.returncode == 0, done.stderr


def test_a_run_below_a_folder_whose_name_is_not_utf8_is_read(tmp_path: Path) -> None:
    run, model, other = tmp_path / os.fsdecode(b"caf\xe9"), Model(), Model()
    saved = save(run, 1, model)
    assert load_weights(run, other, kind="contrastive").step == 1
    assert torch.equal(model.head.weight, other.head.weight)
    (saved / "model.safetensors").write_bytes(b"cut")
    with pytest.raises(CheckpointError, match=r"model\.safetensors is broken"):
        read_header(run)


def test_a_checkpoint_that_was_copied_in_part_is_named(tmp_path: Path) -> None:
    for step in (1, 2):
        save(tmp_path, step)
    (tmp_path / "step-00000002/model.safetensors").unlink()
    with pytest.raises(CheckpointError, match=r"broken \(it is missing\); remove .*000002 to use step-00000001"):
        load_weights(tmp_path, Model(), kind="contrastive")


def test_a_state_that_is_no_mapping_is_refused(tmp_path: Path) -> None:
    saved = save(tmp_path, 1)
    torch.save([1, 2], saved / "training_state.pt")
    message = r"broken \(it holds a list\); give another checkpoint, or remove .*step-00000001 and start its run again"
    with pytest.raises(CheckpointError, match=message):
        load_state(saved)


def test_a_revision_of_a_project_that_only_contains_an_installed_copy_is_not_ours(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    git = ["git", "-C", str(tmp_path), "-c", "user.name=a", "-c", "user.email=a@b"]
    subprocess.run([*git, "init", "-q"], check=True)
    subprocess.run([*git, "commit", "-q", "--allow-empty", "-m", "theirs"], check=True)
    (tmp_path / "training").mkdir()
    (tmp_path / "training/checkpoint.py").touch()
    monkeypatch.setattr(checkpoint, "__file__", str(tmp_path / "training/checkpoint.py"))
    assert checkpoint.git_revision.__wrapped__() == "unknown"


@pytest.mark.parametrize("step", [1, 2])
def test_a_folder_that_has_a_checkpoint_is_refused_for_another(tmp_path: Path, step: int) -> None:
    save(tmp_path, step)
    with pytest.raises(CheckpointError, match="exists; choose another folder for --output"):
        checkpoint.require_no_checkpoint(tmp_path)
    checkpoint.require_no_checkpoint(tmp_path / "new")
    assert not (tmp_path / "new").exists()
