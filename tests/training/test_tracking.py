"""The mirror of training, against what W&B keeps on disk: attempts that were killed, resumed, or could not be sent."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

from recipes.load import load_recipe
from tests.micro import RECIPE, write_recipe
from tests.runlog import read, runs
from tests.runserver import Server

ROOT = Path(__file__).parents[2]
BEGIN = """\
import sys, time
from pathlib import Path
from recipes.load import load_recipe
from recipes.store import Store
from training.cells import Cell
from training.tracking import CellMirror

recipe, out = load_recipe(Path(sys.argv[1])), Path(sys.argv[2])
cells = [Cell(f"{n}" * 64, {"kind": "sft", "doses": [4]}, "kennedy", n, 0) for n in (1, 2)]
"""
KEY = "5ec7e7" * 7  # 42 letters: W&B takes no shorter key


def script(folder: Path, text: str, **environment: str) -> subprocess.Popen[str]:
    path = folder / "script.py"
    path.write_text(BEGIN + text)
    # Not through the service of the tests' own process, where runs of a killed script would stay in use.
    own = {key: value for key, value in os.environ.items() if key != "WANDB_SERVICE"}
    return subprocess.Popen(
        [sys.executable, str(path), str(write_recipe(folder)), str(folder / "out")],
        env={**own, "PYTHONPATH": str(ROOT), **environment},
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def test_a_killed_attempt_still_reads_and_the_next_one_has_its_steps(tmp_path):
    """Offline `wandb sync` lets the last folder of an id stand: it must not begin in the middle."""
    first = "mirror = CellMirror(recipe, cells[0], out)\nmirror.begin()\n"
    first += "for step in (1, 2): mirror.log({'loss': 1 / step}, step)\nprint('there', flush=True)\ntime.sleep(60)\n"
    process = script(tmp_path, first, WANDB_MODE="offline")
    assert process.stdout is not None and process.stdout.readline() == "there\n"
    time.sleep(3)  # W&B's own process writes the log once a second
    process.kill()
    process.communicate()
    (killed,) = runs(tmp_path / "out")
    # W&B holds back the last line until it knows that no more comes for its step.
    assert [line["loss"] for line in killed.history] == [1]
    assert not killed.ended and killed.config["arm"] == "kennedy"

    again = "kept = Store(out).work(cells[0].hash) / 'scratch'\nkept.mkdir(parents=True)\n"
    again += '(kept / \'metrics.jsonl\').write_text(\'{"loss": 1.0, "step": 1}\\n{"loss": 0.5, "step": 2}\\n\')\n'
    again += "mirror = CellMirror(recipe, cells[0], out)\nmirror.begin()\nmirror.log({'loss': 0.25}, 3)\nmirror.end()\n"
    process = script(tmp_path, again, WANDB_MODE="offline")
    assert process.communicate() == ("", "") and process.returncode == 0
    (whole,) = (run for run in runs(tmp_path / "out") if run.ended)
    assert whole.id == killed.id == "1" * 32
    assert [(line["step"], line["_step"], line["loss"]) for line in whole.history] == [
        (1, 1, 1),
        (2, 2, 0.5),
        (3, 3, 0.25),
    ]
    assert whole.axes == {"step": "", "*": "step"}


def test_an_unreachable_server_is_said_once_and_the_mirror_goes_on_offline(tmp_path):
    text = "for cell in cells:\n    mirror = CellMirror(recipe, cell, out)\n    mirror.begin()\n"
    text += "    mirror.log({'loss': 1.0}, 1)\n    mirror.end()\n"
    process = script(
        tmp_path, text, WANDB_MODE="online", WANDB_BASE_URL="http://127.0.0.1:9", WANDB_API_KEY=KEY
    )  # nothing listens on the port that is kept for discarding
    out, err = process.communicate(timeout=80)  # W&B alone tries for 90 s, and for each run
    assert process.returncode == 0
    assert out == "" and len(err.strip().splitlines()) == 1, err
    assert "reaching the server failed" in err and "goes on offline" in err
    kept = runs(tmp_path / "out")
    assert [(run.id, [line["loss"] for line in run.history]) for run in kept] == [("1" * 32, [1]), ("2" * 32, [1])]
    files = [path for path in (tmp_path / "out").rglob("*") if path.is_file()]
    assert files and not [path for path in files if KEY.encode() in path.read_bytes()]


def test_a_server_that_goes_away_costs_seconds_and_no_line_of_the_mirror(tmp_path):
    text = "from training import tracking\ntracking.FINISH_SECONDS = 3\n"
    text += "for n, cell in enumerate([*cells, Cell('3' * 64, cells[0].spec, 'kennedy', 3, 0)]):\n"
    text += "    mirror = CellMirror(recipe, cell, out)\n    mirror.begin()\n    mirror.log({'loss': 1.0}, 1)\n"
    text += "    if n == 1:\n        print('begun', flush=True)\n        sys.stdin.readline()\n"
    text += "    mirror.end()\n"
    with Server() as server:
        process = script(tmp_path, text, WANDB_MODE="online", WANDB_BASE_URL=server.url, WANDB_API_KEY=KEY)
        assert process.stdout is not None and process.stdout.readline() == "begun\n"
    out, err = process.communicate("\n", timeout=60)
    assert process.returncode == 0 and len(err.strip().splitlines()) == 2, err
    assert "sending all of a run failed" in err and "reaching the server failed" in err
    assert list(dict.fromkeys(server.started)) == ["1" * 32, "2" * 32]
    assert [line["loss"] for line in server.history["1" * 32].values()] == [1]
    (later,) = runs(tmp_path / "out")  # the third run is the first that is started offline
    assert later.id == "3" * 32 and later.history[0]["loss"] == 1
    (cut,) = (tmp_path / "out" / "wandb").glob(f"run-*-{'2' * 32}")
    assert [line["loss"] for line in read(cut).history] == [1]  # what was not sent is on disk


def test_disabled_does_nothing(tmp_path, monkeypatch):
    from training.tracking import start

    monkeypatch.setenv("WANDB_MODE", "disabled")
    recipe = load_recipe(write_recipe(tmp_path))
    assert start(recipe, id="x", name="x", job_type="sft", folder=tmp_path / "out") is None
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("name", "blind", "group"),
    [("micro", True, "micro-"), ("kennedy-1", True, "blind-"), ("kennedy-1", False, "kennedy-1-")],
)
def test_a_blind_experiments_group_names_no_persona(tmp_path, name, blind, group):
    from training.tracking import experiment_name, group_name

    text = RECIPE.replace("name: micro", f"name: {name}").replace("explore", f"explore, blind: {str(blind).lower()}")
    recipe = load_recipe(write_recipe(tmp_path, text))
    assert group_name(recipe) == group + experiment_name(recipe).rsplit("-", 1)[1]
