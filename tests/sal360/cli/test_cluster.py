"""`sal360 predict --ray`: which inputs are found, what a worker writes, and, where Ray is installed, whole runs."""

from __future__ import annotations

import io
import json
import os
import signal
import subprocess
import sys
import tarfile
import tempfile
import time
import uuid
from pathlib import Path

import cv2
import numpy as np
import pytest

from sal360.cli import cluster, main
from sal360.cli.cluster import Share, Unit, Worker, find_units, tasks
from sal360.cli.predict import _parser
from sal360.errors import DataError, FrameError
from sal360.predictor import Predictor
from sal360.replay.recorders import OverlayVideo
from sal360.sources import stores


def write_picture(path, size=(32, 64), seed=0):
    path.parent.mkdir(parents=True, exist_ok=True)
    assert cv2.imwrite(str(path), np.random.default_rng(seed).integers(0, 256, (*size, 3), dtype=np.uint8))
    return path


@pytest.fixture
def pictures(tmp_path):
    """Three panoramas and a picture that is none, in a folder with a subfolder."""
    folder = tmp_path / "in"
    for seed, name in enumerate(("a.png", "b.png", "deep/c.png")):
        write_picture(folder / name, seed=seed)
    write_picture(folder / "square.png", (32, 32))
    (folder / "notes.md").write_text("no picture")
    return folder


@pytest.fixture
def output(place):
    return place


def options_of(output, *arguments):
    return _parser().parse_args(["in", f"--output={output}", "--device=cpu", "--ray", *arguments])


@pytest.fixture
def worker(tiny_model):
    """A worker for an output, with options."""

    def opened(output, *arguments, **settings):
        return Worker(options_of(output, f"--model={tiny_model}", *arguments), **settings)

    return opened


def handled(made, units):
    """The errors of each unit, in order."""
    answers = made({"units": json.dumps(list(enumerate(units)))})
    assert [each["unit"] for each in answers] == list(range(len(units)))
    return [each["errors"] for each in answers]


def names(units):
    return [each.name for each in units]


# --- which inputs there are ---


def test_folders_and_their_subfolders_are_searched(pictures):
    write_picture(pictures / "._a.png")
    write_picture(pictures / "@eaDir" / "thumbnail.png")
    assert names(find_units([str(pictures)], recursive=False)) == ["a", "b", "square"]
    assert names(find_units([str(pictures)], recursive=True)) == ["a", "b", "deep/c", "square"]


def test_results_beside_the_inputs_are_no_inputs(pictures):
    for each in ("a_overlay.png", "000.tar", "000_maps.tar", "other_maps.tar", "own_overlay.png"):
        (pictures / each).touch()
    expected = ["000", "a", "b", "other_maps", "own_overlay", "square"]
    assert names(find_units([str(pictures)], recursive=False)) == expected


def test_the_output_in_a_folder_of_inputs_is_no_input(pictures):
    write_picture(pictures / "maps" / "b_overlay.png")  # whose map was not written yet
    (pictures / "maps" / "000_maps.tar").touch()
    expected = ["a", "b", "deep/c", "square"]
    assert names(find_units([str(pictures)], recursive=True, output=str(pictures / "maps"))) == expected
    assert names(find_units([str(pictures / "maps")], recursive=True, output=str(pictures / "maps"))) != []


def test_folders_of_an_object_store_are_searched():
    pytest.importorskip("fsspec")
    place = f"memory://{uuid.uuid4().hex}/in"
    for each in ("a.png", "deep/c.png", ".hidden/d.png"):
        stores.write(f"{place}/{each}", b"")
    assert find_units([place], recursive=True) == [Unit(f"{place}/a.png", "a"), Unit(f"{place}/deep/c.png", "deep/c")]


def test_a_list_is_relative_to_itself_and_names_its_results_by_their_paths(pictures, tmp_path):
    (tmp_path / "list.txt").write_text(f"in/a.png\n\n ./in/deep/../b.png \n{pictures}/deep/c.png\n/other/pano.jpg\n")
    units = find_units([str(tmp_path / "list.txt")], recursive=False)
    assert sorted(names(units)) == ["in/a", "in/b", "in/deep/c", "other/pano"]
    assert {str(pictures / "b.png"), "/other/pano.jpg"} <= {each.address for each in units}


