"""Looks under a plan, where nothing differs: at half, at three quarters and at all of the seeds of each experiment."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import replace
from math import ceil
from pathlib import Path
from typing import Any

from eval.judge import judge
from parity.calibrate.batch import Batch
from parity.calibrate.look import judged_file
from parity.calibrate.rates import rate
from recipes.store import write_json

SHARES = (0.5, 0.75, 1.0)  # 8, 12 and 16 seeds of 16, the plan that docs/METHOD.md discusses
Looks = Sequence[dict[str, Any]]


def looks_of(seeds: int) -> tuple[int, ...]:
    """The numbers of seeds at which an experiment of so many is looked at."""
    return tuple(sorted({ceil(share * seeds) for share in SHARES}))


def look_planned(batch: Batch, root: Path) -> None:
    """Judge a batch of the null at every look of the plan and write it down.  Runs in a worker.

    A look judges the first seeds, as an experiment does that was given more of them later.
    """
    import polars as pl

    from parity import workers

    rows, failed = batch.read(root)
    design = batch.design()
    planned = looks_of(len(design.seeds))
    said = []
    for look in planned:
        seeds = design.seeds[:look]
        there = rows.filter(pl.col("seed").is_in(seeds))
        lost = [one for one in failed if one["seed"] in seeds]
        verdict = judge(there, replace(design, seeds=seeds, looks=planned), lost)
        tested = [row for row in verdict["rows"] if row["primary"] and row["p_adjusted"] is not None]
        said.append(
            {
                "seeds": look,
                "rejects": any(row["p_adjusted"] < row["bound"] for row in tested),
                "at_alpha": any(row["p_adjusted"] < design.alpha for row in tested),
                "verdict": verdict["verdict"],
            }
        )
    write_json(planned_file(batch, root), said)
    workers.count(1)


def planned_file(batch: Batch, root: Path) -> Path:
    """Where `look_planned` leaves what it found."""
    return judged_file(batch, root).with_suffix(".looks.json")


def said_of(batch: Batch, root: Path) -> list[dict[str, Any]]:
    """What `look_planned` wrote."""
    return json.loads(planned_file(batch, root).read_text(encoding="utf-8"))


def figures(said: Sequence[Looks], spending: str) -> dict[str, Any]:
    """How often some primary contrast is significant at any look, at the plan's levels and at alpha at each look.

    `said`: one list of looks per experiment.
    """
    many = len(said)
    by_look = [
        {
            "seeds": looks[0]["seeds"],
            "rejects": rate(sum(look["rejects"] for look in looks), many),
            "symmetric": rate(sum(look["verdict"] == "symmetric" for look in looks), many),
        }
        for looks in zip(*said, strict=True)
    ]
    return {
        "planned": [look["seeds"] for look in by_look],
        "spending": spending,
        "rejects": rate(sum(any(look["rejects"] for look in looks) for looks in said), many),
        "at_alpha": rate(sum(any(look["at_alpha"] for look in looks) for looks in said), many),
        "broken": rate(sum(any(look["verdict"] == "broken" for look in looks) for looks in said), many),
        "by_look": by_look,
    }
