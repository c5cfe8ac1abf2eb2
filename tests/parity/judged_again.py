"""An exported experiment judged from its rows alone."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import polars as pl

from eval.cells import PROMPTED
from eval.design import design_of
from eval.gather import gather
from eval.judge import judge
from eval.lock import read_lock, recipe_of
from eval.probes import select
from eval.sensitive import sensitivity


def judged_again(folder: Path) -> list[dict[str, Any]]:
    """The rows of the verdict, from rows.parquet and recipe.lock.yaml."""
    recipe = recipe_of(read_lock(folder))
    design = design_of(recipe, select(recipe.probes), sensitivity(recipe))
    rows = pl.read_parquet(folder / "rows.parquet")
    frames = rows.partition_by("arm", "seed", "stage", "dose", maintain_order=True)
    own = [frame for frame in frames if not frame["arm"][0].startswith(PROMPTED)]
    return json.loads(json.dumps(judge(gather(own, design).rows, design)["rows"]))
