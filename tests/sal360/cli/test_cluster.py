"""`sal360 predict --ray`: which inputs are left, what a worker writes, and, where Ray is installed, whole runs."""

from __future__ import annotations

import io
import tarfile

import cv2
import numpy as np
import pytest

from sal360.cli import main
from sal360.cli.cluster import Unit, Worker, find_units, pending
from sal360.cli.predict import _parser
from sal360.errors import DataError

fsspec = pytest.importorskip("fsspec")


@pytest.fixture
def pictures(tmp_path):
    """Three panoramas and a picture that is none, in a folder with a subfolder."""
    folder = tmp_path / "in"
    (folder / "deep").mkdir(parents=True)
    generator = np.random.default_rng(0)
    for name in ("a.png", "b.png", "deep/c.png"):
        cv2.imwrite(str(folder / name), generator.integers(0, 256, (32, 64, 3), dtype=np.uint8))
    cv2.imwrite(str(folder / "square.png"), np.zeros((32, 32, 3), np.uint8))
    (folder / "notes.md").write_text("no picture")
    return folder


def worker(output, tiny_model):
    return Worker(_parser().parse_args(["in", f"--output={output}", f"--model={tiny_model}", "--ray"]))


def handled(made, units):
    return made(
        {"address": np.array([each.address for each in units]), "name": np.array([each.name for each in units])}
    )


def test_folders_lists_and_shards_are_found_with_unique_names(pictures, tmp_path):
    assert [each.name for each in find_units([str(pictures)], recursive=False)] == ["a", "b", "square"]
    assert [each.name for each in find_units([str(pictures)], recursive=True)] == ["a", "b", "deep/c", "square"]
    (tmp_path / "list.txt").write_text(f"in/a.png\n\n{pictures}/b.png\n")
    units = find_units([str(tmp_path / "list.txt"), str(pictures / "deep" / "c.png"), str(pictures)], recursive=False)
    assert [each.name for each in units] == ["a", "b", "c", "square"]
    with pytest.raises(DataError, match="does not exist"):
        find_units([str(tmp_path / "missing")], recursive=False)
    with pytest.raises(DataError, match="no pictures"):
        find_units([str(tmp_path)], recursive=False)


def test_two_pictures_of_one_name_get_two_results(pictures):
    (pictures / "deep" / "a.png").write_bytes((pictures / "a.png").read_bytes())
    units = find_units([str(pictures / "a.png"), str(pictures / "deep" / "a.png")], recursive=False)
    assert [each.name for each in units] == ["a", "a_2"]


@pytest.mark.parametrize("where", ["folder", "memory"])
def test_a_worker_writes_maps_once_and_lists_what_it_cannot_predict(pictures, tmp_path, tiny_model, where):
    output = str(tmp_path / "out") if where == "folder" else f"memory://{tmp_path.name}"
    units = find_units([str(pictures)], recursive=True)
    result = handled(worker(output, tiny_model), units)
    assert result["maps"].tolist() == [1, 1, 1, 0]
    assert [bool(each) for each in result["error"]] == [False, False, False, True]
    assert "square.png" in result["error"][3]
    system, path = fsspec.core.url_to_fs(output)
    density = np.load(io.BytesIO(system.cat_file(f"{path}/deep/c.npy")))
    assert density.ndim == 2
    assert system.exists(f"{path}/deep/c_overlay.png")
    assert [each.name for each in pending(units, output)] == ["square"]


def test_a_shard_becomes_a_shard_of_maps(pictures, tmp_path, tiny_model):
    with tarfile.open(tmp_path / "000.tar", "w") as shard:
        for name in ("a.png", "square.png", "b.png", "notes.md"):
            shard.add(pictures / name, name)
    unit = Unit(str(tmp_path / "000.tar"), "000")
    result = handled(worker(tmp_path / "out", tiny_model), [unit])
    assert result["maps"].tolist() == [2]
    assert "000.tar:square.png" in result["error"][0]
    with tarfile.open(tmp_path / "out" / "000_maps.tar") as maps:
        assert maps.getnames() == ["a.npy", "b.npy"]
    assert pending([unit], str(tmp_path / "out")) == []


def test_without_ray_there_is_a_one_line_error(pictures, monkeypatch, capsys):
    monkeypatch.setitem(__import__("sys").modules, "ray", None)
    assert main(["predict", str(pictures), "--ray"]) == 2
    assert '".[cluster]"' in capsys.readouterr().err


@pytest.mark.slow
def test_a_run_with_ray_writes_every_map_and_continues(pictures, tmp_path, tiny_model, capsys):
    pytest.importorskip("ray.data")
    options = [
        "predict",
        str(pictures),
        f"--output={tmp_path / 'out'}",
        f"--model={tiny_model}",
        "--ray",
        "--device=cpu",
    ]
    assert main(options) == 1  # the square picture
    assert "2 maps in" in capsys.readouterr().out
    assert sorted(each.name for each in (tmp_path / "out").glob("*.npy")) == ["a.npy", "b.npy"]
    (tmp_path / "out" / "a.npy").unlink()
    (pictures / "square.png").unlink()
    assert main(options) == 0
    assert "1 maps in" in capsys.readouterr().out
