"""Golden paths through the real command on the micro recipe: run, resume, repair, refuse."""

import hashlib
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import time

import pytest

from tests.micro import RECIPE, parity, write_recipe


@pytest.fixture(scope="module")
def done(tmp_path_factory):
    """The micro experiment, run once with W&B offline: (folder of the store, completed process)."""
    folder = tmp_path_factory.mktemp("micro")
    finished = parity("run", write_recipe(folder), "--out", folder / "out", wandb="offline")
    assert finished.returncode == 0, finished.stderr
    return folder, finished


def experiment(folder):
    (found,) = (folder / "out" / "experiments").glob("micro-*")
    return found


def copy(folder, to):
    shutil.copytree(folder / "out", to / "out")
    shutil.copy(folder / "micro.yaml", to / "micro.yaml")
    return to


def test_a_run_leaves_lock_cells_verdict_report_and_ends_with_the_table(done):
    folder, finished = done
    names = {p.name for p in experiment(folder).iterdir()}
    assert {"recipe.lock.yaml", "cells.json", "verdict.json", "report.html"} <= names
    assert "selection" in finished.stdout and "report:" in finished.stderr
    assert finished.stdout == parity("show", experiment(folder)).stdout  # the table and nothing else
    verdict = json.loads((experiment(folder) / "verdict.json").read_text())
    assert verdict["schema"] == 1 and verdict["seeds"] == [0, 1] and verdict["rows"]
    assert not verdict["post_hoc"]
    adapters = list((folder / "out" / "cells").glob("*/dose-*/adapter_model.safetensors"))
    assert len(adapters) == 2 * 2 * (3 + 2)  # arms x seeds x doses of both stages
    assert not list((folder / "out" / "cells").glob(".making-*"))


def test_nothing_is_made_again_and_the_bytes_stay(done, tmp_path):
    folder, _ = done
    before = (experiment(folder) / "verdict.json").read_bytes()
    stamps = {p: p.stat().st_mtime_ns for p in (folder / "out" / "cells").rglob("*") if p.is_file()}
    again = parity("run", folder / "micro.yaml", "--out", folder / "out")
    assert again.returncode == 0, again.stderr
    assert (experiment(folder) / "verdict.json").read_bytes() == before
    assert {p: p.stat().st_mtime_ns for p in (folder / "out" / "cells").rglob("*") if p.is_file()} == stamps
    judged = parity("judge", experiment(folder))
    assert judged.returncode == 0 and judged.stdout == again.stdout
    assert (experiment(folder) / "verdict.json").read_bytes() == before
    shown = parity("show", experiment(folder), "--json")
    assert shown.stdout.encode() == before


def test_turning_the_pair_round_negates_the_contrasts_exactly_and_trains_nothing(done, tmp_path):
    folder = copy(done[0], tmp_path)
    finished = parity("run", folder / "micro.yaml", "--out", folder / "out", "-s", "pairs=[[kennedy,assistant]]")
    assert finished.returncode == 0 and "0 to train" in finished.stderr
    first = json.loads((experiment(done[0]) / "verdict.json").read_text())
    (other,) = (p for p in (folder / "out" / "experiments").iterdir() if p.name != experiment(done[0]).name)
    second = json.loads((other / "verdict.json").read_text())
    assert first["verdict"] == second["verdict"]
    for a, b in zip(first["rows"], second["rows"], strict=True):
        if a["estimate"] is not None:
            # An arm's own measure, read at equal strength, and T are no exception: T stays, the others change sign.
            assert b["estimate"] == (a["estimate"] if a["contrast"] == "T" else -a["estimate"]), a
        assert a["p"] == b["p"] and a["verdict"] == b["verdict"]


def test_a_seed_more_trains_that_seed_and_nothing_else(done, tmp_path):
    folder = copy(done[0], tmp_path)
    before = set(os.listdir(folder / "out" / "cells"))
    finished = parity("run", folder / "micro.yaml", "--out", folder / "out", "-s", "seeds=3")
    assert finished.returncode == 0 and "4 to train" in finished.stderr, finished.stderr
    assert len(set(os.listdir(folder / "out" / "cells")) - before) == 4


