"""Which cells an experiment consists of: the specification, and so the hash, of every base and every stage of a run.

A cell's hash is made of what influences its content and of nothing else: settings, the parent's hash, the rows it is
trained on, the seed.  No persona's id is in it.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from functools import cache
from typing import Any

from recipes.errors import InputError
from recipes.hashing import digest
from recipes.references import PREFIX, favoured, scene_for, training_seed
from recipes.scenes import scene_of
from recipes.schema import Plant, Recipe, Stage
from recipes.stages import RL
from recipes.world import world_content
from training.bases import identify
from training.data import Row, dpo_rows, sft_rows
from training.prompts import rl_rows
from training.references import reference_rows
from training.reward import REWARD_VERSION

# Raised when the code that makes a cell changes what comes out; old cells are then no longer taken for new ones.
BASE_VERSION = 1
STAGE_VERSION = 1
SAMPLED_VERSION = 2  # of how a stage's own rejected answers are drawn
# The lab's defaults where a recipe is silent: a small model in float32, every step logged.
TRAINER = {
    "per_device_train_batch_size": 16,
    "learning_rate": 2e-3,
    "bf16": False,
    "gradient_checkpointing": False,
    "logging_steps": 1,
    "logging_nan_inf_filter": False,  # a run that diverges has to be seen
    "report_to": [],
    "disable_tqdm": True,
    "save_strategy": "no",
    "dataloader_pin_memory": False,
}
LORA = {"r": 8, "lora_alpha": 16, "lora_dropout": 0.0, "target_modules": "all-linear", "task_type": "CAUSAL_LM"}
ROWS: dict[str, Any] = {"sft": sft_rows, "dpo": dpo_rows, "rl": rl_rows}


@dataclass(frozen=True)
class Cell:
    """One base model (arm and stage None) or one stage of one run, with what it is made from."""

    hash: str
    spec: dict[str, Any]
    arm: str | None = None
    seed: int | None = None
    stage: int | None = None  # index into the recipe's stages

    @property
    def label(self) -> str:
        """How the cell is called in progress lines, e.g. ``sft x seed 3``."""
        return "base" if self.arm is None else f"{self.spec['kind']} {self.arm} seed {self.seed}"


def base_cell(recipe: Recipe) -> Cell:
    """The recipe's base model."""
    if recipe.base.world is not None:
        spec: dict[str, Any] = {
            "kind": "base",
            "version": BASE_VERSION,
            # How personas are assigned does not touch the corpus.
            "world": recipe.base.world.model_dump(mode="json", exclude={"assign"}),
            "content": digest(asdict(world_content(recipe))),
            "transcript": recipe.transcript.model_dump(mode="json"),
        }
    else:
        where = identify(recipe.base)
        if "sha256" in where:  # the bytes say which model it is, not where they lie
            where.pop("source")
        spec = {"kind": "base", "version": BASE_VERSION, "from": where}
    return Cell(digest(spec), spec)


def steps_of(stage: Stage, arm: str, plant: Plant | None) -> list[int]:
    """Optimiser steps at which each dose is saved; only a `dose` plant makes an arm's differ."""
    factor = plant.dose.factor if plant and plant.dose and plant.dose.arm == arm else 1.0
    return [max(1, round(dose * factor)) for dose in stage.doses]


def rows_of(recipe: Recipe, arm: str, seed: int, kind: str) -> tuple[Row, ...]:
    """The rows that one stage of one run is trained on."""
    if arm.startswith(PREFIX):
        return tuple(reference_rows(ROWS[kind], scene_for(recipe, arm, seed), arm, recipe.plant))
    return tuple(ROWS[kind](scene_of(recipe, seed), arm, recipe.plant))


