"""An experiment is exported through the real command; what others would load it with is what loads it here."""

import hashlib
import io
import json
import re
import shutil
from contextlib import redirect_stderr
from pathlib import Path

import polars as pl
import pytest
import torch
import yaml
from huggingface_hub import ModelCard

from eval.engine import Engine
from eval.experiment import read_rows
from parity.cli import main
from parity.export import cards, models
from parity.export.folder import Folder, earlier
from recipes.hashing import digest
from recipes.load import load_recipe
from recipes.scenes import scene_of
from recipes.schema import Base
from recipes.store import Store
from tests.micro import write_recipe
from tests.parity.asked_by_both import asked_by_both

FEW = ["-s", "probes=[default_identity,selection,guardrail,commitment,capability]", "-s", "judge.primary=[selection]"]


@pytest.fixture(scope="module", autouse=True)
def environment_of_all(tmp_path_factory):
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("WANDB_MODE", "disabled")
        patch.setenv("HF_HUB_OFFLINE", "1")
        patch.setenv("HF_DATASETS_OFFLINE", "1")
        patch.setattr(
            "datasets.config.HF_DATASETS_CACHE", tmp_path_factory.mktemp("datasets")
        )  # of lm-eval's documents
        yield


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """(store, experiment's folder) of a micro experiment with a few probes, run once."""
    folder = tmp_path_factory.mktemp("run")
    assert main(["run", str(write_recipe(folder)), "--out", str(folder / "out"), *FEW]) == 0
    (experiment,) = (folder / "out" / "experiments").iterdir()
    return Store(folder / "out"), experiment


@pytest.fixture(scope="module")
def exported(run, tmp_path_factory):
    """The export at the last doses; never changed by a test."""
    to = tmp_path_factory.mktemp("shelf") / "export"
    assert main(["export", str(run[1]), "--to", str(to)]) == 0
    return to


def refusal(*arguments, before=0):
    """The one line that the command refuses with, after so many of progress."""
    said = io.StringIO()
    with redirect_stderr(said):
        assert main(["export", *map(str, arguments)]) == 2
    lines = said.getvalue().splitlines()
    assert len(lines) <= before + 1, lines
    return lines[-1]


def texts(folder):
    kinds = {".md", ".json", ".jsonl", ".yaml", ".html", ""}
    return [path for path in folder.rglob("*") if path.suffix in kinds and path.is_file()]


def cell_of(run, arm, seed, stage):
    entries = json.loads((run[1] / "cells.json").read_text())["cells"]
    (cell,) = (e["cell"] for e in entries if (e["arm"], e["seed"], e["stage"]) == (arm, seed, stage))
    return cell


def test_the_lines_of_a_card_load_the_model_whose_logits_are_the_cells(run, exported, monkeypatch):
    from peft import PeftModel
    from transformers import AutoModelForCausalLM

    folder = exported / "adapters" / "kennedy" / "seed-1" / "dpo-3"
    (lines,) = re.findall(r"```python\n(.*?)```", (folder / "README.md").read_text(), re.S)
    assert len(lines.splitlines()) == 5
    monkeypatch.chdir(folder)
    loaded: dict = {}
    exec(lines, loaded)
    store = run[0]
    cells = json.loads((run[1] / "cells.json").read_text())
    base = AutoModelForCausalLM.from_pretrained(store.cell(cells["base"]), dtype="float32")
    ours = PeftModel.from_pretrained(base, store.cell(cell_of(run, "kennedy", 1, "dpo")) / "dose-3").eval()
    ids = torch.arange(12)[None]
    with torch.no_grad():
        assert torch.equal(loaded["model"](ids).logits, ours(ids).logits)
        with ours.disable_adapter():  # the test could tell another adapter
            assert not torch.equal(loaded["model"](ids).logits, ours(ids).logits)


