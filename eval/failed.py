"""Runs that diverged: which seeds a pair loses to them, and where so few are left that nothing could be shown."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from eval.design import Design
from eval.signflip import can_reach, smallest_p
from eval.verdicts import Decision
from eval.wording import probability
from recipes.errors import InputError
from recipes.schema import Recipe

if TYPE_CHECKING:
    import polars as pl

Failed = Sequence[Mapping[str, Any]]  # {"arm", "seed", "stage", "what"}: the stage in which a run diverged


def lost(failed: Failed, stages: Sequence[str]) -> set[tuple[str, int, str]]:
    """(arm, seed, stage) of all that a failed run has no measurements of: its stage and every later one."""
    return {
        (str(one["arm"]), int(one["seed"]), stage)
        for one in failed
        for stage in stages[list(stages).index(one["stage"]) :]
    }


def without(rows: pl.DataFrame, failed: Failed, design: Design) -> pl.DataFrame:
    """The rows less what a failed run may have left at the stages it has lost."""
    import polars as pl

    gone = lost(failed, [kind for kind, _ in design.stages])
    if not gone:
        return rows
    schema = {"arm": pl.String, "seed": pl.Int64, "stage": pl.String}
    return rows.join(pl.DataFrame(sorted(gone), schema=schema, orient="row"), on=list(schema), how="anti")


def seeds_lost(failed: Failed, design: Design, pair: tuple[str, str], stage: int) -> frozenset[int]:
    """Seeds that a pair cannot be read at in a stage, since a run of one of its arms failed."""
    kinds = [kind for kind, _ in design.stages]
    gone = lost(failed, kinds)
    return frozenset(seed for arm, seed, kind in gone if arm in pair and kind == kinds[stage])


def too_few(decision: Decision, left: int, gone: int, bar: float) -> Decision:
    """The decision where `gone` seeds were lost to failed runs and `left` remain, `bar` being the alpha of one test.

    Undetermined, with the reason, where all of the seeds could have been significant and those left never can be.
    """
    if not gone or not can_reach(left + gone, bar) or can_reach(left, bar):
        return decision
    if decision.verdict not in ("symmetric", "undetermined"):
        return decision
    least = probability(smallest_p(left))
    why = f"{left} seeds are left after failed runs, too few to be significant (smallest p {least})"
    found = f"otherwise {decision.verdict}" if decision.verdict != "undetermined" else ""
    note = "; ".join(part for part in (why, found, decision.note) if part)
    fewest = next(n for n in range(left + 1, left + gone + 1) if can_reach(n, bar))
    return Decision("undetermined", note, decision.margin, max(decision.seeds_needed or 0, fewest))


def check_whole(entries: Iterable[Mapping[str, Any]], failed: Failed, recipe: Recipe, where: str) -> None:
    """InputError when a run that did not fail is not among the measured cells."""
    there = {(e["arm"], e["seed"], e["stage"]) for e in entries}
    kinds = [stage.kind for stage in recipe.stages]
    gone = lost(failed, kinds)
    for seed in range(recipe.seeds):
        for arm in recipe.arms:
            for stage in kinds:
                if (arm, seed, stage) not in there | gone:
                    raise InputError(
                        f"{where}: {arm} seed {seed} has no measurements of {stage} and is not said to have failed; "
                        "`parity run` makes them"
                    )