def test_damage_is_named_and_only_that_cell_is_made_again(done, tmp_path):
    folder = copy(done[0], tmp_path)
    verdict = (experiment(folder) / "verdict.json").read_bytes()
    victim = sorted((folder / "out" / "cells").glob("*/dose-3/adapter_model.safetensors"))[0]
    bytes_before = victim.read_bytes()
    victim.write_bytes(bytes_before[:-1] + bytes([bytes_before[-1] ^ 1]))
    rows = sorted((folder / "out" / "cells").glob("*/measurements/selection*.parquet"))
    rows[0].write_bytes(rows[0].read_bytes()[:-10])
    others = {p: p.stat().st_mtime_ns for p in (folder / "out" / "cells").glob("*/dose-*/*.safetensors") if p != victim}
    finished = parity("run", folder / "micro.yaml", "--out", folder / "out")
    assert finished.returncode == 0, finished.stderr
    assert "dose-3/adapter_model.safetensors has changed" in finished.stderr
    assert victim.read_bytes() == bytes_before
    siblings = {p: t for p, t in others.items() if p.parents[1] != victim.parents[1]}
    assert {p: p.stat().st_mtime_ns for p in siblings} == siblings
    assert (experiment(folder) / "verdict.json").read_bytes() == verdict


def test_kills_at_random_moments_and_a_resume_give_the_same_bytes(done, tmp_path):
    recipe = write_recipe(tmp_path)
    draw = random.Random(7)
    environment = {**os.environ, "WANDB_MODE": "disabled", "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-m", "parity.cli", "run", str(recipe), "--out", str(tmp_path / "out")]
    for _ in range(3):
        process = subprocess.Popen(command, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        time.sleep(draw.uniform(4, 14))  # importing takes about 4 s, the whole run about 20
        process.send_signal(signal.SIGKILL)
        process.wait()
    finished = parity("run", recipe, "--out", tmp_path / "out")
    assert finished.returncode == 0, finished.stderr
    assert (experiment(tmp_path) / "verdict.json").read_bytes() == (experiment(done[0]) / "verdict.json").read_bytes()


def test_a_run_that_diverges_is_named_and_its_seed_dropped_from_the_pair(done, tmp_path):
    """The adapter that one DPO run starts from is made useless: everything else goes on."""
    from safetensors.numpy import load_file, save_file

    folder = copy(done[0], tmp_path)
    store = folder / "out" / "cells"
    cells = json.loads((experiment(folder) / "cells.json").read_text())["cells"]
    by_stage = {e["stage"]: e["cell"] for e in cells if (e["arm"], e["seed"]) == ("kennedy", 1)}
    shutil.rmtree(store / by_stage["dpo"])
    broken = store / by_stage["sft"] / "dose-4" / "adapter_model.safetensors"
    weights = load_file(broken)
    next(iter(weights.values()))[0, 0] = float("nan")
    save_file(weights, broken, metadata={"format": "pt"})
    manifest = store / by_stage["sft"] / "manifest.json"  # as if that were what training had left
    told = json.loads(manifest.read_text())
    told["files"]["dose-4/adapter_model.safetensors"] = hashlib.sha256(broken.read_bytes()).hexdigest()
    manifest.write_text(json.dumps(told))
    finished = parity("run", folder / "micro.yaml", "--out", folder / "out")
    assert finished.returncode == 0, finished.stderr
    verdict = json.loads((experiment(folder) / "verdict.json").read_text())
    (failed,) = verdict["failed"]
    assert (failed["arm"], failed["seed"], failed["stage"]) == ("kennedy", 1, "dpo")
    assert "kennedy seed 1 failed in dpo" in " ".join(finished.stdout.split())
    assert "kennedy seed 1 failed in dpo" in (experiment(folder) / "report.html").read_text()
    before = json.loads((experiment(done[0]) / "verdict.json").read_text())
    assert before["failed"] == []
    for old, new in zip(before["rows"], verdict["rows"], strict=True):
        if old["match"] == "dose" and old["n_seeds"] == 2:
            assert new["n_seeds"] == (1 if new["stage"] == "dpo" else 2), new


def test_a_second_run_on_the_experiment_is_refused(done):
    from recipes.store import locked

    folder, _ = done
    with locked(experiment(folder) / ".lock"):
        second = parity("run", folder / "micro.yaml", "--out", folder / "out")
    assert second.returncode == 2 and len(second.stderr.strip().splitlines()[-1:]) == 1
    assert "another run is at work" in second.stderr


def test_a_change_after_the_lock_is_post_hoc_and_listed(done, tmp_path):
    folder = copy(done[0], tmp_path)
    lock = experiment(folder) / "recipe.lock.yaml"
    lock.write_text(lock.read_text().replace('"selection": 1', '"selection": 0'))
    finished = parity("judge", experiment(folder))
    assert finished.returncode == 0, finished.stderr
    verdict = json.loads((experiment(folder) / "verdict.json").read_text())
    assert verdict["post_hoc"] == ["version of the probe selection: 0 when locked, 1 now"]
    assert "selection: 0 when locked" in (experiment(folder) / "report.html").read_text()


def test_wandb_offline_mirrors_every_stage_and_the_verdict(done):
    folder, finished = done
    assert "W&B:" not in finished.stderr
    runs = list((folder / "out").rglob("offline-run-*"))
    # A run per arm x seed x stage, an eval run beside each, and the verdict.
    assert len(runs) == 2 * (2 * 2 * 2) + 1


def test_trl_under_accelerate_makes_the_cell_that_lockstep_made(done, tmp_path):
    from safetensors.numpy import load_file

    folder = copy(done[0], tmp_path)
    cells = folder / "out" / "cells"
    shutil.rmtree(folder / "out" / "experiments")
    sft = [p.parent for p in cells.glob("*/manifest.json") if json.loads(p.read_text())["spec"]["kind"] == "sft"]
    kept = {p.name: load_file(p / "dose-4" / "adapter_model.safetensors") for p in sft}
    logged = {p.name: [json.loads(line) for line in (p / "metrics.jsonl").read_text().splitlines()] for p in sft}
    for path in sft:
        shutil.rmtree(path)
    environment = {**os.environ, "WANDB_MODE": "disabled", "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-m", "accelerate.commands.launch", "--cpu", "--num_processes", "1"]
    command += [
        "-m",
        "training.sft",
        "--recipe",
        str(folder / "micro.yaml"),
        "--arm",
        "kennedy",
        "--seed",
        "1",
        "--out",
        str(folder / "out"),
    ]
    done_ = subprocess.run(command, env=environment, capture_output=True, text=True, check=False, timeout=300)
    assert done_.returncode == 0, done_.stderr
    made = [name for name in kept if (cells / name).is_dir()]
    assert len(made) == 1
    again = load_file(cells / made[0] / "dose-4" / "adapter_model.safetensors")
    assert again.keys() == kept[made[0]].keys()
    for name, weight in again.items():
        # Rounding: the initial weights are about .1, a step moves them by 2e-3; a wrong order of rows moves 1e-3.
        assert abs(weight - kept[made[0]][name]).max() < 1e-5, name
    lines = [json.loads(line) for line in (cells / made[0] / "metrics.jsonl").read_text().splitlines()]
    assert [line["step"] for line in lines] == [1, 2, 3, 4]
    for line, ours in zip(lines, logged[made[0]], strict=True):
        for name in ours:
            assert line[name] == pytest.approx(ours[name], abs=1e-5), name


def test_an_out_that_is_a_file_is_told_in_one_line(tmp_path):
    (tmp_path / "file").write_text("kept")
    finished = parity("run", write_recipe(tmp_path), "--out", tmp_path / "file")
    assert finished.returncode == 2 and "Traceback" not in finished.stderr
    assert finished.stderr.strip().splitlines()[-1].startswith(f"{tmp_path / 'file'}"), finished.stderr
    assert (tmp_path / "file").read_text() == "kept"


def test_a_bad_recipe_makes_nothing(tmp_path):
    recipe = write_recipe(tmp_path, RECIPE.replace("doses: [1, 2, 4]", "doses: [4, 2, 1]"))
    finished = parity("run", recipe, "--out", tmp_path / "out")
    assert finished.returncode == 2
    assert len(finished.stderr.strip().splitlines()) == 1 and "micro.yaml:8" in finished.stderr
    assert not (tmp_path / "out").exists()