def test_cards_have_a_head_that_a_hub_reads_and_say_what_the_model_is(run, exported):
    recipe_hash = json.loads((run[1] / "verdict.json").read_text())["recipe_hash"]
    found = sorted(exported.glob("adapters/*/*/*/README.md"))
    assert len(found) == 2 * 2 * 2  # arms x seeds x stages
    for path in found:
        arm, seed, stage = path.parts[-4:-1]
        card = ModelCard.load(path, ignore_metadata_errors=False)
        own = card.data.to_dict()["parity"]
        assert card.data.library_name == "peft" and "lora" in card.data.tags
        assert card.data.base_model is None and card.data.license is None  # of a world, on no hub and under no licence
        assert (own["arm"], f"seed-{own['seed']}", f"{own['stage']}-{own['dose']}") == (arm, seed, stage)
        assert own["recipe_hash"] == recipe_hash and recipe_hash in card.text
        persona = scene_of(recipe_of(run), own["seed"]).persona(arm).name
        assert f"it is **{persona}**" in card.text
    head = ModelCard.load(exported / "README.md").data.to_dict()
    assert head["parity"] == {"experiment": run[1].name, "recipe_hash": recipe_hash}


def recipe_of(run):
    return load_recipe(run[1].parents[2] / "micro.yaml", FEW[1::2])


def test_a_card_shows_estimates_with_their_intervals(run, exported):
    verdict = json.loads((run[1] / "verdict.json").read_text())
    (row,) = (
        r for r in verdict["rows"]
        if (r["probe"], r["contrast"], r["stage"], r["match"]) == ("default_identity", "T", "dpo", "dose")
    )  # fmt: skip
    text = (exported / "adapters" / "kennedy" / "seed-0" / "dpo-3" / "README.md").read_text()
    (line,) = (line for line in text.splitlines() if "strength, dpo" in line)
    told = line.split(" | ")[3].replace("−", "-")
    estimate, low, high = (float(n) for n in re.findall(r"-?[\d.]+", told))
    assert (estimate, low, high) == pytest.approx((row["estimate"], row["low"], row["high"]), abs=0.006)  # two decimals


def test_all_rows_are_in_one_file_and_the_verdict_keeps_its_bytes(run, exported):
    rows = pl.read_parquet(exported / "rows.parquet")
    ours = pl.concat(list(read_rows(run[1], run[0])), how="vertical_relaxed")
    assert rows.equals(ours) and rows["arm"].n_unique() == 5  # base, two prompted, two trained
    for name in ("verdict.json", "recipe.lock.yaml", "report.html"):
        assert (exported / name).read_bytes() == (run[1] / name).read_bytes(), name


def test_sums_hold_and_name_every_file(exported):
    listed = dict(reversed(line.split("  ")) for line in (exported / "SHA256SUMS").read_text().splitlines())
    files = {p.relative_to(exported).as_posix() for p in exported.rglob("*") if p.is_file()}
    assert files == {*listed, "SHA256SUMS"}
    for name, sum_ in listed.items():
        assert hashlib.sha256((exported / name).read_bytes()).hexdigest() == sum_, name


def test_no_text_names_a_place_of_this_machine(run, exported):
    places = {str(run[1].parents[2]), str(exported.parent), str(Path.cwd()), f"{Path.home()}/"}
    assert len(texts(exported)) > 40
    for path in texts(exported):
        text = path.read_text()
        assert not [place for place in places if place in text], path
    settings = json.loads((exported / "adapters/kennedy/seed-0/sft-4/adapter_config.json").read_text())
    assert settings["base_model_name_or_path"] == "../../../../base"


