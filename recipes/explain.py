"""Violations of the recipe types, each as a path and a sentence; pydantic's own wording is for programmers."""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import dataclass
from types import UnionType
from typing import Annotated, Any, Union, get_args, get_origin

from pydantic import BaseModel, ValidationError

from recipes.errors import nearest, one_line
from recipes.schema import Recipe

Path = tuple[str | int, ...]
WHOLE, NUMBER, TEXT, LIST, MAPPING = "a whole number", "a number", "text", "a list", "a mapping"
EXPECTED = {
    "int_type": WHOLE,
    "int_from_float": WHOLE,
    "int_parsing": WHOLE,
    "float_type": NUMBER,
    "float_parsing": NUMBER,
    "string_type": TEXT,
    "bool_type": "true or false",
    "tuple_type": LIST,
    "list_type": LIST,
    "dict_type": MAPPING,
    "model_type": MAPPING,
    "model_attributes_type": MAPPING,
}


@dataclass(frozen=True)
class Violation:
    """What is wrong at a path.  `late`: known only where the mapping ends (something is missing there)."""

    path: Path
    message: str
    late: bool = False


def describe(value: Any) -> str:
    """A value in the words of an error message."""
    if value is None:
        return "nothing"
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, str):
        return f"the text {one_line(repr(value), 60)}"
    if isinstance(value, dict):
        return MAPPING
    return LIST if isinstance(value, (list, tuple)) else str(value)


def mismatch(expected: str, value: Any) -> str:
    """`expected X, got Y`, with a hint where text only looks like a number."""
    hint = ""
    if isinstance(value, str) and ("number" in expected or expected.split(" ")[0] in ("int", "float")):
        try:
            float(value)
            hint = " (without quotes it is a number)"
        except ValueError:
            pass
    return f"expected {expected}, got {describe(value)}{hint}"


def get(data: Any, *path: str | int) -> Any:
    """What `path` leads to in plain data, None where it leads nowhere."""
    for key in path:
        inside = isinstance(data, dict) and key in data
        if not inside and not (isinstance(data, list) and isinstance(key, int) and 0 <= key < len(data)):
            return None
        data = data[key]
    return data


def annotation_at(path: Iterable[str | int]) -> Any:
    """Type of the recipe at `path`: a model, `tuple[...]`, `dict[...]` or a scalar; None for an unknown path."""
    here: Any = Recipe
    for key in path:
        if isinstance(here, type) and issubclass(here, BaseModel):
            field = here.model_fields.get(str(key))
            here = _unwrapped(field.annotation) if field else None
        elif get_origin(here) is tuple:
            here = _unwrapped(get_args(here)[0])
        elif get_origin(here) is dict:
            here = _unwrapped(get_args(here)[1])
        else:
            return None
    return here


def structure(data: Any) -> list[Violation]:
    """What the types of a recipe find wrong with plain data."""
    try:
        # By way of JSON, because pydantic's strict mode takes a list for a tuple only there.
        Recipe.model_validate_json(json.dumps(data), strict=True)
    except ValidationError as error:
        # Of `probes`, a union, pydantic tells what each alternative lacks; recipes.checks says it in one sentence.
        errors = [e for e in error.errors(include_url=False) if e["loc"][:1] != ("probes",) or e["type"] == "missing"]
        found = [_violation(data, e) for e in errors]
        return [v for v in found if not _echo(v, found)]
    return []


def _unwrapped(annotation: Any) -> Any:
    """Without Annotated, and the first alternative of an optional."""
    while True:
        if get_origin(annotation) is Annotated or get_origin(annotation) in (Union, UnionType):
            annotation = get_args(annotation)[0]
        else:
            return annotation


def _violation(data: Any, error: Any) -> Violation:
    kind, context = error["type"], error.get("ctx", {})
    path: Path = error["loc"]
    if kind == "missing":
        return Violation(path, f"is missing{nearest_unknown(data, path)}", late=True)
    value = get(data, *path)
    if kind == "extra_forbidden":
        model = annotation_at(path[:-1])
        return Violation(path, f"unknown key{nearest(str(path[-1]), model.model_fields if model else ())}")
    if kind in EXPECTED:
        return Violation(path, mismatch(EXPECTED[kind], value))
    if kind == "value_error":
        return Violation(path, str(context["error"]))
    return Violation(path, _limit(kind, context, path, value) or f"{error['msg'].lower()}, got {describe(value)}")


def _limit(kind: str, context: dict[str, Any], path: Path, value: Any) -> str | None:
    bounds = {"greater_than": ("gt", "greater than"), "greater_than_equal": ("ge", "at least")}
    bounds |= {"less_than": ("lt", "less than"), "less_than_equal": ("le", "at most")}
    if kind in bounds:
        key, words = bounds[kind]
        return f"must be {words} {context[key]:g}, got {describe(value)}"
    if kind == "literal_error":
        valid = get_args(annotation_at(path))
        return f"{mismatch('one of ' + ', '.join(valid), value)}" + (
            hint if isinstance(value, str) and (hint := nearest(value, valid)).startswith(" (did") else ""
        )
    if kind == "string_pattern_mismatch":
        return f"an id is lower-case letters, digits, - and _, got {describe(value)}"
    if kind == "string_too_long":
        return f"at most {context['max_length']} characters"
    if kind == "too_short":
        return f"needs at least {context['min_length']}, got {len(value)}"
    if kind == "too_long":
        return f"takes at most {context['max_length']}, got {len(value)}"
    return None


def nearest_unknown(data: Any, path: Path) -> str:
    """For a missing key: the unknown key beside it that may have been meant."""
    beside, model = get(data, *path[:-1]), annotation_at(path[:-1])
    if not isinstance(beside, dict) or model is None:
        return ""
    hint = nearest(str(path[-1]), [key for key in beside if key not in model.model_fields])
    return hint if hint.startswith(" (did") else ""


def _echo(violation: Violation, found: list[Violation]) -> bool:
    """Whether it only repeats what is wrong further inside (pydantic counts a list without its invalid items)."""
    n = len(violation.path)
    return any(len(v.path) > n and v.path[:n] == violation.path for v in found)
