"""What is kept: cells named by the hash of what made them, each finished when its manifest stands.

``<root>/cells/<hash>/`` holds a base model or one stage of one run.  A cell is made in a hidden folder beside its
place, gets ``manifest.json`` with the SHA-256 of every file last, and is renamed into place; so what has a manifest
is whole, and what a kill left behind is never mistaken for it.  Nothing here is ever unpickled.
"""

from __future__ import annotations

import fcntl
import hashlib
import json
import os
import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from recipes.errors import InputError
from recipes.hashing import digest

MANIFEST = "manifest.json"
SCRATCH = "scratch"  # inside a cell in the making: what a killed run resumes from; never part of the cell
FAILED = "failed.json"  # in the cell of a run that diverged: the step and what was seen; it then lacks doses
MEASUREMENTS = "measurements"  # added to a finished cell by eval, each file with its own checksum


class Damaged(Exception):
    """A kept file is not what its hash says.  `cell` names the cell and `what` the file and the fault."""

    def __init__(self, cell: str, what: str) -> None:
        super().__init__(cell, what)  # as it is pickled between processes
        self.cell, self.what = cell, what

    def __str__(self) -> str:
        return f"cell {self.cell[:12]}: {self.what}"


class Store:
    """The folder `root` with its cells and experiments."""

    def __init__(self, root: Path) -> None:
        self.root = Path(root)

    def cell(self, hash: str) -> Path:
        """Folder of a cell, whether or not it exists."""
        return self.root / "cells" / hash

    def work(self, hash: str) -> Path:
        """Folder in which the cell is being made."""
        return self.root / "cells" / f".making-{hash}"

    def has(self, hash: str) -> bool:
        """Whether the cell is finished (its bytes are not checked; see `check`)."""
        return (self.cell(hash) / MANIFEST).is_file()

    def manifest(self, hash: str) -> dict[str, Any]:
        """The cell's manifest; Damaged when it cannot be read."""
        try:
            return json.loads((self.cell(hash) / MANIFEST).read_text())
        except (OSError, ValueError) as error:
            raise Damaged(hash, f"{MANIFEST} is unreadable ({error.__class__.__name__})") from error

    def failure(self, hash: str) -> dict[str, Any] | None:
        """Why the finished cell is that of a failed run, ``{"step": int, "what": str}``; None where it is not."""
        path = self.cell(hash) / FAILED
        return json.loads(path.read_text()) if path.is_file() else None

    def alive(self, hash: str) -> bool:
        """Whether the cell is finished and not that of a failed run, so that training can go on from it."""
        return self.has(hash) and self.failure(hash) is None

    def check(self, hash: str) -> None:
        """Compare every file of a finished cell with its manifest; Damaged names the first that differs."""
        folder, manifest = self.cell(hash), self.manifest(hash)
        if manifest.get("hash") != hash or digest(manifest.get("spec")) != hash:
            raise Damaged(hash, f"{MANIFEST} does not describe this cell")
        for name, expected in sorted(manifest["files"].items()):
            path = folder / name
            if not path.is_file():
                raise Damaged(hash, f"{name} is missing")
            if sha256(path) != expected:
                raise Damaged(hash, f"{name} has changed")

    def remove(self, hash: str) -> None:
        """Take a damaged cell away (its measurements too), so that it is made again."""
        folder = self.cell(hash)
        # The manifest goes first: a removal that is cut short must not leave something that looks whole.
        (folder / MANIFEST).unlink(missing_ok=True)
        shutil.rmtree(folder, ignore_errors=True)

    @contextmanager
    def making(self, spec: Mapping[str, Any]) -> Iterator[Path | None]:
        """Make the cell of `spec`: yields the folder to fill, or None when the cell is there already.

        Another process that makes the same cell is waited for.  On an exception nothing appears in the cell's place;
        ``scratch`` stays for the next attempt.
        """
        hash = digest(spec)
        place = self.cell(hash)
        place.parent.mkdir(parents=True, exist_ok=True)
        work = self.work(hash)
        with locked(work.with_suffix(".lock")):
            if self.has(hash):
                yield None
                return
            if (work / MANIFEST).is_file():  # sealed: all that was missing is this
                self._place(work, place)
                yield None
                return
            work.mkdir(exist_ok=True)
            for left in work.iterdir():
                if left.name != SCRATCH:
                    shutil.rmtree(left) if left.is_dir() else left.unlink()
            yield work
            self.seal(spec)
            self._place(work, place)

    def seal(self, spec: Mapping[str, Any]) -> None:
        """Inside `making`: the cell is whole; should the process end now, it will be found and put in place.

        For cells that belong together: the last is sealed before the first appears.  At the end of `making` it is
        done at the latest.
        """
        hash = digest(spec)
        work = self.work(hash)
        if (work / MANIFEST).is_file():
            return
        shutil.rmtree(work / SCRATCH, ignore_errors=True)
        files = {str(p.relative_to(work)): sha256(p) for p in sorted(work.rglob("*")) if p.is_file()}
        for name in files:
            _fsync(work / name)
        write_json(work / MANIFEST, {"schema": 1, "hash": hash, "spec": spec, "files": files})

    def _place(self, work: Path, place: Path) -> None:
        if place.exists():
            shutil.rmtree(place)
        os.replace(work, place)
        _fsync(place.parent)


@contextmanager
def locked(path: Path, wait: bool = True, message: str = "") -> Iterator[None]:
    """Hold an advisory lock on `path`; without `wait`, InputError(message) when someone else holds it."""
    path.parent.mkdir(parents=True, exist_ok=True)
    while True:
        with open(path, "a") as handle:
            try:
                fcntl.flock(handle, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
            except BlockingIOError as error:
                raise InputError(message or f"{path} is locked") from error
            try:
                current = os.fstat(handle.fileno()).st_ino == path.stat().st_ino
            except FileNotFoundError:
                current = False
            if not current:
                continue  # the holder before us removed this file; lock the one that stands there now
            try:
                yield
            finally:
                path.unlink(missing_ok=True)  # removed while held, so that finished work leaves no litter
            return


def sha256(path: Path) -> str:
    """SHA-256 of a file, 64 hex digits."""
    with open(path, "rb") as handle:
        return hashlib.file_digest(handle, "sha256").hexdigest()


def write_text(path: Path, text: str) -> None:
    """`write_bytes` of UTF-8."""
    write_bytes(path, text.encode("utf-8"))


def write_bytes(path: Path, content: bytes) -> None:
    """Write a file so that it is either the old or the new one, also after a crash or on a full disk."""
    path.parent.mkdir(parents=True, exist_ok=True)
    beside = path.with_name(f".{path.name}.part")
    try:
        beside.write_bytes(content)
        _fsync(beside)
        os.replace(beside, path)
    except OSError:
        beside.unlink(missing_ok=True)
        raise


def write_json(path: Path, value: Any) -> None:
    """Canonical, readable JSON: sorted keys, floats in full, refuses NaN."""
    write_text(path, json.dumps(value, sort_keys=True, indent=1, ensure_ascii=False, allow_nan=False) + "\n")


def _fsync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
