"""The arms for reference through the real command on the micro recipe."""

import json
import os
import re
import shutil
import subprocess
import sys

import pytest

from recipes.references import TWIN_SEED
from tests.micro import RECIPE, parity, write_recipe

KINDS = {"reference/random-text", "reference/twin/assistant", "reference/placebo/assistant"}


@pytest.fixture(scope="module")
def done(tmp_path_factory):
    """The micro experiment with all arms for reference: (folder, its experiment, completed process)."""
    folder = tmp_path_factory.mktemp("references")
    # three probes, since what is tested is the way of the arms and not the suite
    text = RECIPE + "references: [twin, random-text, placebo]\nprobes: [default_identity, selection, capability]\n"
    text = text.replace("judge: {claim: explore}", "judge: {claim: explore, primary: [selection]}")
    finished = parity("run", write_recipe(folder, text), "--out", folder / "out")
    assert finished.returncode == 0, finished.stderr
    (experiment,) = (folder / "out" / "experiments").glob("micro-*")
    return folder, experiment, finished


def cells_of(folder, experiment, arm):
    """Folders of an arm's trained cells, by seed and stage."""
    told = json.loads((experiment / "cells.json").read_text())["cells"]
    return {
        (e["seed"], e["stage"]): folder / "out" / "cells" / e["cell"]
        for e in told
        if e["arm"] == arm and e["stage"] != "base"
    }


def test_references_are_trained_measured_and_told_apart(done):
    folder, experiment, finished = done
    assert "12 cells; 12 to train" in finished.stderr  # 3 kinds x 2 seeds x 2 stages
    verdict = json.loads((experiment / "verdict.json").read_text())
    assert set(verdict["references"]["arms"]) == KINDS
    assert verdict["arms"] == ["assistant", "kennedy"]
    assert {tuple(r["pair"]) for r in verdict["rows"]} == {("assistant", "kennedy")}
    assert {tuple(r["pair"]) for r in verdict["references"]["placebo"]} == {
        ("assistant", "reference/placebo/assistant")
    }
    assert all(r["n_twins"] == 2 for r in verdict["references"]["twin"] if r["match"] == "dose")
    assert {r["probe"] for r in verdict["references"]["random_text"] if r["n_seeds"] == 2} >= {
        "selection",
        "capability",
    }
    assert {r["stage"] for r in verdict["prompted"]} == {"sft", "dpo", "run"}
    predicted = [p for h in verdict["hypotheses"] for p in h["predictions"]]
    assert {o["stage"] for p in predicted for o in p["outcomes"] if "stage" in o} <= {"sft", "dpo"}
    report = (experiment / "report.html").read_text()
    for heading in ("Trained against prompted", "Random text: what", "Twins: the noise", "Placebo: the first arm"):
        assert heading in report
    assert "Placebo, apart from the verdict" in finished.stdout and "Twins, sd over seeds" in finished.stdout
    assert finished.stdout == parity("show", experiment).stdout


def test_without_references_the_same_cells_give_the_same_rows_and_nothing_more(done, tmp_path):
    folder, experiment, _ = done
    shutil.copytree(folder / "out" / "cells", tmp_path / "out" / "cells")
    plain = write_recipe(tmp_path, (folder / "micro.yaml").read_text().replace("references:", "# "))
    finished = parity("run", plain, "--out", tmp_path / "out")
    assert finished.returncode == 0 and "0 to train" in finished.stderr and "\nreferences " not in finished.stderr
    (other,) = (tmp_path / "out" / "experiments").glob("micro-*")
    with_them, without = (json.loads((e / "verdict.json").read_text()) for e in (experiment, other))
    assert "references" not in without
    own = {"experiment", "recipe_hash", "references", "foreseen"}
    for key in set(with_them) - own:
        assert with_them[key] == without[key], key


def test_a_twin_has_the_data_of_its_arm_and_another_start(done):
    from safetensors.numpy import load_file

    folder, experiment, _ = done
    twins, arms = (cells_of(folder, experiment, arm) for arm in ("reference/twin/assistant", "assistant"))
    assert set(twins) == set(arms) and len(twins) == 4
    for (seed, stage), cell in twins.items():
        own = arms[seed, stage]
        assert (cell / "data.jsonl").read_bytes() == (own / "data.jsonl").read_bytes()
        assert re.search(rf"^seed: {seed + TWIN_SEED}$", (cell / "trl.yaml").read_text(), re.MULTILINE)
        one, other = (load_file(c / "dose-1" / "adapter_model.safetensors") for c in (cell, own))
        down = [name for name in one if "lora_A" in name]
        # LoRA's A starts random, about .1 in size, and a step moves it by 2e-3
        assert down and all(abs(one[name] - other[name]).max() > 0.05 for name in down)


def test_trl_makes_the_twin_that_lockstep_made(done, tmp_path):
    from safetensors.numpy import load_file

    folder, experiment, _ = done
    kept = cells_of(folder, experiment, "reference/twin/assistant")[1, "sft"]
    (base,) = (
        p.parent
        for p in (folder / "out" / "cells").glob("*/manifest.json")
        if json.loads(p.read_text())["spec"]["kind"] == "base"
    )
    shutil.copytree(base, tmp_path / "out" / "cells" / base.name)
    environment = {**os.environ, "WANDB_MODE": "disabled", "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-m", "training.sft", "--recipe", str(folder / "micro.yaml"), "--seed", "1"]
    command += ["--arm", "reference/twin/assistant", "--out", str(tmp_path / "out")]
    finished = subprocess.run(command, env=environment, capture_output=True, text=True, check=False, timeout=300)
    assert finished.returncode == 0, finished.stderr
    mine, theirs = (
        load_file(c / "dose-4" / "adapter_model.safetensors") for c in (tmp_path / "out" / "cells" / kept.name, kept)
    )
    for name, weight in mine.items():
        assert abs(weight - theirs[name]).max() < 1e-5, name  # rounding, as for every arm


def test_a_reference_that_is_none_is_refused_in_one_line(tmp_path):
    recipe = write_recipe(tmp_path, RECIPE + "references: [twins]\n")
    finished = parity("run", recipe, "--out", tmp_path / "out", "--dry-run")
    assert finished.returncode == 2 and len(finished.stderr.strip().splitlines()) == 1
    assert "micro.yaml:11" in finished.stderr and "twin" in finished.stderr