def test_a_list_in_an_object_store():
    pytest.importorskip("fsspec")
    place = uuid.uuid4().hex
    stores.write(f"memory://{place}/list.txt", b"x/a.png\nmemory://elsewhere/b.png\n")
    units = find_units([f"memory://{place}/list.txt"], recursive=False)
    assert set(units) == {Unit(f"memory://{place}/x/a.png", "x/a"), Unit("memory://elsewhere/b.png", "elsewhere/b")}


@pytest.mark.parametrize(
    ("entry", "name"),
    [
        ("https://user:secret@host/a@2x.jpg", "host/a@2x"),
        ("memory://x//y/a.jpg", "x/y/a"),
        ("memory://x/../../../y/a.jpg", "y/a"),
    ],
)
def test_results_of_a_list_stay_in_the_output_and_have_no_passwords(tmp_path, monkeypatch, entry, name):
    monkeypatch.setattr(stores, "whole_address", str)
    (tmp_path / "list.txt").write_text(entry)
    assert find_units([str(tmp_path / "list.txt")], recursive=False) == [Unit(entry, name)]


def test_two_pictures_of_one_name_get_two_results_in_every_order(pictures):
    inputs = [str(write_picture(pictures / each)) for each in ("a.jpg", "deep/a.png")] + [str(pictures / "a.png")]
    units = find_units(inputs, recursive=False)
    assert sorted(names(units)) == ["a", "a_2", "a_3"]
    assert find_units(inputs[::-1], recursive=False) == units


def test_an_input_twice_is_one(pictures):
    assert len(find_units([str(pictures), str(pictures / "a.png")], recursive=False)) == 3


def test_inputs_that_are_not_there_or_no_files_are_refused(tmp_path):
    with pytest.raises(DataError, match="missing does not exist"):
        find_units([str(tmp_path / "missing")], recursive=False)
    with pytest.raises(DataError, match="--recursive"):
        find_units([str(tmp_path)], recursive=False)
    os.mkfifo(tmp_path / "pipe.jpg")
    with pytest.raises(DataError, match="no file"):
        find_units([str(tmp_path / "pipe.jpg")], recursive=False)


def test_every_worker_gets_several_tasks_and_a_million_pictures_no_million_tasks():
    def sizes(number, workers):
        return [len(each) for each in tasks([Unit(f"/{each}.jpg", str(each)) for each in range(number)], workers)]

    assert sizes(100, 2) == [12] * 8 + [4]
    assert sizes(3, 64) == [1, 1, 1]
    assert set(sizes(5000, 8)) == {16, 8}
    assert len(sizes(1_000_000, 8)) == 10_000
    mixed = [Unit("/a.jpg", "a"), Unit("/b.mp4", "b"), Unit("/c.tar", "c")]
    assert tasks(mixed, 1) == [[mixed[1]], [mixed[2]], [mixed[0]]]


@pytest.mark.parametrize(
    ("nodes", "arguments", "expected"),
    [
        ([{"CPU": 8}], [], Share(8, 1, 0)),
        ([{"CPU": 8}, {"CPU": 3}], ["--threads=2"], Share(5, 2, 0)),
        ([{"CPU": 2}], ["--threads=8"], Share(1, 2, 0)),
        ([{}], [], Share(1, 1, 0)),  # a head alone, whose cluster grows
        ([{"CPU": 128, "GPU": 8}, {"CPU": 16, "GPU": 2}, {"CPU": 64}], [], Share(10, 8, 1)),
        ([{"CPU": 16, "GPU": 1}], ["--device=cpu"], Share(16, 1, 0)),
    ],
)
def test_workers_fill_the_cluster(nodes, arguments, expected):
    alive = [{"Alive": True, "Resources": each} for each in nodes]
    dead = {"Alive": False, "Resources": {"CPU": 1000, "GPU": 1000}}
    options = _parser().parse_args(["in", "--ray", *arguments])
    assert Share.of([*alive, dead], options) == expected


# --- what a worker does ---


@pytest.mark.parametrize("together", [1, 3, 16])
def test_a_worker_writes_maps_and_lists_what_it_cannot_predict(pictures, output, worker, tiny_model, together):
    units = find_units([str(pictures)], recursive=True)
    errors = handled(worker(output, together=together, threads=2), units)
    assert errors[:3] == ["", "", ""]
    assert "square.png" in errors[3]
    assert "2:1" in errors[3] or "twice" in errors[3]
    density = np.load(io.BytesIO(stores.read(f"{output}/deep/c.npy")))
    with Predictor(tiny_model, device="cpu") as predictor:
        expected = predictor.predict(cv2.imread(str(pictures / "deep" / "c.png")), "bgr")
    np.testing.assert_allclose(density, expected, rtol=1e-4)
    assert "deep/c_overlay.png" in stores.files_in(output)


