"""Files by their addresses: here, and in a store that fsspec opens."""

from __future__ import annotations

import os
import uuid

import pytest

from sal360.errors import DataError, ParameterError
from sal360.sources import stores


def test_what_is_written_is_listed_read_and_removed(place, tmp_path):
    stores.write(f"{place}/a.npy", b"a")
    stores.write(f"{place}/deep/.b.npy", b"b")
    (tmp_path / "c").write_bytes(b"c")
    stores.put(tmp_path / "c", f"{place}/deep/c.npy")
    assert sorted(stores.files_in(place)) == ["a.npy", "deep/.b.npy", "deep/c.npy"]
    assert sorted(stores.files_in(place, hidden=False)) == ["a.npy", "deep/c.npy"]
    assert stores.files_in(place, recursive=False) == ["a.npy"]
    assert stores.is_folder(place)
    assert not stores.is_folder(f"{place}/a.npy")
    assert stores.read(f"{place}/deep/c.npy") == b"c"
    with stores.open_file(f"{place}/a.npy") as file:
        assert file.read() == b"a"
    stores.remove(f"{place}/a.npy")
    stores.remove(f"{place}/a.npy")
    assert not stores.exists(f"{place}/a.npy")


def test_a_folder_that_is_missing_has_no_files(place):
    assert stores.files_in(place) == []


def test_a_file_becomes_one_of_this_machine(place, tmp_path):
    stores.write(f"{place}/a b#1.mp4", b"video")
    assert stores.fetch(f"{place}/a b#1.mp4", tmp_path).read_bytes() == b"video"


def test_a_check_for_writing_leaves_nothing(place, tmp_path):
    stores.check_is_writable(place)
    assert stores.files_in(place) == []
    (tmp_path / "file").touch()
    with pytest.raises(OSError, match=r"file"):
        stores.check_is_writable(str(tmp_path / "file" / "below"))


@pytest.mark.parametrize("name", ["a b.jpg", "100%25.jpg", "a::b.jpg", "what?.jpg", "[1]*.jpg", "\udce9.jpg"])
def test_every_name_of_a_file_here_is_an_address(tmp_path, monkeypatch, name):
    monkeypatch.chdir(tmp_path)
    address = stores.whole_address(name)
    stores.write(address, b"x")
    assert os.listdir(tmp_path) == [name]
    assert stores.read(stores.whole_address(f"file://{tmp_path}/{name}")) == b"x"


@pytest.mark.parametrize(("address", "said"), [("rtsp://camera/live", "rtsp"), ("nothing://x", "nothing")])
def test_an_address_that_nothing_opens_is_refused(address, said):
    pytest.importorskip("fsspec")
    with pytest.raises(ParameterError, match=said):
        stores.whole_address(address)


def test_a_package_that_is_missing_for_an_object_store_is_named(monkeypatch):
    pytest.importorskip("fsspec")
    monkeypatch.setitem(__import__("sys").modules, "s3fs", None)
    with pytest.raises(ParameterError, match="s3fs"):
        stores.whole_address("s3://bucket/folder")


def test_where_files_grow_they_are_renamed_at_the_end(monkeypatch):
    memory = pytest.importorskip("fsspec").filesystem("memory")
    monkeypatch.setattr(stores, "_WITH_FOLDERS", {"memory"})
    written = []
    whole = type(memory).pipe_file
    monkeypatch.setattr(type(memory), "pipe_file", lambda *arguments: written.append(arguments[1]) or whole(*arguments))
    folder = f"memory://{uuid.uuid4().hex}"
    stores.write(f"{folder}/a.npy", b"a")
    assert written
    assert not written[0].endswith("/a.npy")
    assert stores.files_in(folder) == ["a.npy"]


def test_a_file_is_replaced_where_renaming_does_not_replace(monkeypatch):
    memory = pytest.importorskip("fsspec").filesystem("memory")
    monkeypatch.setattr(stores, "_WITH_FOLDERS", {"memory"})
    move = type(memory).mv

    def strict(self, old, new):
        if self.exists(new):
            raise FileExistsError(new)
        move(self, old, new)

    monkeypatch.setattr(type(memory), "mv", strict)
    address = f"memory://{uuid.uuid4().hex}/a.npy"
    stores.write(address, b"old")
    stores.write(address, b"new")
    assert stores.read(address) == b"new"


def test_a_store_is_listed_as_it_is_now(monkeypatch):
    memory = pytest.importorskip("fsspec").filesystem("memory")
    place = f"memory://{uuid.uuid4().hex}"
    kept = {}
    monkeypatch.setattr(type(memory), "invalidate_cache", lambda *_: kept.clear())
    find = type(memory).find
    monkeypatch.setattr(
        type(memory), "find", lambda *path, **options: kept.setdefault(path[1:], find(*path, **options))
    )
    stores.write(f"{place}/a", b"")
    assert stores.files_in(place) == ["a"]
    stores.write(f"{place}/b", b"")  # as a worker does
    assert stores.files_in(place) == ["a", "b"]


def test_errors_of_a_store_are_one_line_without_passwords():
    error = stores.describe(RuntimeError("no\nway to https://user:secret@host/a?token=x"), "https://user:secret@host/a")
    assert "secret" not in error
    assert "token" not in error
    assert "\n" not in error
    assert "https://***@host/a cannot be used (RuntimeError: no way to" in error


def test_errors_of_the_system_are_masked_too():
    error = stores.describe(PermissionError(13, "denied", "https://user:secret@host/a"), "https://user:secret@host/a")
    assert "secret" not in error
    assert error.startswith("no permission (https://***@host/a)")


@pytest.mark.parametrize(
    "use",
    [
        stores.is_folder,
        stores.exists,
        stores.files_in,
        stores.read,
        stores.open_file,
        stores.check_is_writable,
        stores.remove,
        lambda address: stores.write(address, b""),
    ],
)
def test_a_store_that_refuses_is_an_error(monkeypatch, use):
    memory = pytest.importorskip("fsspec").filesystem("memory")

    def refuse(*_, **__):
        raise RuntimeError("no credentials")

    for name in ("isdir", "exists", "cat_file", "open", "pipe_file"):
        monkeypatch.setattr(type(memory), name, refuse)
    with pytest.raises(DataError, match=r"^memory://bucket.* cannot be used .*no credentials.*; check the address and"):
        use("memory://bucket/a")