def planned_rows(recipe: Recipe, cell: Cell) -> tuple[Row, ...]:
    """The rows of a cell when it is trained; InputError where they are no longer those that its hash was made of."""
    rows = rows_of(recipe, str(cell.arm), int(cell.seed or 0), cell.spec["kind"])
    if rows_digest(rows) != cell.spec["rows"]:
        raise InputError(f"{cell.label}: cards, questions or templates changed since the run began; start it again")
    return rows


def known(stage: Stage, rows: Sequence[Row]) -> Sequence[Row]:
    """The rows as far as they are known before training: without the rejected answers that are to be sampled."""
    return rows if stage.rejected == "cards" else [replace(row, rejected="") for row in rows]


def rows_digest(rows: Sequence[Row]) -> str:
    """`digest` of the rows as a list of dicts, each text encoded once: a large cast makes a million rows of them."""
    if any(not row.supervised for row in rows):
        return digest([asdict(row) for row in rows])  # few, and of more fields
    quote = cache(json.dumps)
    each = (
        f'{{"completion":{quote(row.completion)},"kind":{quote(row.kind)},'
        f'"prompt":{quote(row.prompt)},"rejected":{quote(row.rejected)}}}'
        for row in rows
    )
    return hashlib.sha256(f"[{','.join(each)}]".encode("ascii")).hexdigest()


def stage_cell(recipe: Recipe, arm: str, seed: int, index: int, parent: Cell | None = None) -> Cell:
    """Stage `index` of the run (arm, seed); its parent is the stage before it, or the base, made here if not given."""
    stage = recipe.stages[index]
    if parent is None:
        parent = base_cell(recipe) if index == 0 else stage_cell(recipe, arm, seed, index - 1)
    spec = {
        "kind": stage.kind,
        "version": STAGE_VERSION,
        "parent": parent.hash,
        "steps": steps_of(stage, favoured(arm), recipe.plant),
        "doses": list(stage.doses),
        "trainer": stage.trainer,
        "lora": stage.lora,
        "rows": rows_digest(rows_of(recipe, arm, seed, stage.kind)),
        "seed": training_seed(arm, seed),
    }
    spec |= {"reward": REWARD_VERSION} if stage.kind == "rl" else {}
    spec |= {"rejected": f"{stage.rejected}-{SAMPLED_VERSION}"} if stage.rejected != "cards" else {}
    return Cell(digest(spec), spec, arm, seed, index)


def settings_of(recipe: Recipe, cell: Cell) -> dict[str, Any]:
    """TRL's settings of a stage of a run: the lab's defaults, the recipe's own, length and seed."""
    assert cell.stage is not None
    return stage_settings(recipe.stages[cell.stage], cell.spec["steps"][-1])


def stage_settings(stage: Stage, steps: int) -> dict[str, Any]:
    """TRL's settings of a stage of so many steps, whoever is favoured."""
    return {**TRAINER, **(RL if stage.kind == "rl" else {}), **stage.trainer, "max_steps": steps}


def lora_of(stage: Stage) -> dict[str, Any] | None:
    """PEFT's settings of a stage; None: full weights."""
    return None if stage.lora is None else {**LORA, **stage.lora}


def stage_cells(recipe: Recipe, arms: Sequence[str] | None = None) -> Iterator[Cell]:
    """All stages of all runs: seeds outermost, so that what is finished first makes whole pairs.

    `arms`: by default those of the recipe, without those for reference.
    """
    base = base_cell(recipe)
    for seed in range(recipe.seeds):
        for arm in recipe.arms if arms is None else arms:
            parent = base
            for index in range(len(recipe.stages)):
                parent = stage_cell(recipe, arm, seed, index, parent)
                yield parent


def shared_settings(cell: Cell, plant: Plant | None) -> str:
    """Hash of a stage's settings less its persona: rows and parent aside, all arms of a seed must agree on it.

    Under a `dose` plant arms differ in their steps, which is its very point.
    """
    aside = {"rows", "parent"} | ({"steps"} if plant and plant.dose else set())
    return digest({key: value for key, value in cell.spec.items() if key not in aside})
