"""The mirror of a whole experiment as W&B keeps it on disk, and the report over it: a real run, a local server."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import polars as pl
import pytest

from parity.cli import main
from tests.micro import RECIPE, parity, write_recipe
from tests.parity.board import check, grids, unlike
from tests.runlog import Kept, runs
from tests.runserver import Server

# Three probes and readings at equal dose: quick, and every contrast has a number.
SMALL = RECIPE.replace("claim: explore", "claim: explore, match: dose, primary: [selection, leakage]")
SMALL += "probes: [default_identity, selection, leakage]\ntracking: {project: lab, artifacts: always}\n"
KEY = "5ec7e7" * 7  # 42 letters: W&B takes no shorter key


@pytest.fixture(scope="module")
def done(tmp_path_factory) -> Path:
    """The folder of a small experiment that was mirrored offline, with a key at hand."""
    folder = tmp_path_factory.mktemp("mirrored")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("WANDB_API_KEY", KEY)
        finished = parity("run", write_recipe(folder, SMALL), "--out", folder / "out", wandb="offline")
    assert finished.returncode == 0 and "W&B" not in finished.stderr, finished.stderr
    (experiment,) = (folder / "out" / "experiments").iterdir()
    return experiment


@pytest.fixture(scope="module")
def kept(done) -> list[Kept]:
    """All W&B runs of the experiment."""
    return runs(done.parents[1])


@pytest.fixture(scope="module")
def blind(done, tmp_path_factory) -> Path:
    """The same cells as a blind experiment, in a store of its own."""
    folder = tmp_path_factory.mktemp("blind")
    shutil.copytree(done.parents[1] / "cells", folder / "out" / "cells")
    recipe = write_recipe(folder, SMALL.replace("claim: explore", "claim: explore, blind: true"))
    finished = parity("run", recipe, "--out", folder / "out", wandb="offline")
    assert finished.returncode == 0, finished.stderr
    (experiment,) = (folder / "out" / "experiments").iterdir()
    return experiment


def cells_of(experiment: Path) -> list[dict]:
    entries = json.loads((experiment / "cells.json").read_text())["cells"]
    return [entry for entry in entries if entry["stage"] != "base"]


def verdict_of(experiment: Path) -> dict:
    return json.loads((experiment / "verdict.json").read_text())


def specification(experiment: Path, capsys, *more: str) -> dict:
    assert main(["dashboard", str(experiment), "--json", *more]) == 0
    return json.loads(capsys.readouterr().out)


def test_every_stage_of_every_run_is_a_run_of_wandb_with_its_curves(done, kept):
    by_id = {run.id: run for run in kept}
    assert len(by_id) == len(kept) == 2 * len(cells_of(done)) + 1  # its training, its eval, and the verdict
    for entry in cells_of(done):
        run, cell = by_id[entry["cell"][:32]], done.parents[1] / "cells" / entry["cell"]
        assert (run.group, run.job, run.tags) == (done.name, entry["stage"], [entry["arm"], "world", "micro"])
        spec = json.loads((cell / "manifest.json").read_text())["spec"]
        told = {"experiment": done.name, "recipe": "micro", "base": "world", "arm": entry["arm"], "seed": entry["seed"]}
        assert run.config == spec | told | {"stage": entry["stage"]} and run.ended
        lines = [json.loads(line) for line in (cell / "metrics.jsonl").read_text().splitlines()]
        assert [{key: line[key] for key in lines[0]} for line in run.history] == lines
        assert all(line["_step"] == line["step"] for line in run.history) and run.axes["*"] == "step"
        assert entry["stage"] != "dpo" or {"loss", "rewards/margins"} <= lines[0].keys()


def test_strength_by_dose_is_that_of_the_rows(done, kept):
    by_id = {run.id: run for run in kept}
    for entry in cells_of(done):
        run = by_id[f"{entry['cell'][:24]}-eval"]
        file = done.parents[1] / "cells" / entry["cell"] / "measurements" / entry["measurements"]["default_identity"]
        rows = pl.read_parquet(file).filter(pl.col("persona") == entry["arm"])
        first = rows["measure"][0]  # the headline measure comes first in a probe's rows
        values = {
            dose: rows.filter((pl.col("dose") == dose) & (pl.col("measure") == first))["value"].to_list()
            for dose in rows["dose"].unique().to_list()
        }
        assert {line["dose"]: line["strength"] for line in run.history} == pytest.approx(
            {dose: sum(each) / len(each) for dose, each in values.items()},
            rel=1e-12,  # the order of the sum
        )
        assert len(values) == len(run.history) and run.axes["strength"] == "dose"
        told = {"arm": entry["arm"], "seed": entry["seed"], "stage": entry["stage"]}
        assert (run.group, run.job) == (done.name, "eval") and told.items() <= run.config.items()


def test_the_verdicts_run_has_table_pictures_and_samples(done, kept):
    from PIL import Image

    (run,) = (run for run in kept if run.job == "verdict")
    verdict = verdict_of(done)
    assert run.summary["verdict"] == verdict["verdict"] and run.summary["verdict_rows"] == len(verdict["rows"])
    shown = run.table("verdict_table")
    assert len(shown) == len(verdict["rows"])
    for row, true in zip(shown, verdict["rows"], strict=True):
        assert row["pair"] == " : ".join(true["pair"])
        assert {k: row[k] for k, v in true.items() if not isinstance(v, (list, dict))} == {
            k: v for k, v in true.items() if not isinstance(v, (list, dict))
        }
    for stage in ("sft", "dpo"):
        picture = Image.open(run.folder / "files" / run.summary[f"forest/{stage}"]["path"]).convert("RGB")
        assert picture.getpixel((0, 0)) == (255, 255, 255) and len(set(picture.resize((200, 100)).getdata())) > 20
    samples = run.table("samples")
    assert {row["arm"] for row in samples} >= {"base", "assistant", "kennedy", "prompted/kennedy"}
    assert all(row["prompt"] for row in samples) and any(row["text"] for row in samples)


def test_artifacts_hold_the_files_and_no_file_holds_the_key(done, kept):
    (run,) = (run for run in kept if run.job == "verdict")
    name, store = done.name, done.parents[1]
    files = {"verdict.json", "report.html", "cells.json", "recipe.lock.yaml"}
    sent = {n: {c.path: c for c in a.manifest.contents} for n, a in run.artifacts.items() if n.startswith(name)}
    assert set(sent) == {name, f"{name}-rows", f"{name}-adapters"} and set(sent[name]) == files
    assert all(set(run.artifacts[n].aliases) == {"latest", verdict_of(done)["verdict"]} for n in sent)
    last = {f"cells/{e['cell']}/dose-{ {'sft': 4, 'dpo': 3}[e['stage']] }" for e in cells_of(done)}
    assert {path.rsplit("/", 1)[0] for path in sent[f"{name}-adapters"]} == last
    assert len(sent[f"{name}-adapters"]) == 2 * len(last)  # the weights and their settings
    everything = json.loads((done / "cells.json").read_text())["cells"]
    assert len(sent[f"{name}-rows"]) >= sum(len(entry["measurements"]) for entry in everything) - 4  # prompted share
    for path, content in (sent[f"{name}-rows"] | sent[f"{name}-adapters"]).items():
        assert content.size == (store / path).stat().st_size
        assert Path(content.local_path) == store / path  # not copied: a cell never changes
    assert not [p for p in store.rglob("*") if p.is_file() and KEY.encode() in p.read_bytes()]


def test_the_report_asks_for_what_the_mirror_logged(done, kept, capsys):
    spec = specification(done, capsys, "--entity", "someone")
    asked = check(spec, kept)
    assert {"verdict_table", "samples", "forest/sft", "forest/dpo", "strength", "dose", "step", "loss"} <= asked
    assert "rewards/margins" in asked
    assert (spec["entity"], spec["project"], spec["title"]) == ("someone", "lab", f"Parity: {done.name}")
    text = json.dumps(spec, ensure_ascii=False)
    row = next(r for r in verdict_of(done)["rows"] if r["primary"])
    assert row["probe"] in text and "Undetermined: at equal dose" in text and "Does the smallest" in text
    assert specification(done, capsys, "--entity", "someone") == spec  # the same folder gives the same report


def test_a_dry_run_says_what_would_be_shown(done, capsys):
    assert main(["dashboard", str(done), "--dry-run"]) == 0
    told = capsys.readouterr()
    assert told.out == "" and f"group {done.name}" in told.err and "rewards/margins" in told.err
    assert not (done / "dashboard.json").exists()


def test_a_blind_experiment_shows_labels_only(blind, capsys):
    kept, named = runs(blind.parents[1]), ("kennedy", "assistant")
    evals = [run for run in kept if run.job == "eval"]
    assert [run.config["arm"] for run in evals] == sorted(run.config["arm"] for run in evals)  # not the recipe's order
    assert {run.config["arm"] for run in evals} == {"X", "Y"} and {run.tags[0] for run in evals} == {"X", "Y"}
    hashes = {entry["cell"] for entry in cells_of(blind)}
    assert not [run for run in evals if any(hash.startswith(run.id[:8]) for hash in hashes)]
    (run,) = (run for run in kept if run.job == "verdict")
    assert "samples" not in run.summary and {row["pair"] for row in run.table("verdict_table")} == {"X : Y"}
    sent = {c.path for a in run.artifacts.values() if a.type != "run_table" for c in a.manifest.contents}
    assert sent == {"verdict.json", "report.html"}
    for path in (p for run in kept for p in run.folder.rglob("*") if p.is_file()):
        assert not [name for name in named if name.encode() in path.read_bytes().lower()], path
    spec = specification(blind, capsys)
    text = json.dumps(spec).lower()
    assert not [name for name in named if name in text] and " x " in text
    trained = [(runset, panel) for runset, panel in grids(spec) if panel["config"].get("xAxis") == "step"]
    assert trained and not [runset for runset, _ in trained if runset["grouping"]]  # nobody knows whose runs these are


def test_the_report_is_made_on_a_server_and_then_brought_up_to_date(done, tmp_path, capsys):
    folder = shutil.copytree(done, tmp_path / "experiments" / done.name)
    (tmp_path / "cells").symlink_to(done.parents[1] / "cells")
    with Server() as server, pytest.MonkeyPatch.context() as patch:
        patch.setenv("WANDB_API_KEY", KEY)
        patch.setenv("WANDB_BASE_URL", server.url)
        first = parity("dashboard", folder, wandb="online")
        second = parity("dashboard", folder, wandb="online")
    assert first.returncode == 0, first.stderr
    assert (
        first.stdout == second.stdout and first.stdout.startswith("http://") and "someone/lab/reports" in first.stdout
    )
    assert [given["id"] for given in server.reports] == [None, "VmlldzoxMg=="]
    assert {(given["entityName"], given["projectName"]) for given in server.reports} == {("someone", "lab")}
    spec = specification(done, capsys, "--entity", "someone")["spec"]
    sent = json.loads(server.reports[0]["spec"])
    assert len(sent["blocks"]) == len(spec["blocks"])
    for mine, other in zip(unlike(spec["blocks"]), unlike(sent["blocks"]), strict=True):
        if mine["type"] != "markdown-block" or "verdict's run" not in mine["content"]:
            assert mine == other
        else:  # the one that is sent has links, since its place is known
            assert f"/someone/lab/groups/{done.name}" in other["content"] and "](http" in other["content"]
    assert json.loads((folder / "dashboard.json").read_text())["url"] == first.stdout.strip()
    assert KEY not in (folder / "dashboard.json").read_text()


def test_what_is_lacking_is_said_in_one_line(done, tmp_path, capsys, monkeypatch):
    for name in ("WANDB_API_KEY", "NETRC"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HOME", str(tmp_path))  # no login of the machine's
    nobody = parity("dashboard", done)
    assert nobody.returncode == 2 and "needs a key" in nobody.stderr and len(nobody.stderr.splitlines()) == 1
    monkeypatch.setenv("WANDB_API_KEY", KEY)
    monkeypatch.setenv("WANDB_BASE_URL", "http://127.0.0.1:9")  # nothing listens there
    away = parity("dashboard", done)
    assert away.returncode == 1 and "--json needs no server" in away.stderr and len(away.stderr.splitlines()) == 1
    assert main(["dashboard", str(tmp_path)]) == 2
    assert "no experiment is here" in capsys.readouterr().err
    monkeypatch.setattr("parity.dashboard.find_spec", lambda _: None)
    assert main(["dashboard", str(done), "--json"]) == 2
    assert capsys.readouterr().err.strip() == (
        "parity dashboard needs the package wandb-workspaces: pip install '.[dashboard]'"
    )


def test_a_report_of_what_was_not_judged_is_refused(done, tmp_path, capsys):
    folder = shutil.copytree(done, tmp_path / done.name, ignore=shutil.ignore_patterns("verdict.json", "wandb"))
    assert main(["dashboard", str(folder), "--json"]) == 2
    assert "verdict.json: no readable verdict" in capsys.readouterr().err