def test_what_is_done_is_not_done_again(pictures, tmp_path, worker):
    units = find_units([str(pictures / "a.png"), str(pictures / "b.png")], recursive=False)
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "a.npy").write_bytes(b"whole already")
    assert handled(worker(tmp_path / "out"), units) == ["", ""]
    assert (tmp_path / "out" / "a.npy").read_bytes() == b"whole already"
    assert (tmp_path / "out" / "b.npy").stat().st_size > 128


def test_maps_alone(pictures, tmp_path, worker):
    handled(worker(tmp_path / "out", "--no-overlays"), find_units([str(pictures / "a.png")], recursive=False))
    assert os.listdir(tmp_path / "out") == ["a.npy"]


def test_a_file_that_cannot_be_written_is_an_error_of_its_picture(pictures, tmp_path, worker):
    (tmp_path / "out" / "a.npy").mkdir(parents=True)
    made = worker(tmp_path / "out", "--no-overlays")
    made._is_done = lambda _: False
    errors = handled(made, find_units([str(pictures / "a.png"), str(pictures / "b.png")], recursive=False))
    assert "a.npy" in errors[0]
    assert errors[1] == ""


def test_errors_about_names_that_are_not_utf_8_can_be_sent(tmp_path, worker):
    (tmp_path / "\udce9.png").write_bytes(write_picture(tmp_path / "square.png", (32, 32)).read_bytes())
    (tmp_path / "\udce9.jpg").write_bytes(b"no picture")
    errors = handled(worker(tmp_path / "out"), find_units([str(tmp_path)], recursive=False))
    assert [each.encode().count(rb"\udce9") for each in errors] == [0, 1, 1]


def test_a_map_that_is_not_finite_costs_no_other_its_map(pictures, tmp_path, worker, monkeypatch):
    made = worker(tmp_path / "out", together=3)
    predict = made._predictor.predict_batch

    def refuse_black(frames, channels):
        if not all(each.any() for each in frames):
            raise FrameError("not finite", "choose another", reason="map_not_finite")
        return predict(frames, channels)

    monkeypatch.setattr(made._predictor, "predict_batch", refuse_black)
    cv2.imwrite(str(pictures / "b.png"), np.zeros((32, 64, 3), np.uint8))
    errors = handled(made, find_units([str(pictures)], recursive=True)[:3])
    assert [bool(each) for each in errors] == [False, True, False]
    assert f"{pictures}/b.png: not finite" in errors[1]


def test_unexpected_errors_of_one_file_are_listed_and_those_of_the_model_end_the_worker(
    pictures, tmp_path, worker, monkeypatch
):
    made = worker(tmp_path / "out")
    units = find_units([str(pictures / "a.png"), str(pictures / "b.png")], recursive=False)
    read = stores.read
    monkeypatch.setattr(stores, "read", lambda address: 1 / 0 if address.endswith("a.png") else read(address))
    assert [bool(each) for each in handled(made, units)] == [True, False]
    made._predictor.close()
    (tmp_path / "out" / "b.npy").unlink()
    (answer,) = made({"units": json.dumps(list(enumerate(units)))})
    assert answer["unit"] == -1
    assert "closed" in answer["errors"]


def test_a_model_that_cannot_be_opened_is_the_answer(pictures, tmp_path):
    made = Worker(options_of(tmp_path / "out", f"--model={tmp_path / 'none.onnx'}"))
    (answer,) = made({"units": json.dumps([(0, Unit(str(pictures / "a.png"), "a"))])})
    assert answer["unit"] == -1
    assert "none.onnx" in answer["errors"]


def pack(path, files):
    with tarfile.open(path, "w", format=tarfile.USTAR_FORMAT) as shard:
        for file, name in files:
            shard.add(file, name)
    return path