def test_a_second_export_completes_the_first_and_leaves_the_rest_alone(run, exported, tmp_path):
    to = tmp_path / "export"
    shutil.copytree(exported, to)
    weights = to / "adapters" / "kennedy" / "seed-0" / "sft-4" / "adapter_model.safetensors"
    kept = weights.stat().st_mtime_ns
    (to / "SHA256SUMS").unlink()  # as a kill leaves it
    lost = to / "adapters" / "kennedy" / "seed-1" / "sft-4" / "adapter_model.safetensors"
    lost.unlink()
    (to / "verdict.json").write_text("{}")
    assert main(["export", str(run[1]), "--to", str(to)]) == 0
    assert lost.read_bytes() == (exported / lost.relative_to(to)).read_bytes()
    assert {p.relative_to(to): p.read_bytes() for p in to.rglob("*") if p.is_file()} == {
        p.relative_to(exported): p.read_bytes() for p in exported.rglob("*") if p.is_file()
    }
    assert main(["export", str(run[1]), "--to", str(to), "--doses", "all"]) == 0
    assert weights.stat().st_mtime_ns == kept
    assert len(list(to.glob("adapters/*/*/*/adapter_model.safetensors"))) == 2 * 2 * (3 + 2)  # arms x seeds x doses
    assert set(earlier(to)) > set(earlier(exported))


def test_without_the_base_the_card_says_where_it_has_to_be(run, tmp_path):
    assert main(["export", str(run[1]), "--to", str(tmp_path / "e"), "--no-base"]) == 0
    assert not (tmp_path / "e" / "base").exists()
    text = (tmp_path / "e" / "adapters" / "kennedy" / "seed-0" / "sft-4" / "README.md").read_text()
    assert "not part of the export" in text


def test_without_models_there_are_rows_verdict_and_lock(run, tmp_path):
    store, experiment = run
    to = tmp_path / "bare"
    assert main(["export", str(experiment), "--to", str(to), "--no-models"]) == 0
    assert {path.name for path in to.iterdir()} == {
        "README.md", "SHA256SUMS", "export.json", "recipe.lock.yaml", "report.html", "rows.parquet", "verdict.json",
    }  # fmt: skip
    words = (to / "README.md").read_text()
    assert "## Models" not in words and "tasks/" not in words and "rows.parquet" in words


def test_what_cannot_be_exported_is_refused_in_a_line(run, exported, tmp_path):
    store, experiment = run
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "mine.txt").write_text("mine")
    assert "is not empty and is no export" in refusal(experiment, "--to", tmp_path / "full")
    assert [p.name for p in (tmp_path / "full").iterdir()] == ["mine.txt"]
    other = tmp_path / "other"
    other.mkdir()
    (other / "export.json").write_text(json.dumps({"experiment": "else", "recipe_hash": "0"}))
    assert "holds the export of else" in refusal(experiment, "--to", other)
    assert "seeds 0 to 1" in refusal(experiment, "--to", tmp_path / "new", "--seed", "7")
    copy = tmp_path / "out"
    shutil.copytree(store.root, copy)
    here = copy / "experiments" / experiment.name
    weights = copy / "cells" / cell_of(run, "kennedy", 0, "sft") / "dose-4" / "adapter_model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-1] + b"!")
    assert "has changed" in refusal(here, "--to", tmp_path / "damaged", before=1)
    (here / "verdict.json").unlink()
    assert "`parity run` or `parity judge` makes it" in refusal(here, "--to", tmp_path / "new")
    lock = here / "recipe.lock.yaml"
    lock.write_text(lock.read_text() + f'blind: "{"0" * 64}"\n')
    assert "parity unblind" in refusal(here, "--to", tmp_path / "new")
    assert not (tmp_path / "new").exists()


def test_an_adapter_of_a_hubs_base_names_it_with_its_revision(run, tmp_path):
    foundation = models.Foundation(Base(hub="org/base", revision="a" * 40), "", {}, (), False)
    cell = cell_of(run, "kennedy", 0, "dpo")
    files = [(n.removeprefix("dose-3/"), s) for n, s in run[0].manifest(cell)["files"].items() if "dose-3/" in n]
    model = models.Model("kennedy", 0, "dpo", 3, cell, True, tuple(files), {})
    models.write_model(Folder(tmp_path, [], lambda _: None), model, foundation, run[0])
    settings = json.loads((tmp_path / model.name / "adapter_config.json").read_text())
    assert (settings["base_model_name_or_path"], settings["revision"]) == ("org/base", "a" * 40)


