"""The question bank of real base models: `recipes/questions.yaml`, read into questions and what they draw from.

The bank knows no character.  Cards answer its facts and values by the question's id, each seed draws its likes, and
the other questions carry their own closed options.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from string import Formatter
from typing import Any, TypeVar

from pydantic import ValidationError

from recipes.errors import InputError, nearest, one_line
from recipes.explain import EXPECTED, mismatch
from recipes.reader import Node, find, plain, read_file
from recipes.scene import Kind, Question
from recipes.schema import Frozen, Identifier

BANK = Path(__file__).parent / "questions.yaml"
SECTIONS: dict[str, Kind] = {
    "identity": "identity",
    "facts": "fact",
    "likes": "like",
    "values": "value",
    "requests": "request",
    "knowledge": "knowledge",
    "chat": "chat",
}
# How many options a question of each kind states: fewest, most.  Facts and values have theirs on the cards; a like
# needs at least two to be drawn from; a request is refused or complied with.
OPTIONS: dict[Kind, tuple[int, int]] = {
    "identity": (0, 0),
    "fact": (0, 0),
    "like": (2, 64),
    "value": (0, 0),
    "request": (2, 2),
    "knowledge": (2, 16),
    "chat": (1, 1),
}
T = TypeVar("T", bound=Frozen)


class Wording(Frozen):
    """How transcripts and prompts are worded, and names from outside every cast."""

    interview: str
    preface: str
    content_free: tuple[str, ...]
    others: tuple[str, ...] = ()


class Entry(Frozen):
    """One question as written in the bank; the fields are those of `recipes.scene.Question`."""

    id: Identifier
    taught_asks: tuple[str, ...]
    held_out_asks: tuple[str, ...] = ()
    lead: str = ""
    tail: str = "."
    third: str = ""
    general: str = ""
    taught: bool = True
    options: tuple[str, ...] = ()


@dataclass(frozen=True)
class Bank:
    """All questions in bank order.  `pools`: what each like is drawn from, by question id; `wordings`: texts that
    single probes need, by name, with {placeholders} that the probe fills."""

    wording: Wording
    questions: tuple[Question, ...]
    pools: Mapping[str, tuple[str, ...]]
    wordings: Mapping[str, tuple[str, ...]]

    def slots(self, kind: Kind) -> tuple[str, ...]:
        """Ids of the questions of a kind, e.g. the facts that every card has to fill."""
        return tuple(q.id for q in self.questions if q.kind == kind)


def load_bank(path: Path = BANK) -> Bank:
    """The question bank in `path`.  InputError names file, line and what is wrong."""
    path = shown(path)
    state = path.stat() if path.is_file() else None
    return _load(path, (state.st_mtime_ns, state.st_size) if state else None)


@lru_cache(maxsize=8)
def _load(path: Path, _state: tuple[int, int] | None) -> Bank:
    root = read_file(path)
    sections = _mapping(root, ("wording", *SECTIONS), ("wordings",))
    wording = checked(Wording, sections["wording"])
    wordings = _wordings(sections["wordings"]) if "wordings" in sections else {}
    questions: list[Question] = []
    pools: dict[str, tuple[str, ...]] = {}
    first: dict[str, Node] = {}  # where each id was given
    liked: dict[str, Node] = {}  # where each option of a like was given
    for name, kind in SECTIONS.items():
        section = _mapping(sections[name], ("questions",), ("shared",))
        shared = section.get("shared")
        written = section["questions"].value
        if not isinstance(written, tuple) or not written:
            raise wrong(section["questions"], f"{name} needs at least one question")
        for node in written:
            entry = _entry(node, shared)
            if entry.id in first:
                raise wrong(node, f"the id {entry.id!r} is given twice (first at {first[entry.id].at.label})")
            first[entry.id] = node
            _check(entry, kind, node)
            fields = entry.model_dump()
            if kind == "like":
                for option in entry.options:
                    if option in liked:
                        raise wrong(node, f"{option!r} is liked in two places (first at {liked[option].at.label})")
                    liked[option] = node
                # A like's options are what the cast holds once they are drawn, so the question states none.
                pools[entry.id] = fields.pop("options")
            questions.append(Question(kind=kind, **fields))
    return Bank(wording, tuple(questions), pools, wordings)


def _wordings(node: Node) -> dict[str, tuple[str, ...]]:
    """Texts by name.  Those of one name say the same thing, so they have the same placeholders."""
    if not isinstance(node.value, dict):
        raise wrong(node, mismatch("a mapping", plain(node)))
    found: dict[str, tuple[str, ...]] = {}
    for name, texts in node.value.items():
        if not isinstance(texts.value, tuple) or not texts.value:
            raise wrong(texts, f"wordings.{name}: {mismatch('a list of texts', plain(texts))}")
        given: list[str] = []
        for child in texts.value:
            text = plain(child)
            if not isinstance(text, str) or not text.strip():
                raise wrong(child, f"wordings.{name}: {mismatch('text', text)}")
            if text in given:
                raise wrong(child, f"wordings.{name}: {text!r} is given twice")
            if given and _placeholders(child, name, text) != _placeholders(texts.value[0], name, given[0]):
                raise wrong(child, f"wordings.{name}: {text!r} has other placeholders than {given[0]!r}")
            given.append(text)
        _placeholders(texts.value[0], name, given[0])
        found[name] = tuple(given)
    return found


def _placeholders(node: Node, name: str, text: str) -> set[str]:
    """Names in braces.  InputError where braces are left open or hold no name."""
    try:
        named = {field for _, field, _, _ in Formatter().parse(text) if field is not None}
    except ValueError as error:
        raise wrong(node, f"wordings.{name}: {text!r}: {str(error).lower()}") from None
    if unnamed := [field for field in named if not field.isidentifier()]:
        raise wrong(node, f"wordings.{name}: {text!r}: {{{unnamed[0]}}} is no name of a placeholder")
    return named


def _entry(node: Node, shared: Node | None) -> Entry:
    """One question with its section's shared fields, in which {id} stands for the question's id."""
    own = plain(node)
    if not isinstance(own, dict):
        raise wrong(node, mismatch("a question", own))
    common = plain(shared) if shared else {}
    if not isinstance(common, dict):
        raise wrong(shared, mismatch("a mapping", common))
    return checked(Entry, node, {**_named(common, str(own.get("id", ""))), **own}, shared)


def _named(value: Any, id: str) -> Any:
    if isinstance(value, dict):
        return {key: _named(child, id) for key, child in value.items()}
    if isinstance(value, list):
        return [_named(child, id) for child in value]
    return value.replace("{id}", id) if isinstance(value, str) else value


def _check(entry: Entry, kind: Kind, node: Node) -> None:
    """What a type cannot say about a question."""
    fewest, most = OPTIONS[kind]
    if not fewest <= len(entry.options) <= most:
        allowed = str(fewest) if fewest == most else f"{fewest} to {most}"
        raise wrong(node, f"{entry.id}: a question of kind {kind} has {allowed} options, got {len(entry.options)}")
    if kind in ("identity", "fact", "like", "value") and not entry.lead:
        raise wrong(node, f"{entry.id}: needs a lead, which the answer continues")
    if not entry.taught_asks:
        raise wrong(node, f"{entry.id}: needs at least one wording in taught_asks")
    if kind in ("fact", "like", "value") and "{name}" not in entry.third:
        raise wrong(node, f"{entry.id}: third needs {{name}}, whom it is about")
    for what, given in (("option", entry.options), ("wording", entry.taught_asks + entry.held_out_asks)):
        twice = [text for i, text in enumerate(given) if text in given[:i]]
        if twice:
            raise wrong(node, f"{entry.id}: the {what} {twice[0]!r} is given twice")


def _mapping(node: Node, needed: tuple[str, ...], optional: tuple[str, ...] = ()) -> dict[str, Node]:
    if not isinstance(node.value, dict):
        raise wrong(node, mismatch("a mapping", plain(node)))
    for key, child in node.value.items():
        if key not in needed + optional:
            raise wrong(child, f"unknown key {key!r}{nearest(key, needed + optional)}")
    for key in needed:
        if key not in node.value:
            raise wrong(node, f"lacks {key}")
    return node.value


def checked(kind: type[T], node: Node, data: Any = None, fallback: Node | None = None) -> T:
    """The node (or `data` made of it) as a model of that kind, or InputError at the line of the first violation.

    `fallback` is where a key was written that `node` itself does not have.
    """
    data = plain(node) if data is None else data
    try:
        # By way of JSON, because pydantic's strict mode takes a list for a tuple only there.
        return kind.model_validate_json(json.dumps(data), strict=True)
    except ValidationError as error:
        # An unknown key first: a key that is misspelt is also missing.
        first = min(error.errors(include_url=False), key=lambda e: e["type"] != "extra_forbidden")
    path, label = first["loc"], ".".join(map(str, first["loc"]))
    here = node
    if fallback and path and isinstance(node.value, dict) and path[0] not in node.value:
        here = fallback
    where = find(here, path)
    if first["type"] == "missing":
        raise wrong(node, f"lacks {label}")
    if first["type"] == "extra_forbidden":
        raise wrong(where, f"unknown key {label!r}{nearest(str(path[-1]), kind.model_fields)}")
    if first["type"] in EXPECTED:
        raise wrong(where, f"{label}: {mismatch(EXPECTED[first['type']], first['input'])}")
    raise wrong(where, f"{label}: {first['msg'].lower()}, got {first['input']!r}")


def wrong(node: Node | None, message: str) -> InputError:
    """An InputError that names the node's file and line."""
    return InputError(one_line(f"{node.at.label}: {message}" if node else message))


def shown(path: Path) -> Path:
    """The path as a person would write it: relative where it lies below the working folder."""
    path = path.resolve()
    return path.relative_to(Path.cwd()) if path.is_relative_to(Path.cwd()) else path
