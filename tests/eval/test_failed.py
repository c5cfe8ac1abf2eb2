"""Runs that diverged: their seed leaves the pairs of that arm from that stage on, and nothing else changes."""

from __future__ import annotations

import io
from dataclasses import replace

import numpy as np
import polars as pl
import pytest
from rich.console import Console

from eval import report, table
from eval.failed import check_whole, lost, too_few
from eval.judge import judge
from eval.verdicts import Decision
from recipes.errors import InputError
from recipes.schema import Recipe
from tests.eval import synthetic
from tests.eval.made_rows import FULL, A, C, design, rows, world

THIRD = "carol"
STAGES = (("sft", (4, 8, 15, 30, 60)), ("dpo", (3, 6, 12, 24, 40)))


def trio(seeds: int = 8, effect: float = 0.0):
    """Three arms, two pairs, two stages."""
    of = design(seeds, FULL, arms=(A, C, THIRD), pairs=((A, C), (A, THIRD)), stages=STAGES)
    return of, rows(of, world(of, np.random.default_rng(5), effect))


def of_run(arm: str, seed: int, *stages: str) -> pl.Expr:
    return (pl.col("arm") == arm) & (pl.col("seed") == seed) & pl.col("stage").is_in(stages)


def failure(arm: str, seed: int, stage: str) -> dict[str, object]:
    return {"arm": arm, "seed": seed, "stage": stage, "what": "loss is nan at step 3"}


def told(result, pair, stages=("sft", "dpo"), less=("missing",)):
    rows = [r for r in result["rows"] if tuple(r["pair"]) == pair and r["stage"] in stages]
    return [{k: v for k, v in r.items() if k not in less} for r in rows]


@pytest.mark.parametrize(("stage", "gone"), [("sft", ("sft", "dpo")), ("dpo", ("dpo",))])
def test_a_failed_run_is_as_if_the_pair_had_not_had_that_seed(stage, gone):
    of, frame = trio()
    whole = judge(frame, of)
    cut = judge(frame.filter(~of_run(C, 3, *gone)), of, [failure(C, 3, stage)])
    # p_adjusted of the primary family spans both stages: only where both lack the seed can it be compared
    family = () if stage == "sft" else ("p_adjusted",)
    without = judge(frame, replace(of, seeds=tuple(s for s in of.seeds if s != 3)))
    less = ("missing", *family)
    assert told(cut, (A, C), gone, less) == told(without, (A, C), gone, less)
    kept = tuple(s for s in ("sft", "dpo") if s not in gone)
    assert told(cut, (A, C), kept, less) == told(whole, (A, C), kept, less)
    assert told(cut, (A, THIRD), less=()) == told(whole, (A, THIRD), less=())
    assert {r["n_seeds"] for r in told(cut, (A, C), gone)} == {7} and cut["losses"] == []


def test_what_a_failed_run_left_is_not_read():
    """Rows of the failed stage that are there all the same (an older measurement) change nothing."""
    of, frame = trio()
    failed = [failure(C, 3, "dpo")]
    assert judge(frame, of, failed) == judge(frame.filter(~of_run(C, 3, "dpo")), of, failed)


def test_rows_that_are_missing_and_not_declared_are_still_told():
    of, frame = trio()
    losses = judge(frame.filter(~of_run(C, 3, "sft", "dpo")), of, [failure(C, 3, "dpo")])["losses"]
    assert f"{C}, sft: no rows of seed 3" in losses and f"{C}, dpo: no rows of seed 3" not in losses


