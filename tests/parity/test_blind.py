"""A blind experiment through the real command: run, judge, show, unblind, judge again."""

from __future__ import annotations

import hashlib
import json
import re
import shutil
from base64 import b64decode
from pathlib import Path

import pytest

from recipes.load import load_recipe
from recipes.scenes import scene_of
from tests.micro import RECIPE, parity, write_recipe

BLIND = RECIPE.replace("claim: explore", "claim: explore, blind: true")
NUMBERS = ("estimate", "low", "high", "p", "p_adjusted", "margin", "n_seeds", "n_items", "strength", "note", "missing")


@pytest.fixture(scope="module")
def done(tmp_path_factory):
    """The micro experiment run blind, with W&B offline: (its folder, the recipe's file, what was printed)."""
    folder = tmp_path_factory.mktemp("blind")
    recipe = write_recipe(folder, BLIND)
    finished = parity("run", recipe, "--out", folder / "out", wandb="offline")
    assert finished.returncode == 0, finished.stderr
    (experiment,) = (folder / "out" / "experiments").glob("micro-*")
    return experiment, recipe, finished


@pytest.fixture
def copied(done, tmp_path):
    """A copy of the store, to unblind in."""
    shutil.copytree(done[0].parents[1], tmp_path / "out")
    return tmp_path / "out" / "experiments" / done[0].name


def verdict_of(experiment: Path) -> dict:
    return json.loads((experiment / "verdict.json").read_text())


def names(recipe_file: Path) -> list[str]:
    """Ids of the cast, and the names that they have in a scene."""
    recipe = load_recipe(recipe_file)
    return [*recipe.cast, *(p.name for seed in range(recipe.seeds) for p in scene_of(recipe, seed).personas)]


def test_nothing_that_is_shown_names_a_persona(done):
    experiment, recipe, finished = done
    html = (experiment / "report.html").read_text()
    files = [b64decode(data).decode() for data in re.findall(r"data:text/csv;base64,([\w+/=]*)", html)]
    assert len(files) > 5
    shown = [html, *files, (experiment / "verdict.json").read_text(), finished.stdout]
    assert parity("show", experiment).stdout == finished.stdout
    for text in shown:
        for name in names(recipe):
            assert not re.search(rf"(?<![a-z]){name}(?![a-z])", text, re.IGNORECASE), name
    verdict = verdict_of(experiment)
    assert verdict["arms"] == ["X", "Y"] and {tuple(r["pair"]) for r in verdict["rows"]} == {("X", "Y")}
    assert verdict["blind"] == {"unblinded": None} and "hypotheses" not in verdict and verdict["question"] is None
    assert "Blind: labels stand for personas" in finished.stdout.replace("\n", " ")
    assert "texts-data" not in html and "withheld while" in html  # what they say would name them


def test_judging_again_changes_no_byte_and_the_salt_is_locked(done):
    experiment, _, _ = done
    before = (experiment / "verdict.json").read_bytes()
    judged = parity("judge", experiment)
    assert judged.returncode == 0 and (experiment / "verdict.json").read_bytes() == before
    salt = json.loads((experiment / "blind.json").read_text())["salt"]
    locked = hashlib.sha256(salt.encode()).hexdigest()
    lock = (experiment / "recipe.lock.yaml").read_text()
    assert f'blind: "{locked}"' in lock and salt not in lock


def test_the_mirror_names_no_arm(done):
    """Neither the runs' files nor what is kept of their settings and artifacts."""
    experiment, _, _ = done
    runs = list(experiment.parents[1].rglob("offline-run-*"))
    assert len(runs) == 2 * (2 * 2 * 2) + 1  # as in an open experiment: two per arm, seed and stage, and the verdict
    for file in (path for run in runs for path in run.rglob("*") if path.is_file()):
        data = file.read_bytes().lower()
        assert b"kennedy" not in data and b"assistant" not in data, file


def test_unblinding_gives_the_same_numbers_with_signs_mapped_and_is_recorded(done, copied):
    shut, read = verdict_of(copied), (copied / "verdict.json").read_bytes()
    opened = parity("unblind", copied)
    assert opened.returncode == 0, opened.stderr
    verdict = verdict_of(copied)
    assert verdict["arms"] == ["assistant", "kennedy"] and verdict["hypotheses"]
    assert verdict["verdict"] == shut["verdict"] and verdict["question"] == "Does the smallest experiment run?"
    record = verdict["blind"]["unblinded"]
    assert record == {"seeds": 2, "verdict": shut["verdict"], "sha256": hashlib.sha256(read).hexdigest()}
    assert (copied / "verdict.blind.json").read_bytes() == read
    assert not re.search(r"\d\d:\d\d|20\d\d-", json.dumps(record))  # no clock
    key = ("probe", "stage", "match", "contrast")
    by = {tuple(r[k] for k in key): r for r in shut["rows"]}
    signs = set()
    for row in verdict["rows"]:
        other = by[tuple(row[k] for k in key)]
        if row["estimate"] and row["contrast"] != "T":
            signs.add(row["estimate"] / other["estimate"])
        turned = signs == {-1.0} and row["contrast"] != "T" and row["estimate"] is not None
        ends = ("estimate", "estimate"), ("low", "high"), ("high", "low")
        mapped = {to: None if row[of] is None else -row[of] + 0.0 for to, of in ends} if turned else {}
        assert {k: (row | mapped)[k] for k in NUMBERS} == {k: other[k] for k in NUMBERS}, row
        assert row["verdict"] == other["verdict"] and (row["sign"] is None) == (other["sign"] is None)
    assert signs in ({1.0}, {-1.0})  # one draw for all rows
    html = (copied / "report.html").read_text()
    assert "Unblinded after 2 seeds" in html and "kennedy arm" in html and "texts-data" in html
    again = parity("judge", copied)
    assert again.returncode == 0 and verdict_of(copied) == verdict
    resumed = parity("run", done[1], "--out", copied.parents[1])  # the recipe still says blind
    assert resumed.returncode == 0 and verdict_of(copied) == verdict


def test_a_run_of_an_open_recipe_does_not_open_it(done, tmp_path):
    refused = parity("run", write_recipe(tmp_path), "--out", done[0].parents[1])
    assert refused.returncode == 2 and "`parity unblind` opens it" in refused.stderr.splitlines()[-1]
    assert verdict_of(done[0])["arms"] == ["X", "Y"]


def test_what_cannot_be_unblinded_is_refused_in_one_line(tmp_path, copied):
    nowhere = parity("unblind", tmp_path)
    assert nowhere.returncode == 2 and len(nowhere.stderr.strip().splitlines()) == 1
    (copied / "blind.json").write_text('{"salt": "another"}')
    other = parity("judge", copied)
    assert other.returncode == 2 and "not the salt that was locked" in other.stderr
    assert len(other.stderr.strip().splitlines()) == 1
