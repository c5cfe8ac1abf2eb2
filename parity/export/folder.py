"""The folder that is exported to: every file whole or not there, none with a path of this machine, all with a sum."""

from __future__ import annotations

import hashlib
import html
import json
import os
import re
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

from recipes.errors import InputError, one_line
from recipes.store import Damaged, sha256, write_bytes

SUMS, MARK = "SHA256SUMS", "export.json"
PART = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.-]*")  # of a file's name: safe on any system, and never hidden
SECRETS = ("HF_TOKEN", "HUGGING_FACE_HUB_TOKEN", "WANDB_API_KEY")
BLOCK = 1 << 20
# The ways in which a text can be written in another; the plain one last, since it would leave the others half done.
WRITTEN: tuple[Callable[[str], str], ...] = (
    lambda text: json.dumps(text)[1:-1],
    lambda text: json.dumps(text, ensure_ascii=False)[1:-1],
    html.escape,
    str,
)


class Folder:
    """Files by name, relative with ``/``; what is there already with the wanted content is left as it is."""

    def __init__(self, root: Path, hidden: Sequence[tuple[str, str]], tick: Callable[[int], None]) -> None:
        """`hidden`: paths of this machine and what is written in their place; ``tick(bytes)`` after each block."""
        self.root, self.tick = root, tick
        self.names: set[str] = set(earlier(root))
        # The longest first: a folder's own path before that of the folder it lies in.
        self.hidden = sorted(hidden, key=lambda pair: -len(pair[0]))
        self.secrets = [os.environ[name] for name in SECRETS if os.environ.get(name)]

    def path(self, name: str) -> Path:
        """Where a file lies.  ValueError for a name that is not safe."""
        if not all(PART.fullmatch(part) for part in name.split("/")):
            raise ValueError(f"not a safe name for a file: {name!r}")
        self.names.add(name)
        return self.root / name

    def text(self, name: str, text: str) -> None:
        """Write text, less the paths of this machine.  InputError where a token would be published."""
        text = self.clean(text)
        if any(secret in text for secret in self.secrets):
            raise InputError(f"{name}: would hold a token of the environment; nothing of it was written")
        self.bytes(name, text.encode("utf-8"))

    def bytes(self, name: str, content: bytes) -> None:
        """Write a file of which nothing has to be taken out."""
        path = self.path(name)
        if not path.is_file() or path.read_bytes() != content:
            write_bytes(path, content)

    def clean(self, text: str) -> str:
        """Text without the paths of this machine, as they are and as JSON and HTML would write them."""
        for path, instead in self.hidden:
            for write in WRITTEN:
                # Whole paths only: not the end of another, of an address or of a tag, nor the start of a longer name.
                found = rf"(?<![\w./~<-]){re.escape(write(path))}(?![\w-])"
                text = re.sub(found, write(instead).replace("\\", r"\\"), text)
        return text

    def copy(self, name: str, source: Path, expected: str, cell: str) -> None:
        """Copy a file of a cell, which must have the SHA-256 `expected`; Damaged where it has not."""
        place = self.path(name)
        if place.is_file() and place.stat().st_size == source.stat().st_size and sha256(place) == expected:
            self.tick(source.stat().st_size)
            return
        place.parent.mkdir(parents=True, exist_ok=True)
        beside, digest = _beside(place), hashlib.sha256()
        with source.open("rb") as given, beside.open("wb") as taken:
            while block := given.read(BLOCK):
                digest.update(block)
                taken.write(block)
                self.tick(len(block))
            taken.flush()
            os.fsync(taken.fileno())
        if digest.hexdigest() != expected:
            beside.unlink()
            raise Damaged(cell, f"{source.name} has changed")
        os.replace(beside, place)

    def made(self, name: str, make: Callable[[Path], None]) -> None:
        """A file that ``make(path)`` writes beside its place."""
        place = self.path(name)
        place.parent.mkdir(parents=True, exist_ok=True)
        beside = _beside(place)
        make(beside)
        if place.is_file() and sha256(place) == sha256(beside):
            beside.unlink()
        else:
            os.replace(beside, place)

    def finish(self) -> int:
        """Write the sums of all files, those of an earlier export included; returns how many there are."""
        names = sorted(name for name in self.names - {SUMS} if (self.root / name).is_file())
        self.bytes(SUMS, "".join(f"{sha256(self.root / name)}  {name}\n" for name in names).encode("utf-8"))
        return len(names) + 1


def _beside(place: Path) -> Path:
    return place.with_name(f".{place.name}.part")


def earlier(root: Path) -> Iterator[str]:
    """Names of the files that an earlier export listed."""
    path = root / SUMS
    for line in path.read_text(encoding="utf-8").splitlines() if path.is_file() else ():
        name = line.partition("  ")[2]
        if all(PART.fullmatch(part) for part in name.split("/")):
            yield name


def refuse_other(root: Path, name: str, recipe_hash: str) -> None:
    """InputError unless `root` is absent, empty, or an earlier export of this very experiment."""
    if not root.exists():
        return
    if not root.is_dir():
        raise InputError(one_line(f"--to {root}: is a file; a folder is needed"))
    if not any(path.name != ".lock" for path in root.iterdir()):
        return
    try:
        mark = json.loads((root / MARK).read_text(encoding="utf-8"))
        found = mark["experiment"], mark["recipe_hash"]
    except (OSError, ValueError, KeyError, TypeError):
        raise InputError(one_line(f"--to {root}: is not empty and is no export; name an empty folder")) from None
    if found != (name, recipe_hash):
        raise InputError(one_line(f"--to {root}: holds the export of {found[0]}, not of {name}; name another folder"))


def hidden_paths(*paths: Path | str | None) -> list[tuple[str, str]]:
    """What to write in place of paths that say where something lies on this machine: their last part, after ``...``.

    Relative paths are left alone, they name no machine; the user's home goes without its name.
    """
    found = {}
    for path in paths:
        for each in {str(path), str(Path(path).absolute()), str(Path(path).resolve())} if path else ():
            if Path(each).is_absolute() and len(Path(each).parts) > 1:
                found[each] = f".../{Path(each).name}"
    home = str(Path.home())
    if len(Path(home).parts) > 1:
        found.setdefault(home, "...")
    return list(found.items())
