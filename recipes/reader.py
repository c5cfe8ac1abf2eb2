"""YAML 1.2 read into values that remember where they were written.

Built on the events of ruamel.yaml's pure parser rather than on its constructors: only so are line numbers, duplicate
keys, tags, depth and the size of expanded aliases all seen before anything is made of them.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from difflib import get_close_matches
from pathlib import Path
from typing import Any

from ruamel.yaml import YAML
from ruamel.yaml.error import MarkedYAMLError, YAMLError
from ruamel.yaml.events import (
    AliasEvent,
    MappingEndEvent,
    MappingStartEvent,
    ScalarEvent,
    SequenceEndEvent,
    SequenceStartEvent,
    StreamEndEvent,
)
from ruamel.yaml.nodes import ScalarNode

from recipes.errors import InputError, one_line

MAX_BYTES = 1 << 20
MAX_DEPTH = 32
MAX_VALUES = 10_000  # after aliases are expanded; a cast of 64 in all pairs of arms takes about 6,000


@dataclass(frozen=True)
class Place:
    """Where something was written."""

    label: str  # "recipes/x.yaml:12", or "-s seeds=3"
    order: tuple[int, ...]  # which of two is told first: overrides, then the file, in reading order
    about: str | None = None  # the dotted path that the label itself names


@dataclass(frozen=True)
class Node:
    """A value and its places: `at` is the key's where it has one, `end` is where a mapping or list is over."""

    value: str | int | float | bool | None | tuple[Node, ...] | dict[str, Node]
    at: Place
    end: Place


def read_file(path: Path, times: int = 1) -> Node:
    """The one YAML document of a file, at most so many `times` as large as a recipe may be.

    InputError: one line that names the file, the line and what is wrong.
    """
    try:
        if not path.is_file():  # opening a pipe or a device could wait for ever
            raise InputError(one_line(f"{path}: {_missing(path)}"))
        with path.open("rb") as file:
            raw = file.read(times * MAX_BYTES + 1)
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or str(error)
        raise InputError(one_line(f"{path}: cannot be read: {reason.lower()}")) from None
    if len(raw) > times * MAX_BYTES:
        raise InputError(one_line(f"{path}: larger than {times} MiB, which no {'recipe' if times == 1 else 'lock'} is"))
    try:
        text = raw.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = raw.count(b"\n", 0, error.start) + 1
        raise InputError(one_line(f"{path}:{line}: not UTF-8: byte 0x{raw[error.start]:02x}")) from None
    node = read_text(text, lambda line, column: Place(f"{path}:{line}", (1, line, column)), times)
    if node is None or node.value is None:
        raise InputError(one_line(f"{path}: is empty"))
    return node


def read_text(text: str, place: Callable[[int, int], Place], times: int = 1) -> Node | None:
    """The one YAML document of `text`, None where there is none.  `place` maps line and column (from 1)."""
    return _Builder(text, place, times * MAX_VALUES).document()


def plain(root: Node, times: int = 1) -> Any:
    """The value without places: dicts, lists and scalars.

    InputError once aliases expand to more than so many `times` MAX_VALUES.
    """
    most = left = times * MAX_VALUES

    def expand(node: Node) -> Any:
        nonlocal left
        left -= 1
        if left < 0:
            raise InputError(one_line(f"{root.at.label}: more than {most} values once aliases are expanded"))
        if isinstance(node.value, dict):
            return {key: expand(child) for key, child in node.value.items()}
        if isinstance(node.value, tuple):
            return [expand(child) for child in node.value]
        return node.value

    return expand(root)


def find(root: Node, path: Iterable[str | int]) -> Node:
    """The node at `path`, or the nearest one above it that was written."""
    for key in path:
        if isinstance(root.value, dict) and key in root.value:
            root = root.value[str(key)]
        elif isinstance(root.value, tuple) and isinstance(key, int) and key < len(root.value):
            root = root.value[key]
        else:
            break
    return root


def _missing(path: Path) -> str:
    """Why this is not a file, with the nearest recipe of that folder or of the shipped ones."""
    if path.exists():
        return "is a folder" if path.is_dir() else "is not a file"
    for folder in (path.parent, Path(__file__).parent):
        names = {f.stem: f.name for f in sorted(folder.glob("*.yaml"))} if folder.is_dir() else {}
        close = get_close_matches(path.stem, names, n=1)
        if close:
            name = names[close[0]] if folder == path.parent else f"{folder.name}/{names[close[0]]}"
            return f"no such file (did you mean {name!r}?)"
    return "no such file"


