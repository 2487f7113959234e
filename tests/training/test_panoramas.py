"""Folders and shards of panoramas: unusable files are named and skipped, the rest is the same every time."""

from __future__ import annotations

import errno
import itertools
import os
import pickle
import shutil
import signal
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import cv2
import numpy as np
import pytest
from PIL import Image
from torch.utils.data import get_worker_info

from sal360.arrays import Pixels
from sal360.errors import DataError, TrainingError
from training.config import SettingError, option_names
from training.data.loader import StepSampler, load
from training.data.panoramas import PanoramaConfig, PanoramaViews, describe, open_panoramas, read_panorama
from training.data.shards import ShardedViews, Shards, WriteShardsConfig, open_shards, write_shards
from training.data.views import ViewConfig, ViewPair
from training.loop import LoopConfig

HEIGHT = 32


def picture(seed: int, height: int = 40, width: int = 80) -> Image.Image:
    coarse = np.random.default_rng(seed).integers(0, 256, (4, 8, 3), dtype=np.uint8)
    return Image.fromarray(coarse).resize((width, height), Image.Resampling.BICUBIC)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """24 panoramas in three formats, some in folders below."""
    root = tmp_path / "panoramas"
    for i in range(24):
        path = root / f"part{i % 2}" / f"{i:02d}{('.jpg', '.PNG', '.webp')[i % 3]}"
        path.parent.mkdir(parents=True, exist_ok=True)
        picture(i).save(path)
    (root / "notes.txt").write_text("not a picture")
    return root


def config(root: Path, **changes: Any) -> PanoramaConfig:
    return PanoramaConfig(**{"root": str(root), "height": HEIGHT, **changes})


def views() -> ViewPair:
    return ViewPair(0, ViewConfig(height=HEIGHT))


def test_pictures_of_all_formats_below_the_folder_are_found(folder: Path) -> None:
    panoramas = open_panoramas(config(folder))
    assert len(panoramas) == 24
    assert not panoramas.unusable
    assert all(panorama.shape == (HEIGHT, 2 * HEIGHT, 3) and panorama.dtype == np.uint8 for panorama in panoramas)


