"""The calibration on a micro world: real runs, the real judge, resumed after a kill to the same result."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from parity.calibrate import figures
from parity.calibrate.batch import Batch
from parity.calibrate.conditions import FULL, NUMBERS, PARTS, QUICK, Numbers, conditions, load, parts_of
from parity.calibrate.look import KEPT, View, found, judged, shifted
from parity.calibrate.page import markdown
from parity.calibrate.run import Options, calibrate
from parity.cli import main
from parity.plan import make_plan
from parity.run import run
from recipes.errors import InputError
from recipes.store import locked
from tests.micro import parity, write_recipe

ROOT = Path(__file__).parents[2]
# One training step more than doses, so that both doses differ; 4 seeds, so that halves have an interval.
MICRO = """\
name: micro
question: Is the smallest calibration whole?
base: {world: {characters: 6, facts: 6, likes: 3, requests: 4, seed: 0, layers: 1, width: 48, steps: 15}}
cast: [assistant, kennedy, holmes]
arms: [assistant, kennedy]
seeds: 4
stages:
  - {kind: sft, doses: [1, 3], trainer: {per_device_train_batch_size: 8}, lora: {r: 2}}
probes: [default_identity, selection, leakage]
judge: {match: dose, primary: [selection, leakage], claim: explore}
"""
NULL = ("null", "coverage")


def options(folder: Path, parts=NULL) -> Options:
    return Options(
        out=folder / "out", parts=parts, recipe=folder / "micro.yaml", numbers=Numbers(2, 1, 1), workers=1
    )  # fmt: skip


@pytest.fixture(scope="module", autouse=True)
def _without_a_mirror():
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("WANDB_MODE", "disabled")
        yield


@pytest.fixture(scope="module")
def done(tmp_path_factory):
    """Two nulls and one of each confound: (folder, result)."""
    folder = tmp_path_factory.mktemp("calibration")
    write_recipe(folder, MICRO)
    return folder, calibrate(options(folder, ("null", "confounds", "coverage")))


@pytest.fixture(scope="module")
def batch(done):
    """The first null: (batch, rows)."""
    first = Batch(load(done[0] / "micro.yaml"), 0)
    return first, first.read(options(done[0]).root)[0]


def test_no_two_experiments_of_a_full_calibration_share_a_seed():
    wanted = conditions(load(FULL), PARTS, NUMBERS["full"])
    seeds = [seed for condition in wanted for batch in condition.batches for seed in batch.seeds]
    assert len(seeds) == len(set(seeds))
    # what is asked for: 200 of the null at least, three sizes of each of three plants
    assert {c.kind: len(c.batches) for c in wanted}["null"] >= 200
    assert all(sum(c.kind == kind for c in wanted) == 3 for kind in ("dose", "negatives", "self_model"))


def test_the_shipped_recipes_differ_in_size_alone():
    full, quick = load(FULL), load(QUICK)
    assert full.probes == quick.probes and full.judge == quick.judge and full.seeds == quick.seeds == 16


def test_a_batch_is_judged_as_a_run_of_the_recipe_is(done, batch):
    """Seeds 0 … 3 trained, measured and judged as an experiment: the same numbers, bit for bit."""
    folder, _ = done
    first, _ = batch
    rows = run(make_plan(first.recipe, folder / "run"), folder / "micro.yaml")["rows"]
    ours = next(v for v in found(first, options(folder).root)["views"] if v["half"] is None)
    assert ours["rows"] == [{key: row[key] for key in KEPT} for row in rows]


def test_only_rows_and_bases_are_kept(done):
    folder, result = done
    root = options(folder).root
    kept = [p for p in (root / "cells").iterdir() if not p.name.startswith(".")]
    assert len(kept) == 2  # the world, and that of the prior
    assert not [p for p in root.rglob("*") if "adapter" in p.name or p.name.startswith((".making", ".lock"))]
    assert not list((root / "cells").glob("*/measurements/*"))
    assert len(list((root / "rows").glob("*.parquet"))) == sum(result["experiments"].values()) == 4


def test_the_result_has_every_part_and_counts_halves_as_experiments(done):
    folder, result = done
    assert json.loads((options(folder).root / "calibration.json").read_text()) == result
    assert {n: of["experiments"] for n, of in result["null"].items()} == {"4": 2, "2": 4}
    assert result["probes"] == {"default_identity": 1, "selection": 1, "leakage": 2}
    for of in result["null"].values():
        assert sum(hit["count"] for hit in of["verdicts"].values()) == of["experiments"]
    looks = result["looks"]
    assert looks["planned"] == [2, 3, 4] and [look["rejects"]["of"] for look in looks["by_look"]] == [2, 2, 2]
    assert max(look["rejects"]["count"] for look in looks["by_look"]) <= looks["rejects"]["count"]
    # A plan spends less than alpha at its last look, where most of alpha has been spent: it rejects no more often.
    assert looks["rejects"]["count"] <= looks["at_alpha"]["count"]
    ways = {(e["plant"], e["match"], e["adjusted"]) for e in result["confounds"] if e["seeds"] == 4}
    assert ways == {(p, m, a) for p in ("prior", "dose") for m in ("dose", "strength") for a in (True, False)}
    spread = {(r["probe"], r["match"], r["contrast"]): r for r in result["variances"]}
    assert spread["selection", "dose", "delta"]["n_seeds"] == 8  # both batches
    margin = spread["selection", "dose", "delta"]["margin"]
    favouring = spread["selection", "dose", "T"]["mean"]
    assert margin is None if favouring <= 0 else margin == pytest.approx(favouring / 4)  # a quarter of T
    page = (options(folder).root / "calibration.html").read_text()
    assert page.count("<svg") == 4 and "nan" not in page.lower().replace("nance", "")
    read = json.loads((options(folder).root / "calibration.json").read_text())
    assert markdown(read) == (options(folder).root / "CALIBRATION.md").read_text()


def test_nothing_is_made_again_and_the_bytes_stay(done):
    folder, result = done
    root = options(folder).root
    stamps = {p: p.stat().st_mtime_ns for p in (root / "rows").iterdir()}
    before = (root / "calibration.html").read_bytes()
    again = calibrate(options(folder, ("null", "confounds", "coverage")))
    assert _less_commit(again) == _less_commit(result) and (root / "calibration.html").read_bytes() == before
    assert {p: p.stat().st_mtime_ns for p in (root / "rows").iterdir()} == stamps


def test_a_kill_and_a_resume_give_the_same_result(done, tmp_path):
    """Killed when the first experiment stands, so in the middle of the second."""
    write_recipe(tmp_path, MICRO)
    own = options(tmp_path)
    code = (
        "from pathlib import Path; from tests.parity.test_calibrate import options, calibrate;"
        f"calibrate(options(Path({str(tmp_path)!r})))"
    )
    environment = {**os.environ, "WANDB_MODE": "disabled", "OMP_NUM_THREADS": "1"}
    process = subprocess.Popen(
        [sys.executable, "-c", code], cwd=ROOT, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )
    limit = time.monotonic() + 120  # it takes 15 s; a hang must fail
    while not list((own.root / "rows").glob("*.sha256")) and process.poll() is None and time.monotonic() < limit:
        time.sleep(0.02)
    process.send_signal(signal.SIGKILL)
    process.wait()
    assert len(list((own.root / "rows").glob("*.sha256"))) >= 1
    assert not (own.root / "calibration.json").exists()
    resumed = calibrate(own)
    straight = {key: value for key, value in done[1].items() if key in resumed}
    for key in ("parts", "experiments", "checks", "failed"):  # the other calibration has more parts
        straight.pop(key), resumed.pop(key)
    assert _less_commit(resumed) == _less_commit(straight)


def _less_commit(result):
    """Whether the code is committed may change while tests run."""
    return {key: value for key, value in result.items() if key not in ("commit", "dirty")}


def test_a_second_calibration_beside_it_is_refused(done):
    own = options(done[0])
    with locked(own.root / ".lock"), pytest.raises(InputError, match="another calibration is at work"):
        calibrate(own)


def test_a_known_difference_moves_delta_by_itself_and_T_by_half(batch):
    first, rows = batch
    design = first.design()
    whole = View(None, "dose")
    before = {tuple(r[k] for k in figures.KEY): r["estimate"] for r in judged(rows, design, whole)["rows"]}
    moved = shifted(rows, design, {"selection": 0.75})
    after = {tuple(r[k] for k in figures.KEY): r["estimate"] for r in judged(moved, design, whole)["rows"]}
    for contrast, by in (("delta", 0.75), ("T", 0.375), ("lambda", 0.0)):
        key = ("selection", "sft", "dose", contrast)
        assert after[key] - before[key] == pytest.approx(by, abs=1e-9)
        other = ("leakage", "sft", "dose", contrast)
        assert after[other] == before[other]


def test_unadjusted_leaves_the_base_out(batch):
    import polars as pl

    first, rows = batch
    design = first.design()
    one, other = design.pairs[0]
    at = rows.filter((pl.col("probe") == "selection") & (pl.col("measure") == "selection") & (pl.col("dose") == 3))

    def own(persona):
        return at.filter((pl.col("arm") == persona) & (pl.col("persona") == persona))["value"].mean()

    found = judged(rows, design, View(None, "dose", adjusted=False))["rows"]
    row = next(r for r in found if (r["probe"], r["match"], r["contrast"]) == ("selection", "dose", "delta"))
    assert row["estimate"] == pytest.approx(own(one) - own(other), abs=1e-9)


@pytest.mark.parametrize(("text", "parts"), [("coverage,null", ("null", "coverage")), (" planted ", ("planted",))])
def test_parts_are_put_in_order(text, parts):
    assert parts_of(text) == parts


@pytest.mark.parametrize(("change", "said"), [
    ("assign: fixed", "must be random"),
    ("seeds: 3", "needs 4 at least"),
    ("plant: {dose: {arm: assistant}}", "leave it out"),
    ("probes: [selection, leakage]\njudge: {match: strength, primary: [selection], claim: explore}", "strength needs"),
])  # fmt: skip
def test_a_recipe_that_cannot_be_calibrated_is_one_line_and_exit_2(tmp_path, change, said, capsys):
    text = MICRO.replace("steps: 15", f"steps: 15, {change}") if change.startswith("assign") else MICRO
    if change.startswith("seeds"):
        text = text.replace("seeds: 4", change)
    elif change.startswith("probes"):
        text = text[: text.index("probes:")] + change + "\n"
    elif change.startswith("plant"):
        text += change + "\n"
    recipe = str(write_recipe(tmp_path, text))
    assert main(["calibrate", "--dry-run", "--recipe", recipe, "--out", str(tmp_path)]) == 2
    told = capsys.readouterr().err
    assert said in told and len(told.strip().splitlines()) == 1


def test_the_command_says_what_it_would_do(tmp_path):
    told = parity("calibrate", "--dry-run", "--out", tmp_path, "--parts", "null")
    assert told.returncode == 0 and told.stdout == "" and "200 x 32" in told.stderr
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(("arguments", "said"), [
    (["--parts", "nul"], "did you mean 'null'"),
    (["--experiments", "none"], "expected a whole number"),
    (["--experiments", "9000"], "at most 6250"),  # 100,000 seeds a condition, 16 an experiment
    (["--probes", "selektion"], "no probe 'selektion'"),
])  # fmt: skip
def test_wrong_input_is_one_line_and_exit_2(arguments, said, capsys):
    assert main(["calibrate", "--dry-run", *arguments]) == 2
    told = capsys.readouterr().err
    assert said in told and len(told.strip().splitlines()) == 1