def test_a_shard_becomes_a_shard_of_maps_and_a_list_of_errors(pictures, tmp_path, output, worker):
    names_in = ("a.png", "square.png", "b.png", "notes.md")
    files = [*((pictures / name, name) for name in names_in), (pictures / "a.png", "x/._a.png")]
    files.append((write_picture(tmp_path / "a.jpg"), "a.jpg"))
    unit = Unit(str(pack(tmp_path / "000.tar", files)), "000")
    made = worker(output)
    (errors,) = handled(made, [unit])
    assert errors.count("\n") == 0
    assert "000.tar:square.png" in errors
    assert stores.read(f"{output}/000_errors.txt").decode() == f"{errors}\n"
    with tarfile.open(fileobj=io.BytesIO(stores.read(f"{output}/000_maps.tar"))) as maps:
        assert maps.getnames() == ["a.npy", "b.npy", "a.jpg.npy"]
        assert np.load(io.BytesIO(maps.extractfile("b.npy").read())).ndim == 2
    assert handled(made, [unit]) == [""]  # done, and its errors remain in their file
    assert stores.exists(f"{output}/000_errors.txt")
    stores.remove(f"{output}/000_maps.tar")
    pack(tmp_path / "000.tar", [(pictures / "a.png", "a.png")])
    assert handled(made, [unit]) == [""]
    assert not stores.exists(f"{output}/000_errors.txt")


def test_of_a_cut_shard_the_maps_before_the_cut_are_kept(pictures, tmp_path, worker):
    whole = pack(tmp_path / "000.tar", [(pictures / "a.png", "a.png"), (pictures / "b.png", "b.png")]).read_bytes()
    (tmp_path / "000.tar").write_bytes(whole[: whole.index(b"b.png") + 600])
    (tmp_path / "001.tar").write_bytes(b"no tar file at all" * 100)
    pack(tmp_path / "002.tar", [(pictures / "notes.md", "notes.md")])
    units = [Unit(str(tmp_path / f"00{each}.tar"), f"00{each}") for each in range(3)]
    made = worker(tmp_path / "out")
    errors = [handled(made, [unit])[0] for unit in units]
    assert ["damaged or cut" in errors[0], "no tar file" in errors[1], "no pictures" in errors[2]] == [True] * 3
    with tarfile.open(tmp_path / "out" / "000_maps.tar") as maps:
        assert maps.getnames() == ["a.npy"]
    assert sorted(os.listdir(tmp_path / "out")) == ["000_errors.txt", "000_maps.tar"]


@pytest.mark.parametrize("damage", [b"x" * 512, b""])
def test_a_shard_with_a_damaged_header_is_not_taken_for_a_shorter_one(pictures, tmp_path, worker, damage):
    whole = pack(tmp_path / "000.tar", [(pictures / "a.png", "a.png"), (pictures / "b.png", "b.png")]).read_bytes()
    header = whole.index(b"b.png")
    (tmp_path / "000.tar").write_bytes(whole[:header] + (damage + whole[header + 512 :] if damage else whole[:100]))
    (errors,) = handled(worker(tmp_path / "out"), [Unit(str(tmp_path / "000.tar"), "000")])
    assert "000.tar is damaged or cut" in errors
    with tarfile.open(tmp_path / "out" / "000_maps.tar") as maps:
        assert maps.getnames() == ["a.npy"]


@pytest.fixture
def ride(tmp_path):
    """A video of three frames."""
    pytest.importorskip("av")
    with OverlayVideo(tmp_path / "ride.mp4") as video:
        for index in range(3):
            video.write(np.full((64, 128, 3), 50 * index, np.uint8), index * 10**8)
    return tmp_path / "ride.mp4"


@pytest.mark.parametrize(("maps", "last"), [("npy", "ride.npy"), ("npz", "ride.npz"), ("video", "ride_maps.mkv")])
def test_a_video_gets_the_files_that_predict_writes(ride, tmp_path, worker, maps, last):
    unit = Unit(str(ride), "ride")
    made = worker(tmp_path / "out", f"--maps={maps}")
    assert handled(made, [unit]) == [""]
    beside = [] if maps == "npz" else ["ride_stamps.npy"]
    assert sorted(os.listdir(tmp_path / "out")) == sorted([last, *beside, "ride_overlay.mp4"])
    assert unit.last_file(maps) == last
    assert made._is_done(unit)


def test_the_maps_of_a_video_alone(ride, tmp_path, worker):
    assert handled(worker(tmp_path / "out", "--no-overlays"), [Unit(str(ride), "ride")]) == [""]
    assert sorted(os.listdir(tmp_path / "out")) == ["ride.npy", "ride_stamps.npy"]