def test_a_cache_holds_the_same_pixels_and_is_decoded_once(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    plain = open_panoramas(config(folder))
    cached = open_panoramas(config(folder, cache=str(tmp_path / "cache")))
    monkeypatch.setattr("training.data.panoramas.read_panorama", None)  # nothing may be decoded again
    again = open_panoramas(config(folder, cache=str(tmp_path / "cache")))
    copied = pickle.loads(pickle.dumps(again))
    monkeypatch.undo()
    for i, panorama in enumerate(plain):
        for other in (cached, again, copied):
            np.testing.assert_array_equal(panorama, other[i])
    assert len(pickle.dumps(cached)) < 10_000  # a loader process maps the file again


def test_a_changed_folder_gets_another_cache(folder: Path, tmp_path: Path) -> None:
    open_panoramas(config(folder, cache=str(tmp_path / "cache")))
    picture(99).save(folder / "new.png")
    assert len(open_panoramas(config(folder, cache=str(tmp_path / "cache")))) == 25


def test_a_cache_that_was_not_finished_is_made_again(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as patch:
        patch.setattr("training.data.panoramas.write_text", lambda *_: (_ for _ in ()).throw(OSError("died")))
        with pytest.raises(OSError, match="died"):
            open_panoramas(config(folder, cache=str(tmp_path / "cache")))
    assert len(open_panoramas(config(folder, cache=str(tmp_path / "cache")))) == 24


def truncate(path: Path) -> None:
    path.write_bytes(path.read_bytes()[: path.stat().st_size * 2 // 3])


def test_unusable_files_are_named_with_their_reason_counted_and_skipped(folder: Path) -> None:
    truncate(folder / "part0" / "00.jpg")
    picture(0, height=60).save(folder / "part1" / "01.PNG")
    panoramas = open_panoramas(config(folder))
    assert len(panoramas) == 22
    text = describe(panoramas)
    assert "22 panoramas, 2 unusable files skipped" in text
    assert "00.jpg is damaged or cut short" in text
    assert "01.PNG is 80 x 60" in text


@pytest.mark.parametrize("suffix", [".jpg", ".png", ".webp"])
def test_a_truncated_file_is_unusable_in_every_format(tmp_path: Path, suffix: str) -> None:
    path = tmp_path / f"a{suffix}"
    picture(1, 320, 640).save(path)
    truncate(path)
    with pytest.raises(DataError, match="is damaged or cut short"):
        read_panorama(path, HEIGHT)


def with_orientation(value: int) -> Image.Exif:
    exif = Image.Exif()
    exif[0x0112] = value
    return exif


@pytest.mark.parametrize(("orientation", "turn"), [(3, Image.Transpose.ROTATE_180), (6, Image.Transpose.ROTATE_90)])
@pytest.mark.parametrize("height", [16, HEIGHT])  # 16: decoded at half its size
def test_a_picture_is_learnt_upright(tmp_path: Path, orientation: int, turn: Image.Transpose, height: int) -> None:
    upright = picture(3)
    upright.transpose(turn).save(tmp_path / "turned.jpg", quality=95, exif=with_orientation(orientation))
    upright.save(tmp_path / "upright.png")
    turned, expected = (read_panorama(tmp_path / name, height).astype(int) for name in ("turned.jpg", "upright.png"))
    assert np.abs(turned - expected).mean() < 4


def test_a_16_bit_picture_is_scaled_to_8_bits(tmp_path: Path) -> None:
    grey = picture(3).convert("L")
    cv2.imwrite(str(tmp_path / "deep.png"), np.asarray(grey).astype(np.uint16) * 257)
    grey.save(tmp_path / "grey.png")
    deep, expected = (read_panorama(tmp_path / name, HEIGHT).astype(int) for name in ("deep.png", "grey.png"))
    assert np.abs(deep - expected).max() <= 1


def test_hidden_files_thumbnails_and_overlays_are_not_panoramas_and_are_counted(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (folder / "part0" / "._00.jpg").write_bytes(b"\0\5\x16\7 what macOS writes beside a file")
    (folder / "part1" / ".hidden.png").write_bytes((folder / "part1" / "01.PNG").read_bytes())
    for name in ("@eaDir", ".thumbnails"):
        (folder / name).mkdir()
        picture(0).save(folder / name / "small.png")
    picture(0).save(folder / "part0" / "00_overlay.png")
    (folder / "clip.mp4").write_bytes(b"a video")
    assert len(open_panoramas(config(folder))) == 24
    said = capsys.readouterr().err
    assert (
        "24 panoramas, 0 unusable files skipped; left out: hidden pictures and folders of thumbnails: 4 (such as "
        in said
    )
    assert "videos: 1 (such as " in said


def test_names_that_are_not_utf8_are_names(folder: Path, tmp_path: Path) -> None:
    name = os.fsdecode(b"caf\xe9.jpg")
    (folder / "part0" / "00.jpg").rename(folder / "part0" / name)
    half = folder / "part1" / os.fsdecode(b"half\xe9.jpg")
    half.write_bytes((folder / "part1" / "03.jpg").read_bytes()[:500])
    for _ in range(2):  # decoded, then from the cache
        panoramas = open_panoramas(config(folder, cache=str(tmp_path / "cache")))
        assert (len(panoramas), len(panoramas.unusable)) == (24, 1)
        assert panoramas[[Path(path).name for path in panoramas.paths].index(name)].shape == (HEIGHT, 2 * HEIGHT, 3)


def test_half_a_jpeg_with_an_end_mark_is_named(tmp_path: Path) -> None:
    path = tmp_path / "half.jpg"
    picture(1, 320, 640).save(path)
    path.write_bytes(path.read_bytes()[:4000] + b"\xff\xd9")
    with pytest.raises(DataError, match=r"half\.jpg is damaged or cut short"):
        read_panorama(path, HEIGHT)


def test_a_picture_that_claims_to_be_huge_is_refused_before_it_is_decoded(tmp_path: Path) -> None:
    path = tmp_path / "huge.png"
    picture(1).save(path)
    content = bytearray(path.read_bytes())
    content[16:24] = (65534).to_bytes(4, "big") + (32767).to_bytes(4, "big")
    path.write_bytes(content)
    with pytest.raises(DataError, match=r"huge\.png is 65534 x 32767 pixels; expected .*; reduce or remove it$"):
        read_panorama(path, HEIGHT)


def test_loader_processes_without_shared_memory_are_refused_in_one_line(
    folder: Path, shards: Shards, monkeypatch: pytest.MonkeyPatch
) -> None:
    panoramas = open_panoramas(config(folder))
    free = 60_000
    monkeypatch.setattr("shutil.disk_usage", lambda _: SimpleNamespace(free=free))
    sampler = StepSampler(24, batch_size=4, seed=0, start=0, stop=1)
    message = (
        r"^loop\.workers is 2; expected 0, or 1 MB free in /dev/shm, which has 0 MB .*--shm-size=2m.*--loop\.workers$"
    )
    with pytest.raises(SettingError, match=message), option_names("loop"):
        load(PanoramaViews(panoramas, views()), sampler, workers=2)
    with pytest.raises(SettingError, match="workers is 2"):
        sharded(shards, workers=2)
    assert len(list(load(PanoramaViews(panoramas, views()), sampler, workers=0))) == 1
    free = 10**6
    assert len(list(load(PanoramaViews(panoramas, views()), sampler, workers=2))) == 1


class Killed:
    """Samples whose loader process is killed, as the kernel does when memory is full."""

    def __len__(self) -> int:
        return 4

    def __getitem__(self, key: Any, /) -> Any:
        if get_worker_info() is not None:
            os.kill(os.getpid(), signal.SIGKILL)
        return (np.zeros(3),)


def test_a_loader_process_that_dies_is_reported_in_one_line() -> None:
    sampler = StepSampler(4, batch_size=2, seed=0, start=0, stop=2)
    with pytest.raises(
        TrainingError, match=r"^a loader process died \(DataLoader worker.*--shm-size.*set workers to 0"
    ) as caught:
        list(load(Killed(), sampler, workers=1))
    assert "\n" not in str(caught.value)


def none_at_all(root: Path) -> None:
    for path in root.rglob("*.*"):
        path.unlink()


def gone(root: Path) -> None:
    root.rename(root.with_name("elsewhere"))


def one_left(root: Path) -> None:
    for path in sorted(root.glob("part*/*"))[1:]:
        path.unlink()


def three_broken(root: Path) -> None:
    for path in sorted(root.rglob("*.webp"))[:3]:
        path.write_bytes(b"no picture")


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (none_at_all, "has 0 usable panoramas and 0 unusable files; expected at least 2"),
        (gone, "there is no folder"),
        (one_left, "has 1 usable panoramas"),
        (three_broken, r"3 of 24 files in .* are unusable \(first: .*\); expected at most 10%"),
    ],
)
def test_a_folder_that_cannot_be_used_stops_with_one_line(
    folder: Path, damage: Callable[[Path], None], message: str
) -> None:
    damage(folder)
    with pytest.raises(DataError, match=message) as caught:
        open_panoramas(config(folder))
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("workers", [0, 1])
def test_a_file_that_vanishes_while_training_is_named(folder: Path, workers: int) -> None:
    panoramas = open_panoramas(config(folder))
    Path(panoramas.paths[3]).unlink()
    sampler = StepSampler(24, batch_size=24, seed=0, start=0, stop=1)
    with pytest.raises(DataError, match="does not exist") as caught:
        list(load(PanoramaViews(panoramas, views()), sampler, workers))
    assert "\n" not in str(caught.value)


@pytest.fixture
def shards(folder: Path, tmp_path: Path) -> Shards:
    """The 24 panoramas in 6 shards of 4."""
    return write_shards(WriteShardsConfig(config(folder), str(tmp_path / "shards"), per_shard=4))


def sharded(shards: Shards, *, start: int = 0, stop: int = 12, rank: int = 0, world: int = 1, **loop: Any) -> list[Any]:
    settings = LoopConfig(**{"run": "run", "steps": 1, "batch_size": 4, "workers": 0, **loop})
    data = ShardedViews(shards, views(), HEIGHT, settings, start=start, stop=stop, rank=rank, world=world)
    return list(data.batches())


def numbers(batches: list[Any]) -> list[list[int]]:
    return [batch[2].tolist() for batch in batches]


def test_shards_hold_every_panorama_once_and_give_the_views_of_the_folder(folder: Path, shards: Shards) -> None:
    panoramas = open_panoramas(config(folder))
    found = open_shards(shards.root)
    assert found == shards
    order = np.random.default_rng(0).permutation(24)
    first_epoch = sharded(shards, stop=6)
    assert sorted(itertools.chain(*numbers(first_epoch))) == list(range(24))
    view, turned, index = (part[0] for part in first_epoch[0])
    expected: tuple[Pixels, ...] = views()(panoramas[int(order[index])], 0, int(index))
    np.testing.assert_array_equal(view, expected[0])
    np.testing.assert_array_equal(turned, expected[1])


@pytest.mark.parametrize("options", [{"workers": 2}, {"workers": 2, "accumulate": 2}, {"workers": 0}])
def test_a_resumed_stream_of_shards_continues_where_it_stopped(shards: Shards, options: dict[str, int]) -> None:
    parts = options.get("accumulate", 1)
    whole = sharded(shards, stop=15, **options)
    for start in (1, 7, 8):
        assert numbers(sharded(shards, start=start, stop=15, **options)) == numbers(whole)[start * parts :]


def test_processes_share_an_epoch_of_shards_without_repetition(shards: Shards) -> None:
    one, other = (numbers(sharded(shards, rank=rank, world=2, stop=6)) for rank in range(2))
    assert len(one) == len(other) == 6
    assert sorted(itertools.chain(*one, *other)) == list(range(24))  # 2 x 6 batches of 2: one epoch


@pytest.mark.parametrize("workers", [0, 2])
def test_a_broken_shard_is_named(shards: Shards, workers: int) -> None:
    shard = Path(shards.root) / "000002.tar"
    shard.write_bytes(shard.read_bytes()[:1500])
    with pytest.raises(DataError, match=r"000002.tar (cannot be read|holds)") as caught:
        sharded(shards, workers=workers)
    assert "\n" not in str(caught.value)


def test_a_missing_shard_is_named(shards: Shards) -> None:
    (Path(shards.root) / "000002.tar").unlink()
    with pytest.raises(DataError, match=r"000002.tar cannot be read \(No such file"):
        sharded(shards)


def epoch_of_shards(
    shards: Shards, monkeypatch: pytest.MonkeyPatch, epoch: int, *, world: int, workers: int, batch_size: int
) -> list[int]:
    """The panoramas of an epoch, as the loader processes of all training processes would read them."""
    settings = LoopConfig(run="run", steps=1, batch_size=batch_size, workers=workers)
    steps = 24 // batch_size
    found = []
    for rank, worker in itertools.product(range(world), range(workers)):
        place = {"start": epoch * steps, "stop": (epoch + 1) * steps, "rank": rank, "world": world}
        data = ShardedViews(shards, views(), HEIGHT, settings, **place)
        assert data.steps_per_epoch == steps
        monkeypatch.setattr("training.data.shards.get_worker_info", lambda worker=worker: SimpleNamespace(id=worker))
        found += [batch[2].tolist() for batch in data]
    assert len(found) == steps * world
    return sorted(itertools.chain(*found))


@pytest.mark.parametrize(("batch_size", "seen"), [(6, 24), (12, 24), (18, 18)])
def test_an_epoch_of_shards_is_the_same_for_every_number_of_processes_and_workers(
    shards: Shards, monkeypatch: pytest.MonkeyPatch, batch_size: int, seen: int
) -> None:
    monkeypatch.setattr("training.data.shards.read_panorama", lambda *_: np.zeros((HEIGHT, 2 * HEIGHT, 3), np.uint8))
    for epoch in (0, 1):
        alone = epoch_of_shards(shards, monkeypatch, epoch, world=1, workers=1, batch_size=batch_size)
        assert len(set(alone)) == len(alone) == seen
        for world, workers in itertools.product((1, 2, 3), (1, 2, 4)):
            found = epoch_of_shards(shards, monkeypatch, epoch, world=world, workers=workers, batch_size=batch_size)
            assert found == alone, (world, workers)


def test_a_batch_larger_than_all_shards_is_refused(shards: Shards) -> None:
    with pytest.raises(SettingError, match="batch_size is 32; expected at most the 24 samples"):
        sharded(shards, batch_size=32)


def test_shards_are_not_overwritten(folder: Path, shards: Shards) -> None:
    with pytest.raises(DataError, match="exists"):
        write_shards(WriteShardsConfig(config(folder), shards.root))


@pytest.mark.parametrize("text", ["{}", '{"shards": []}', '{"shards": [{"name": "000000.tar", "count": "many"}]}'])
def test_a_broken_index_is_named(shards: Shards, text: str) -> None:
    (Path(shards.root) / "shards.json").write_text(text)
    with pytest.raises(DataError, match=r"shards.json cannot be read"):
        open_shards(shards.root)


def test_the_first_panoramas_of_shards_can_be_looked_at(shards: Shards) -> None:
    for beyond in ("000002.tar", "000005.tar"):  # six panoramas lie in the first two shards: no other is read
        (Path(shards.root) / beyond).unlink()
    assert [panorama.shape for panorama in shards.first(6, HEIGHT)] == [(HEIGHT, 2 * HEIGHT, 3)] * 6


def test_a_shard_that_cannot_be_downloaded_is_named_with_a_reason(monkeypatch: pytest.MonkeyPatch) -> None:
    def refused(url: str) -> None:
        raise OSError(f"curl {url}: exit 7")  # webdataset's own: without an error number

    monkeypatch.setattr("webdataset.gopen", refused)
    with pytest.raises(DataError, match=r"cannot be read \(curl https://host/000000.tar: exit 7\)"):
        Shards("https://host", ("000000.tar",), (4,)).read(0)


def cut_pixels(cache: Path) -> None:
    data = next(cache.glob("*.rgb"))
    data.write_bytes(data.read_bytes()[:100])


def no_pixels(cache: Path) -> None:
    next(cache.glob("*.rgb")).unlink()


def broken_index(cache: Path) -> None:
    next(cache.glob("*.json")).write_text("{")


def other_index(cache: Path) -> None:
    next(cache.glob("*.json")).write_text('{"usable": [99], "unusable": 3}')


@pytest.mark.parametrize("damage", [cut_pixels, no_pixels, broken_index, other_index])
def test_a_damaged_cache_is_made_again(folder: Path, tmp_path: Path, damage: Callable[[Path], None]) -> None:
    settings = config(folder, cache=str(tmp_path / "cache"))
    expected = [panorama.copy() for panorama in open_panoramas(settings)]
    damage(tmp_path / "cache")
    for panorama, other in zip(open_panoramas(settings), expected, strict=True):
        np.testing.assert_array_equal(panorama, other)


def test_paths_from_a_cache_are_those_of_the_folder_as_it_is_named_now(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    cache = str(tmp_path / "cache")
    monkeypatch.chdir(folder.parent)
    assert len(open_panoramas(config(Path("panoramas"), cache=cache))) == 24
    monkeypatch.chdir(folder)
    assert all(Path(path).is_file() for path in open_panoramas(config(Path("../panoramas"), cache=cache)).paths)


def test_a_link_to_a_picture_that_is_gone_is_unusable_with_a_cache_too(folder: Path, tmp_path: Path) -> None:
    (folder / "gone.png").symlink_to("nowhere.png")
    (folder / "loop.png").symlink_to("loop.png")
    for cache in ("", str(tmp_path / "cache")):
        panoramas = open_panoramas(config(folder, cache=cache))
        assert (len(panoramas), len(panoramas.unusable)) == (24, 2)


def test_a_shard_in_place_of_another_is_refused(shards: Shards) -> None:
    shutil.copy(Path(shards.root) / "000001.tar", Path(shards.root) / "000002.tar")
    with pytest.raises(DataError, match=r"000002\.tar is another shard.*expected numbers 8 to 11"):
        sharded(shards)


@pytest.mark.parametrize("text", ["[" * 100_000, "[1]", '{"shards": [{"name": "000000.tar", "count": COUNT}]}'])
@pytest.mark.parametrize("count", ["1e999", "-3", "0", "1000000000000"])
def test_an_index_with_impossible_contents_is_named(shards: Shards, text: str, count: str) -> None:
    (Path(shards.root) / "shards.json").write_text(text.replace("COUNT", count))
    with pytest.raises(DataError, match=r"shards\.json cannot be read"):
        open_shards(shards.root)


def test_shards_in_a_folder_with_a_colon_are_no_address(
    shards: Shards, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shutil.copytree(shards.root, tmp_path / "part:1")
    monkeypatch.chdir(tmp_path)
    found = open_shards("part:1")
    assert found is not None
    assert len(found.read(0)) == 4


@pytest.mark.parametrize("workers", [0, 1])
def test_what_the_system_refuses_while_loading_is_one_line(workers: int) -> None:
    class Refused(Killed):
        def __getitem__(self, key: Any, /) -> Any:
            if workers and get_worker_info() is None:
                return (np.zeros(3),)
            raise PermissionError(errno.EACCES, "Permission denied", "a.png")

    sampler = StepSampler(4, batch_size=2, seed=0, start=0, stop=2)
    with pytest.raises(DataError, match=r"^no permission \(a\.png\); change the path"):
        list(load(Refused(), sampler, workers))


def test_a_bug_in_a_loader_process_is_not_called_too_little_memory() -> None:
    class Buggy(Killed):
        def __getitem__(self, key: Any, /) -> Any:
            if get_worker_info() is None:
                return (np.zeros(3),)
            raise RuntimeError("a bug")

    sampler = StepSampler(4, batch_size=2, seed=0, start=0, stop=2)
    with pytest.raises(RuntimeError, match="a bug"):
        list(load(Buggy(), sampler, 1))


@pytest.mark.parametrize(("rank", "hidden"), [("0", None), ("1", True)])
def test_only_the_first_process_shows_its_progress(
    folder: Path, monkeypatch: pytest.MonkeyPatch, rank: str, hidden: bool | None
) -> None:
    shown = []

    def bar(items: Any, *, disable: bool | None, **_: Any) -> Any:
        shown.append(disable)
        return items

    monkeypatch.setenv("RANK", rank)
    monkeypatch.setattr("training.data.panoramas.tqdm", bar)
    open_panoramas(config(folder))
    assert shown == [hidden]