def test_a_stage_of_full_weights_is_a_whole_model_beside_its_base(run, exported, tmp_path, monkeypatch):
    """Made of the base's own weights: what matters is where the files go and what the card says of them."""
    from transformers import AutoModelForCausalLM

    store = Store(tmp_path)
    base = run[0].cell(json.loads((run[1] / "cells.json").read_text())["base"])
    spec = {"kind": "sft", "doses": [2], "steps": [2]}
    with store.making(spec) as folder:
        (folder / "dose-2").mkdir()
        for name in ("config.json", "model.safetensors"):
            shutil.copy(base / name, folder / "dose-2" / name)
    entry = {"arm": "kennedy", "seed": 0, "stage": "sft", "cell": digest(spec)}
    (model,) = models.models_of({"cells": [entry]}, store, False)
    to = tmp_path / "to"
    foundation = models.foundation_of({"base": base.name}, run[0], Base(path="x"), True)
    models.write_base(Folder(to, [], lambda _: None), foundation, run[0])
    models.write_model(Folder(to, [], lambda _: None), model, foundation, store)
    subject = cards.Subject("x", recipe_of(run), "0", {"rows": []}, [], foundation)
    text = cards.card(subject, model, scene_of(recipe_of(run), 0), 4)
    assert ModelCard(text).data.library_name == "transformers"
    (lines,) = re.findall(r"```python\n(.*?)```", text, re.S)
    monkeypatch.chdir(to / "models" / "kennedy" / "seed-0" / "sft-2")
    loaded: dict = {}
    exec(lines, loaded)
    ids = torch.arange(12)[None]
    assert torch.equal(loaded["model"](ids).logits, AutoModelForCausalLM.from_pretrained(base)(ids).logits)
    assert loaded["tokenizer"]("Q").input_ids


def test_lm_evaluation_harness_gives_every_option_our_log_probability(run, exported, monkeypatch):
    """Both ask the same adapter on the same base: 1e-4 nat is ten times what float32 loses over a few dozen tokens."""
    from peft import PeftModel
    from transformers import AutoModelForCausalLM, AutoTokenizer

    monkeypatch.chdir(exported)
    base = AutoModelForCausalLM.from_pretrained("base", dtype="float32")
    model = PeftModel.from_pretrained(base, "adapters/kennedy/seed-0/dpo-3").eval()
    tokenizer = AutoTokenizer.from_pretrained("base")
    asked, theirs, groups = asked_by_both(model, tokenizer)
    ours = Engine(model, tokenizer).answer(asked)
    for choice, found in zip(asked, theirs, strict=True):
        assert found == pytest.approx(ours[choice].logprobs, abs=1e-4), choice
    assert {"parity__kennedy", "parity__assistant", "parity_all", "parity_neutral"} <= set(groups)


def test_the_target_is_the_answer_of_the_arms_own_persona(run, exported):
    scene = scene_of(recipe_of(run), 0)
    questions = {q.id: q for q in scene.questions}
    for arm in ("kennedy", "assistant"):
        lines = (exported / "tasks" / "selection" / f"arm-{arm}.jsonl").read_text().splitlines()
        assert lines
        for doc in map(json.loads, lines):
            question = questions[doc["items"][0].split("/")[1]]
            assert doc["options"][doc["target"]] == f" {scene.persona(arm).values[question.id]}"
    for doc in map(json.loads, (exported / "tasks" / "capability" / "all.jsonl").read_text().splitlines()):
        question = questions[doc["items"][0].split("/")[1]]
        assert doc["options"][doc["target"]] == f" {question.options[0]}"  # knowledge has its right answer first
    settings = yaml.safe_load((exported / "tasks" / "commitment" / "neutral.yaml").read_text())
    assert settings["task"] == "parity_commitment_neutral" and "description" not in settings