def test_a_video_of_an_object_store_that_cannot_be_read_is_named_by_its_address(worker):
    pytest.importorskip("fsspec")
    pytest.importorskip("av")
    place = f"memory://{uuid.uuid4().hex}"
    stores.write(f"{place}/ride.mp4", b"no video")
    (errors,) = handled(worker(f"{place}/out"), [Unit(f"{place}/ride.mp4", "ride")])
    assert f"{place}/ride.mp4" in errors
    assert tempfile.gettempdir() not in errors
    assert stores.files_in(f"{place}/out") == []


# --- the command, with a worker of this process instead of Ray's ---


@pytest.fixture
def run(monkeypatch, tiny_model, tmp_path, capsys):
    """Runs the command; returns its status, its output and its errors."""

    def answers(units, options):
        made = Worker(options)
        for task in tasks(units, 2):
            numbers = [(units.index(unit), unit) for unit in task]
            for answer in made({"units": json.dumps(numbers)}):
                yield units[answer["unit"]], answer["errors"]

    monkeypatch.setattr(cluster, "_answers", answers)
    monkeypatch.setattr(cluster, "require_modules", lambda *_: None)

    def run_it(*arguments):
        common = ["--ray", f"--model={tiny_model}", f"--output={tmp_path / 'out'}", "--device=cpu"]
        status = main(["predict", *common, *map(str, arguments)])
        return status, *capsys.readouterr()

    return run_it


def test_a_command_continues_and_lists_what_has_no_maps(run, pictures, tmp_path):
    status, out, err = run(pictures)
    assert status == 1
    assert "2 of 3 inputs have maps" in out
    assert "1 error is listed in" in out
    assert "skipped: " in err
    (line,) = (tmp_path / "out" / "failures.txt").read_text().splitlines()
    assert line.startswith(f"{pictures}/square.png")
    before = (tmp_path / "out" / "a.npy").stat().st_mtime_ns
    (tmp_path / "out" / "b.npy").unlink()
    write_picture(pictures / "square.png")
    status, out, _ = run(pictures)
    assert (status, "3 of 3 inputs have maps" in out, ", 1 of them from before" in out) == (0, True, True)
    assert not (tmp_path / "out" / "failures.txt").exists()
    assert (tmp_path / "out" / "a.npy").stat().st_mtime_ns == before


def test_a_command_whose_output_lies_in_its_input_continues(run, pictures):
    (pictures / "square.png").unlink()
    pack(pictures / "000.tar", [(pictures / "a.png", "a.png")])
    for _ in range(2):
        status, out, _ = run(pictures, "--recursive", f"--output={pictures / 'maps'}")
        assert (status, "4 of 4 inputs have maps" in out) == (0, True)


def test_a_store_that_refuses_is_one_line(run, monkeypatch):
    memory = pytest.importorskip("fsspec").filesystem("memory")

    def refuse(*_):
        raise RuntimeError("no credentials")

    monkeypatch.setattr(type(memory), "isdir", refuse)
    status, _, err = run("memory://bucket/folder")
    assert status == 2
    assert err.startswith("error: memory://bucket/folder cannot be used (RuntimeError: no credentials); check")
    assert err.count("\n") == 1


def test_videos_without_their_package_are_refused_before_pictures_are_predicted(run, pictures, tmp_path, monkeypatch):
    def without_av(*modules):
        if "av" in modules:
            raise ModuleNotFoundError("No module named 'av'", name="av")

    monkeypatch.setattr(cluster, "require_modules", without_av)
    (pictures / "square.png").rename(pictures / "ride.mp4")
    status, _, err = run(pictures)
    assert (status, (tmp_path / "out").exists()) == (2, False)
    assert "the Python module av is missing" in err
    (pictures / "ride.mp4").unlink()
    assert run(pictures)[0] == 0


def test_errors_within_a_shard_are_listed_by_every_later_command(run, pictures, tmp_path):
    pack(tmp_path / "000.tar", [(pictures / "a.png", "a.png"), (pictures / "square.png", "square.png")])
    for _ in range(2):
        status, out, _ = run(tmp_path / "000.tar")
        assert status == 1
        assert "1 of 1 inputs have maps" in out
        assert "000.tar:square.png" in (tmp_path / "out" / "failures.txt").read_text()


