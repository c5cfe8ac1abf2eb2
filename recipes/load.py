"""A recipe file, with overrides, as a checked `Recipe`; or one line about the first thing that is wrong with it."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, get_args, get_origin

from recipes import checks
from recipes.errors import InputError, one_line
from recipes.explain import Violation, annotation_at, describe, structure
from recipes.reader import MAX_BYTES, MAX_DEPTH, Node, Place, find, plain, read_file, read_text
from recipes.schema import Recipe


def load_recipe(path: Path, overrides: Sequence[str] = ()) -> Recipe:
    """Read, override and check a recipe.

    An override is ``path=value``: keys and list indices joined by dots, and a value in YAML, e.g. ``seeds=18`` or
    ``stages.0.trainer.learning_rate=1e-3``.  They apply in their order.
    InputError: one line on the first violation, with file and line, or with the override.  A wrong override is told
    before what it makes wrong in the file.
    """
    path = Path(path)
    root = file = read_file(path)
    if not isinstance(root.value, dict):
        raise InputError(one_line(f"{root.at.label}: a recipe is a mapping, got {describe(plain(root))}"))
    for rank, override in enumerate(overrides):
        root = _override(root, override, rank)
    data = plain(root)
    if found := _violations(data):
        first = min(found, key=lambda v: _rank(root, v))
        blame = ""
        if overrides and find(root, first.path).at.about is None and first not in _violations(plain(file)):
            blame = " (with the overrides given)"
        raise InputError(_line(root, first) + blame)
    return Recipe.model_validate_json(json.dumps(data), strict=True)


def _violations(data: Any) -> list[Violation]:
    """All violations; on equal places the checks speak first, being more exact than the types."""
    found = list(checks.violations(data))
    return found + [v for v in structure(data) if not any(c.path[: len(v.path)] == v.path for c in found)]


def _override(root: Node, override: str, rank: int) -> Node:
    key, equals, text = override.partition("=")
    keys = tuple(key.strip().split("."))
    label = one_line(f"-s {override}", 120)
    if not equals or not all(keys):
        raise InputError(f"{label}: expected path=value, e.g. seeds=18")
    if len(keys) > MAX_DEPTH or len(text) > MAX_BYTES:
        raise InputError(f"{label}: too long")
    place = Place(label, (0, rank), ".".join(keys))
    value = read_text(text, lambda line, column: replace(place, order=(0, rank, line, column)))
    return _set(root, keys, value or Node(None, place, place), ())


def _set(node: Node, keys: tuple[str, ...], value: Node, above: tuple[str | int, ...]) -> Node:
    """The tree with `value` at `keys`.  Copied along the path: what is below may be shared by aliases."""
    if not keys:
        return value
    key, rest = keys[0], keys[1:]
    where = ".".join(map(str, above)) or "the recipe"
    if isinstance(node.value, tuple):
        if not (key.isascii() and key.isdecimal() and int(key[:9]) < len(node.value)):
            raise InputError(f"{value.at.label}: {where} has {len(node.value)} entries, counted from 0; no {key!r}")
        items, i = list(node.value), int(key)
        items[i] = _set(items[i], rest, value, (*above, i))
        return replace(node, value=tuple(items))
    if node.value is not None and not isinstance(node.value, dict):
        raise InputError(f"{value.at.label}: {where} is {describe(node.value)} and has no {key!r}")
    into = annotation_at(above)
    if get_origin(into) is dict and get_args(into)[1] is not Any and rest:
        key, rest = ".".join(keys), ()  # its keys may have dots: judge.margins.leakage.fidelity
    children = node.value or {}
    child = children.get(key) or Node({}, value.at, value.at)
    return replace(node, value={**children, key: _set(child, rest, value, (*above, key))})


def _rank(root: Node, violation: Violation) -> tuple[int, ...]:
    node = find(root, violation.path)
    return (node.end if violation.late else node.at).order


def _line(root: Node, violation: Violation) -> str:
    at, path = find(root, violation.path).at, ".".join(map(str, violation.path))
    where = f"{path}: " if path and path != at.about else ""
    return one_line(f"{at.label}: {where}{violation.message}")
