"""A published experiment judged again from its rows alone: needs no store and no model, and writes nothing."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass, replace
from itertools import zip_longest
from math import isclose
from pathlib import Path
from typing import Any

from eval.experiment import CELLS, VERDICT
from eval.lock import lock_of, post_hoc, read_lock, recipe_of
from recipes.errors import InputError

ROWS = "rows.parquet"
RELATIVE, ABSOLUTE = 1e-6, 1e-9  # another machine's rounding of the same sums


@dataclass(frozen=True)
class Again:
    """The published verdict with its rows judged anew, what they say otherwise, and what changed since the lock."""

    verdict: dict[str, Any]
    otherwise: list[str]
    changed: list[str]


def is_published(folder: Path) -> bool:
    """Whether the folder is an export, which has all rows in one file and no cells."""
    return (folder / ROWS).is_file() and not (folder / CELLS).is_file()


def judge_again(folder: Path) -> Again:
    """Judge the rows as the lock says and hold the result against verdict.json.

    InputError where a file is missing or unreadable.
    """
    import polars as pl

    from eval.design import design_of
    from eval.gather import gather
    from eval.judge import judge
    from eval.probes import select
    from eval.sensitive import sensitivity
    from recipes.scenes import scene_of

    lock = read_lock(folder)
    recipe = recipe_of(lock)
    try:
        published = json.loads((folder / VERDICT).read_text(encoding="utf-8"))
        rows = pl.read_parquet(folder / ROWS)
        wanted, seeds, failed = published["rows"], tuple(published["seeds"]), published.get("failed") or []
    except (OSError, ValueError, KeyError, TypeError, pl.exceptions.PolarsError) as error:
        raise InputError(f"{folder}: not a whole export: {' '.join(str(error).split())}") from error
    probes = select(recipe.probes)
    design = replace(design_of(recipe, probes, sensitivity(recipe)), seeds=seeds)
    frames = rows.partition_by("arm", maintain_order=True)
    judged = json.loads(json.dumps(judge(gather(frames, design).rows, design, failed)))
    scenes = [scene_of(recipe, seed) for seed in range(recipe.planned.seeds)]
    now = lock_of(recipe.planned, scenes, probes, lock.get("matching", []), lock.get("blind"))
    return Again(published | judged, list(_otherwise(judged["rows"], wanted)), post_hoc(lock, now))


def _otherwise(rows: list[dict[str, Any]], published: list[dict[str, Any]]) -> Iterator[str]:
    """A line for each row that is not the published one, with the first value that differs."""
    nothing: dict[str, Any] = {}
    for row, before in zip_longest(rows, published, fillvalue=nothing):
        for key in dict.fromkeys([*row, *before]):
            if not _alike(row.get(key), before.get(key)):
                of = row or before
                what = " ".join(str(of.get(k)) for k in ("probe", "contrast", "stage", "match"))
                yield f"{what}: {key} is {row.get(key)!r}, published {before.get(key)!r}"
                break


def _alike(one: Any, other: Any) -> bool:
    if isinstance(one, float) and isinstance(other, float):
        return isclose(one, other, rel_tol=RELATIVE, abs_tol=ABSOLUTE)
    return bool(one == other)