def test_too_few_seeds_left_is_undetermined_with_the_reason():
    of, frame = trio(seeds=6)
    of = replace(of, pairs=((A, C),))  # 2 / 2^6 = .031 of one pair; of two it would be .062
    whole = judge(frame, of)
    # 2 / 2^5 = .062: never significant, though equivalence could still be computed
    cut = judge(frame.filter(~of_run(C, 3, "dpo")), of, [failure(C, 3, "dpo")])
    assert whole["verdict"] == "symmetric" and cut["verdict"] == "undetermined"
    (found,) = [
        r
        for r in cut["rows"]
        if (r["probe"], r["stage"], r["contrast"], r["match"]) == ("one", "dpo", "delta", "strength")
    ]
    assert found["verdict"] == "undetermined" and found["n_seeds"] == 5 and found["seeds_needed"] >= 6
    assert found["note"].startswith("5 seeds are left after failed runs, too few to be significant (smallest p .062)")
    assert "otherwise symmetric" in found["note"]
    assert all(r["verdict"] == "symmetric" for r in cut["rows"] if r["stage"] == "sft" and r["primary"])
    unsaid = judge(frame.filter(~of_run(C, 3, "dpo")), of)  # the rule is for runs that failed
    assert all("failed" not in r["note"] for r in unsaid["rows"])


def test_too_few_leaves_a_design_that_never_could():
    equal = Decision("symmetric", "", 1.0)
    assert too_few(equal, 3, 1, 0.05) == equal  # four seeds reach .125 at best
    assert too_few(equal, 6, 1, 0.05) == equal  # six are enough
    assert too_few(equal, 5, 0, 0.05) == equal  # nothing failed
    assert too_few(Decision("saturated", "", 1.0), 5, 1, 0.05).verdict == "saturated"
    assert too_few(equal, 5, 1, 0.05).verdict == "undetermined"


def test_a_failure_takes_the_later_stages_with_it():
    assert lost([failure(C, 3, "sft")], ["sft", "dpo"]) == {(C, 3, "sft"), (C, 3, "dpo")}
    assert lost([failure(C, 3, "dpo")], ["sft", "dpo"]) == {(C, 3, "dpo")}


def test_a_run_that_is_neither_measured_nor_failed_is_an_error():
    recipe = Recipe.model_validate({
        "name": "x", "question": "", "base": {"world": {}}, "cast": [A, C], "arms": [A, C], "seeds": 2,
        "stages": [{"kind": "sft", "doses": [1]}, {"kind": "dpo", "doses": [1]}],
    })  # fmt: skip
    entries = [{"arm": a, "seed": s, "stage": k} for a in (A, C) for s in (0, 1) for k in ("sft", "dpo")]
    check_whole(entries, [], recipe, "cells.json")
    short = [e for e in entries if (e["arm"], e["seed"], e["stage"]) != (C, 1, "dpo")]
    with pytest.raises(InputError, match="cells.json: bob seed 1 has no measurements of dpo and is not said to have"):
        check_whole(short, [], recipe, "cells.json")
    check_whole(short, [failure(C, 1, "dpo")], recipe, "cells.json")
    with pytest.raises(InputError, match="bob seed 1 has no measurements of sft"):
        check_whole([e for e in short if (e["arm"], e["seed"]) != (C, 1)], [failure(C, 1, "dpo")], recipe, "cells.json")


def test_sentence_and_report_name_the_failed_runs_and_count_many():
    failed = [failure("kennedy", s, "dpo") for s in range(5)]
    verdict = synthetic.verdict() | {"failed": failed[:1]}
    said = table.sentence(verdict)
    assert said.endswith("kennedy seed 0 failed in dpo: loss is nan at step 3; pairs with kennedy are judged without "
                         "this seed.")  # fmt: skip
    many = verdict | {"failed": failed}
    assert table.sentence(many).endswith("2 more runs failed, with the same consequence.")
    given = {"rows": synthetic.rows(), "samples": synthetic.samples(), "lock": {}, "matching": []}
    page = report.render(verdict=many, **given)
    assert all(f"kennedy seed {s} failed in dpo" in page for s in range(5)) and "Failed runs" in page
    assert "Failed runs" not in report.render(verdict=verdict | {"failed": []}, **given)
    console = Console(width=120, file=io.StringIO(), color_system=None)
    console.print(table.verdict_table(many))
    assert "5 runs failed" in console.file.getvalue()