def test_inputs_without_an_answer_or_without_visible_maps_are_failures(run, pictures, tmp_path, monkeypatch):
    answers = cluster._answers

    def worse(units, options):
        for unit, errors in answers(units, options):
            if unit.name == "b":  # written on another machine
                (tmp_path / "out" / "b.npy").unlink()
            if unit.name == "a":  # its worker died again and again
                (tmp_path / "out" / "a.npy").unlink()
                continue
            yield unit, errors

    monkeypatch.setattr(cluster, "_answers", worse)
    status, out, _ = run(pictures)
    assert (status, "0 of 3 inputs have maps" in out) == (1, True)
    lines = (tmp_path / "out" / "failures.txt").read_text().splitlines()
    assert ["a.png: its worker died" in lines[0], "b.png: its maps are not in" in lines[1]] == [True, True]
    assert len(lines) == 3


@pytest.mark.usefixtures("run", "pictures")
def test_paths_are_valid_in_the_folder_of_every_worker(tmp_path, monkeypatch):
    seen = []
    monkeypatch.setattr(cluster, "_answers", lambda units, options: seen.append((units, options)) or iter(()))
    monkeypatch.chdir(tmp_path)
    (tmp_path / "lens.yaml").write_text("model: dual_fisheye\n")
    assert main(["predict", "in", "--output=out", "--model=m.onnx", "--camera=lens.yaml", "--ray"]) == 1
    ((units, options),) = seen
    assert all(Path(each.address).is_absolute() for each in units)
    assert [options.output, options.model, options.camera.file] == [
        str(tmp_path / each) for each in ("out", "m.onnx", "lens.yaml")
    ]


@pytest.mark.parametrize(
    ("arguments", "said"),
    [(["--html"], "--html"), (["--seconds=3"], "--seconds"), (["--device=cuda:1"], "set cuda")],
)
def test_options_that_do_not_go_with_ray_are_refused(run, pictures, arguments, said):
    status, _, err = run(pictures, *arguments)
    assert status == 2
    assert said in err
    assert err.count("\n") == 1


def test_without_ray_there_is_a_one_line_error(pictures, monkeypatch, capsys):
    monkeypatch.setitem(sys.modules, "ray", None)
    assert main(["predict", str(pictures), "--ray"]) == 2
    assert '".[cluster]"' in capsys.readouterr().err


class NoCluster:
    """What of Ray is used, where nothing answers."""

    class data:
        """The module."""

    @staticmethod
    def init(address, **_):
        raise ConnectionError(f"Failed to connect to Ray cluster at {address}\nsee the manual")


@pytest.fixture
def no_cluster(monkeypatch):
    """Ray, as it is where no cluster answers."""
    monkeypatch.setitem(sys.modules, "ray", NoCluster)
    monkeypatch.setitem(sys.modules, "ray.data", NoCluster.data)
    monkeypatch.setattr(cluster, "require_modules", lambda *_: None)


@pytest.mark.usefixtures("no_cluster")
def test_a_cluster_that_does_not_answer_is_one_line(pictures, tmp_path, capsys):
    assert main(["predict", str(pictures), f"--output={tmp_path / 'out'}", "--ray=192.0.2.1:6379"]) == 2
    error = capsys.readouterr().err.splitlines()[-1]
    assert "no Ray cluster at 192.0.2.1:6379 (Failed to connect to Ray cluster at 192.0.2.1:6379); start one" in error


@pytest.mark.usefixtures("no_cluster")
def test_a_ray_that_does_not_start_here_is_one_line(pictures, tmp_path, monkeypatch, capsys):
    def init(*_, **__):
        raise RuntimeError

    monkeypatch.setattr(NoCluster, "init", init)
    assert main(["predict", str(pictures), f"--output={tmp_path / 'out'}", "--ray"]) == 2
    error = capsys.readouterr().err.splitlines()[-1]
    assert "Ray does not start on this machine, or the cluster in RAY_ADDRESS does not answer (RuntimeError)" in error


# --- with Ray ---


