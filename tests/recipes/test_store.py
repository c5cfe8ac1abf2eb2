"""The store: whole or not at all, damage named, one maker at a time."""

import json
import os
import pickle
import subprocess
import sys
import textwrap

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from recipes.errors import InputError
from recipes.hashing import digest
from recipes.store import SCRATCH, Damaged, Store, locked, write_bytes

SPEC = {"kind": "base", "n": 1}


def make(store, spec=SPEC, content=b"weights"):
    with store.making(spec) as folder:
        if folder is not None:
            (folder / "dose-1").mkdir()
            (folder / "dose-1" / "adapter.safetensors").write_bytes(content)
    return digest(spec)


def test_a_finished_cell_checks_out_and_is_made_once(tmp_path):
    store = Store(tmp_path)
    cell = make(store)
    store.check(cell)
    with store.making(SPEC) as folder:
        assert folder is None
    assert not list(store.cell(cell).parent.glob(".making-*"))  # no litter


def test_an_exception_leaves_nothing_in_place_but_scratch_for_the_next_attempt(tmp_path):
    store = Store(tmp_path)
    with pytest.raises(RuntimeError), store.making(SPEC) as folder:
        (folder / "half").write_text("half")
        (folder / SCRATCH).mkdir()
        (folder / SCRATCH / "checkpoint").write_text("kept")
        raise RuntimeError
    assert not store.has(digest(SPEC))
    with store.making(SPEC) as folder:
        assert [p.name for p in folder.iterdir()] == [SCRATCH]
        assert (folder / SCRATCH / "checkpoint").read_text() == "kept"
    assert set(store.manifest(digest(SPEC))["files"]) == set()  # scratch is not part of a cell


@settings(max_examples=25, deadline=None)
@given(data=st.data())
def test_any_flipped_byte_or_truncation_is_noticed_and_named(tmp_path_factory, data):
    store = Store(tmp_path_factory.mktemp("store"))
    content = data.draw(st.binary(min_size=1, max_size=64))
    cell = make(store, content=content)
    path = store.cell(cell) / "dose-1" / "adapter.safetensors"
    if data.draw(st.booleans()):
        damaged = bytearray(content)
        damaged[data.draw(st.integers(0, len(content) - 1))] ^= 1 << data.draw(st.integers(0, 7))
        path.write_bytes(bytes(damaged))
    else:
        path.write_bytes(content[: data.draw(st.integers(0, len(content) - 1))])
    with pytest.raises(Damaged, match="adapter.safetensors has changed"):
        store.check(cell)
    assert str(pickle.loads(pickle.dumps(Damaged("c" * 64, "x has changed")))) == "cell cccccccccccc: x has changed"
    store.remove(cell)
    assert not store.has(cell)
    make(store, content=content)
    store.check(cell)


def test_a_missing_file_and_a_foreign_or_broken_manifest_are_damage(tmp_path):
    store = Store(tmp_path)
    cell = make(store)
    other = make(store, {"kind": "base", "n": 2})
    (store.cell(cell) / "dose-1" / "adapter.safetensors").unlink()
    with pytest.raises(Damaged, match="is missing"):
        store.check(cell)
    (store.cell(cell) / "manifest.json").write_bytes((store.cell(other) / "manifest.json").read_bytes())
    with pytest.raises(Damaged, match="does not describe"):
        store.check(cell)
    (store.cell(cell) / "manifest.json").write_text("{")
    with pytest.raises(Damaged, match="unreadable"):
        store.check(cell)


def test_a_kill_in_the_middle_is_never_taken_for_a_cell(tmp_path):
    script = textwrap.dedent(f"""
        import os, signal
        from pathlib import Path
        from recipes.store import Store
        with Store(Path({str(tmp_path)!r})).making({SPEC!r}) as folder:
            (folder / "weights").write_text("half")
            os.kill(os.getpid(), signal.SIGKILL)
    """)
    subprocess.run([sys.executable, "-c", script], check=False)
    store = Store(tmp_path)
    assert not store.has(digest(SPEC))
    store.check(make(store))  # and the lock died with its holder


def test_a_second_holder_of_a_lock_is_refused_in_one_line(tmp_path):
    path = tmp_path / ".lock"
    with locked(path), pytest.raises(InputError, match="busy"), locked(path, wait=False, message="busy"):
        pass
    with locked(tmp_path / ".lock", wait=False):
        pass


def test_a_full_disk_leaves_the_old_file_and_no_part(tmp_path, monkeypatch):
    path = tmp_path / "verdict.json"
    write_bytes(path, b"old")

    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "replace", full)
    with pytest.raises(OSError, match="No space"):
        write_bytes(path, b"new")
    assert path.read_bytes() == b"old"
    assert os.listdir(tmp_path) == ["verdict.json"]


def test_manifest_is_readable_by_anyone(tmp_path):
    store = Store(tmp_path)
    manifest = json.loads((store.cell(make(store)) / "manifest.json").read_text())
    assert manifest["spec"] == SPEC and manifest["hash"] == digest(SPEC)
