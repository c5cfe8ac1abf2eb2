"""A small cast through the real command: characters without cards, many pairs, a run that failed."""

import json
import shutil

import pytest

from tests.micro import parity, write_recipe

ARMS = ["assistant", *(f"control-{n:02d}" for n in range(1, 6))]
RECIPE = f"""\
name: micro-cast
question: Does the smallest cast run?
base: {{world: {{characters: 6, facts: 6, likes: 3, requests: 4, seed: 0, layers: 1, width: 48, steps: 20}}}}
cast: &all [{", ".join(ARMS)}]
arms: *all
seeds: 2
stages:
  - {{kind: sft, doses: [1, 2], trainer: {{per_device_train_batch_size: 4}}, lora: {{r: 2}}}}
  - {{kind: dpo, doses: [1, 2], trainer: {{per_device_train_batch_size: 2, beta: 0.1}}, lora: {{r: 2}}}}
probes: [default_identity, selection]
judge: {{claim: explore, match: dose, primary: [selection]}}
"""


@pytest.fixture(scope="module")
def done(tmp_path_factory):
    folder = tmp_path_factory.mktemp("cast")
    finished = parity("run", write_recipe(folder, RECIPE), "--out", folder / "out")
    assert finished.returncode == 0, finished.stderr
    (experiment,) = (folder / "out" / "experiments").iterdir()
    return experiment, finished


def verdict_of(experiment):
    return json.loads((experiment / "verdict.json").read_text())


def seeds(verdict, arm, stage):
    # Equal strength is out of reach of so few steps.
    rows = [r for r in verdict["rows"] if r["match"] == "dose" and r["stage"] == stage]
    return {r["n_seeds"] for r in rows if arm in r["pair"]}


def test_a_world_runs_a_cast_without_cards_and_tells_its_pairs_together(done):
    experiment, finished = done
    assert "24 to train" in finished.stderr and "1 over 5 pairs" in finished.stderr  # 6 arms x 2 seeds x 2 stages
    verdict = verdict_of(experiment)
    assert verdict["arms"] == ARMS and verdict["failed"] == []
    assert {tuple(r["pair"]) for r in verdict["rows"]} == {(ARMS[0], other) for other in ARMS[1:]}
    assert seeds(verdict, ARMS[0], "dpo") == {2}
    cast = verdict["cast"]
    assert cast["controls"] == 5 and cast["verdict"] == "out of reach" and cast["smallest_p"] == 1 / 6
    assert {r["probe"] for r in cast["rows"]} == {"default_identity", "selection"}
    assert "among 6 characters no p can be below .17" in finished.stdout.replace("\n", " ")
    assert "5 pairs" in finished.stdout and all(arm in (experiment / "report.html").read_text() for arm in ARMS)
    assert finished.stdout == parity("show", experiment).stdout


def test_a_failed_run_costs_its_own_pair_a_seed_and_a_missing_one_is_an_error(done, tmp_path):
    shutil.copytree(done[0].parent.parent, tmp_path / "out")
    experiment = tmp_path / "out" / "experiments" / done[0].name
    cells = json.loads((experiment / "cells.json").read_text())
    gone = ("control-03", 1, "dpo")
    cells["cells"] = [c for c in cells["cells"] if (c["arm"], c["seed"], c["stage"]) != gone]
    (experiment / "cells.json").write_text(json.dumps(cells))
    refused = parity("judge", experiment)
    assert refused.returncode == 2 and "control-03 seed 1 has no measurements of dpo" in refused.stderr
    cells["failed"] = [{"arm": "control-03", "seed": 1, "stage": "dpo", "what": "loss is nan at step 2"}]
    (experiment / "cells.json").write_text(json.dumps(cells))
    judged = parity("judge", experiment)
    assert judged.returncode == 0, judged.stderr
    verdict, before = verdict_of(experiment), verdict_of(done[0])
    assert verdict["failed"] == cells["failed"]
    assert seeds(verdict, "control-03", "dpo") == {1} and seeds(verdict, "control-03", "sft") == {2}
    others = [[r for r in v["rows"] if "control-03" not in r["pair"]] for v in (verdict, before)]
    assert others[0] == others[1]
    assert "control-03 seed 1 failed in dpo" in judged.stdout
    assert "loss is nan at step 2" in (experiment / "report.html").read_text()