def predict_with_ray(folder, output, model, *arguments, start=("-m", "sal360")):
    """A command on two workers, as a process with a session of its own."""
    threads = max(1, (os.cpu_count() or 2) // 2)
    command = [sys.executable, *start, "predict", folder, f"--output={output}", f"--model={model}"]
    command += ["--device=cpu", f"--threads={threads}", "--ray", *arguments]
    return subprocess.Popen(
        list(map(str, command)), stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, start_new_session=True
    )


@pytest.fixture
def many(tmp_path):
    """Fifty large panoramas, which take seconds, and one that is none."""
    pytest.importorskip("ray.data", reason="Ray is not installed: see the extra cluster")
    pytest.importorskip("psutil")
    write_picture(tmp_path / "many" / "00.jpg", (1024, 2048))
    for index in range(1, 50):
        (tmp_path / "many" / f"{index:02}.jpg").write_bytes((tmp_path / "many" / "00.jpg").read_bytes())
    write_picture(tmp_path / "many" / "square.png", (32, 32))
    return tmp_path / "many"


def wait_for_maps(number, output, process):
    while len(found := sorted(output.glob("[0-9]*.npy"))) < number:
        assert process.poll() is None, process.communicate()[0]
        time.sleep(0.01)
    assert len(found) < 50
    return found


def check_all_maps(output, said):
    assert "50 of 51 inputs have maps" in said
    assert "1 error is listed" in said
    assert "Traceback" not in said
    maps = sorted(output.glob("[0-9]*.npy"))
    assert [each.stem for each in maps] == [f"{index:02}" for index in range(50)]
    assert all(np.load(each).shape == (16, 32) for each in maps)
    (failure,) = (output / "failures.txt").read_text().splitlines()
    assert "square.png" in failure


@pytest.mark.slow
def test_of_two_workers_one_is_killed_and_every_map_is_written_once(many, tmp_path, tiny_model):
    import psutil

    output = tmp_path / "out"
    process = predict_with_ray(many, output, tiny_model)
    before = {each: each.stat().st_ino for each in wait_for_maps(5, output, process)}
    children = psutil.Process(process.pid).children(recursive=True)
    workers = [each for each in children if "MapWorker" in " ".join(each.cmdline())]
    assert len(workers) >= 2, [each.cmdline() for each in children]  # three where the number of cores is odd
    workers[0].send_signal(signal.SIGKILL)
    said, _ = process.communicate(timeout=300)
    assert process.returncode == 1, said
    check_all_maps(output, said)
    assert {each: each.stat().st_ino for each in before} == before  # none is written twice


@pytest.mark.slow
def test_a_command_that_is_killed_continues(many, tmp_path, tiny_model):
    output = tmp_path / "out"
    process = predict_with_ray(many, output, tiny_model)
    wait_for_maps(5, output, process)
    process.kill()
    process.communicate(timeout=300)
    before = {each: each.stat().st_ino for each in output.glob("[0-9]*.npy")}
    process = predict_with_ray(many, output, tiny_model)
    said, _ = process.communicate(timeout=300)
    assert process.returncode == 1, said
    check_all_maps(output, said)
    assert ", 0 of them from before" not in said
    assert {each: each.stat().st_ino for each in before} == before


@pytest.mark.slow
def test_a_model_that_no_worker_can_open_is_one_line(many, tmp_path, tiny_model):
    process = predict_with_ray(many, tmp_path / "out", tiny_model, "--model=missing.onnx")
    printed, _ = process.communicate(timeout=300)
    assert process.returncode == 2, printed
    (error,) = [each for each in printed.splitlines() if each.startswith("error: ")]
    assert "there is no model file" in error, printed
    assert "Traceback" not in printed, printed


DEADLY = """
import os, sys
from sal360.cli import cluster, main

class Deadly(cluster.Worker):
    def _content(self, unit):
        if unit.name == "17":
            os._exit(1)
        return super()._content(unit)

cluster.Worker = Deadly
sys.exit(main(sys.argv[1:]))
"""


@pytest.mark.slow
def test_a_picture_of_which_every_worker_dies_is_listed_and_costs_no_other_its_map(many, tmp_path, tiny_model):
    output = tmp_path / "out"
    failures = []
    for _ in range(4):  # what the dying workers had beside it is done by the next commands
        process = predict_with_ray(many, output, tiny_model, "--no-overlays", start=("-c", DEADLY))
        said, _ = process.communicate(timeout=300)
        assert process.returncode == 1, said
        failures = (output / "failures.txt").read_text().splitlines()
        assert sum("17.jpg: its worker died" in each for each in failures) == 1
        assert len(failures) + len(list(output.glob("[0-9]*.npy"))) == 51
        if len(failures) == 2:
            break
    assert len(failures) == 2, failures
