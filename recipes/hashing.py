"""Identity is content: the SHA-256 of an object's canonical JSON."""

from __future__ import annotations

import hashlib
import json
import math
from typing import Any

from pydantic import BaseModel

from recipes.schema import Recipe

# How and where a recipe is run and how its results are shown, not what it is.
UNHASHED: dict[str, Any] = {"launch": True, "tracking": True, "judge": {"blind"}}


def digest(obj: Any) -> str:
    """64 hex digits: SHA-256 of the object as JSON with sorted keys, no whitespace and floats by `repr`.

    Tuples count as lists, pydantic models as their JSON dump.  ValueError: a number that is not finite; TypeError:
    anything else that JSON does not have, keys that are not text included, since JSON would merge 1 and "1".
    """
    text = json.dumps(_plain(obj), sort_keys=True, separators=(",", ":"), ensure_ascii=True, allow_nan=False)
    return hashlib.sha256(text.encode("ascii")).hexdigest()


def recipe_hash(recipe: Recipe) -> str:
    """`digest` of a recipe without its `launch`, `tracking` and `judge.blind`, which have no influence on a result.

    All looks of a plan have one hash, that of the recipe with as many seeds as the last of them.
    """
    _refuse_nan(recipe.model_dump())
    return digest(hashed(recipe))


def hashed(recipe: Recipe) -> dict[str, Any]:
    """What of a recipe is hashed, as plain data."""
    content = recipe.planned.model_dump(mode="json", exclude=UNHASHED)
    if not recipe.judge.looks:  # what was written before there were looks keeps its hash
        del content["judge"]["looks"], content["judge"]["spending"]
    if recipe.judge.strength == "level":
        del content["judge"]["strength"]
    if not recipe.references:
        del content["references"]
    if recipe.precision == "highest":
        del content["precision"]
    return content


def _plain(obj: Any) -> Any:
    if isinstance(obj, BaseModel):
        _refuse_nan(obj.model_dump())
        return _plain(obj.model_dump(mode="json"))
    if isinstance(obj, dict):
        for key in obj:
            if not isinstance(key, str):
                raise TypeError(f"keys must be text; got {key!r}")
        return {key: _plain(value) for key, value in obj.items()}
    if isinstance(obj, (list, tuple)):
        return [_plain(value) for value in obj]
    _refuse_nan(obj)
    if obj is None or isinstance(obj, (str, int, float, bool)):
        return obj
    raise TypeError(f"{type(obj).__name__} has no canonical JSON")


def _refuse_nan(obj: Any) -> None:
    """ValueError for a float that is not finite, at any depth: a pydantic JSON dump would turn it into null."""
    if isinstance(obj, float) and not math.isfinite(obj):
        raise ValueError(f"{obj} has no canonical JSON")
    for value in obj.values() if isinstance(obj, dict) else obj if isinstance(obj, (list, tuple)) else ():
        _refuse_nan(value)