class _Builder:
    def __init__(self, text: str, place: Callable[[int, int], Place], most: int) -> None:
        yaml = YAML(typ="safe", pure=True)
        self._events = iter(yaml.parse(text))
        self._resolver, self._constructor = yaml.resolver, yaml.constructor
        self._text, self._place = text, place
        self._anchors: dict[str, Node] = {}
        self._left = self._most = most

    def document(self) -> Node | None:
        """The document as a tree (with shared branches where aliases are)."""
        self._next()  # start of the stream
        if isinstance(event := self._next(), StreamEndEvent):
            return None
        if event.version not in (None, (1, 2)):
            raise self._wrong(event, "recipes are YAML 1.2")
        node = self._node(self._next(), 0)
        self._next()  # end of the document
        if not isinstance(event := self._next(), StreamEndEvent):
            raise self._wrong(event, "a second document; a recipe is one")
        return node

    def _next(self) -> Any:
        try:
            return next(self._events)
        except MarkedYAMLError as error:
            mark = error.problem_mark or error.context_mark
            at = self._place(mark.line + 1, mark.column + 1) if mark else self._place(1, 1)
            raise InputError(one_line(f"{at.label}: not YAML: {error.problem or error.context}")) from None
        except YAMLError as error:  # a character that YAML does not allow
            line = self._text.count("\n", 0, getattr(error, "position", 0)) + 1
            reason = getattr(error, "reason", "cannot be parsed")
            raise InputError(one_line(f"{self._place(line, 1).label}: not YAML: {reason}")) from None
        except (ValueError, OverflowError) as error:  # "\UFFFFFFFF" reaches chr() unchecked
            raise InputError(one_line(f"{self._place(1, 1).label}: not YAML: {error}")) from None

    def _at(self, event: Any) -> Place:
        return self._place(event.start_mark.line + 1, event.start_mark.column + 1)

    def _wrong(self, event: Any, message: str) -> InputError:
        return InputError(one_line(f"{self._at(event).label}: {message}"))

    def _spend(self, event: Any, values: int) -> None:
        self._left -= values
        if self._left < 0:
            raise self._wrong(event, f"more than {self._most} values")

    def _node(self, event: Any, depth: int) -> Node:
        at = self._at(event)
        self._spend(event, 1)
        if isinstance(event, AliasEvent):
            if event.anchor not in self._anchors:
                raise self._wrong(event, f"alias *{event.anchor} has no anchor before it")
            return replace(self._anchors[event.anchor], at=at)
        if event.tag is not None:
            raise self._wrong(event, f"tags are refused: {event.tag}")
        if depth > MAX_DEPTH:
            raise self._wrong(event, f"nested more than {MAX_DEPTH} deep")
        if isinstance(event, MappingStartEvent):
            node = self._mapping(at, depth)
        elif isinstance(event, SequenceStartEvent):
            node = self._sequence(at, depth)
        else:
            node = Node(self._scalar(event), at, at)
        if event.anchor is not None:
            self._anchors[event.anchor] = node
        return node

    def _sequence(self, at: Place, depth: int) -> Node:
        items = []
        while not isinstance(event := self._next(), SequenceEndEvent):
            items.append(self._node(event, depth + 1))
        return Node(tuple(items), at, self._at(event))

    def _mapping(self, at: Place, depth: int) -> Node:
        own: dict[str, Node] = {}
        merged: dict[str, Node] | None = None
        while not isinstance(event := self._next(), MappingEndEvent):
            if isinstance(event, ScalarEvent) and event.value == "<<" and event.implicit[0]:
                if merged is not None:
                    raise self._wrong(event, "'<<' is given twice; merge a list of aliases")
                merged = self._merge(event, depth)
                continue
            key = self._key(event)
            value = self._node(self._next(), depth + 1)
            if key in own:
                raise self._wrong(event, f"{key!r} is given twice (first at {own[key].at.label})")
            own[key] = replace(value, at=self._at(event))
        return Node({**(merged or {}), **own}, at, self._at(event))

    def _merge(self, event: Any, depth: int) -> dict[str, Node]:
        value = self._node(self._next(), depth + 1).value
        result: dict[str, Node] = {}
        for source in value if isinstance(value, tuple) else (Node(value, self._at(event), self._at(event)),):
            if not isinstance(source.value, dict):
                raise self._wrong(event, "'<<' merges a mapping, or a list of mappings")
            self._spend(event, len(source.value))
            result = {**source.value, **result}  # the first of several sources wins
        return result

    def _key(self, event: Any) -> str:
        if not isinstance(event, (ScalarEvent, AliasEvent)):
            raise self._wrong(event, "a key must be text")
        key = self._node(event, 0).value
        if not isinstance(key, str):
            written = getattr(event, "value", None) or "it"  # neither an alias nor an empty key has a text
            raise self._wrong(event, f"a key must be text; put {written} in quotes")
        return key

    def _scalar(self, event: ScalarEvent) -> str | int | float | bool | None:
        text = event.value
        if not event.implicit[0]:  # quoted, or a block
            return self._checked(event, text)
        tag = str(self._resolver.resolve(ScalarNode, text, event.implicit)).removeprefix("tag:yaml.org,2002:")
        node = ScalarNode(tag, text)
        try:
            if tag == "null":
                return None
            if tag == "bool":
                return bool(self._constructor.construct_yaml_bool(node))
            if tag == "int":
                return self._checked(event, int(self._constructor.construct_yaml_int(node)))
            if tag == "float":
                return self._checked(event, float(self._constructor.construct_yaml_float(node)))
        except ValueError:  # "_" looks like a number to the resolver, but is none
            pass
        return self._checked(event, text)  # dates too: the core schema knows none

    def _checked(self, event: Any, value: Any) -> Any:
        """What a canonical JSON text can hold: finite numbers, integers of 64 bits, text without lone surrogates."""
        if isinstance(value, float) and not math.isfinite(value):
            raise self._wrong(event, f"{event.value} is not a finite number")
        if isinstance(value, int) and abs(value) >= 1 << 63:
            raise self._wrong(event, "a whole number of more than 64 bits")
        if isinstance(value, str) and any("\ud800" <= character <= "\udfff" for character in value):
            raise self._wrong(event, "text with half of a surrogate pair")
        return value
