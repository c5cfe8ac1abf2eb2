"""Measuring a store of tiny cells: what is measured together, what is written, and that neither moves a number."""

from __future__ import annotations

import copy
from dataclasses import replace

import polars as pl
import pytest
import torch
from peft import LoraConfig, get_peft_model

from eval import cells
from eval.cells import SAMPLES, Task, complete, groups_of, save, texts_of
from eval.engine import Engine
from eval.measure import Suite
from eval.measurer import Measurer
from eval.probes import select
from recipes.adapters import Unstackable
from recipes.store import Store
from tests.eval.tiny import make_model

ARMS = ("p0", "p1")
NAMES = ("capability", "selection")  # one of the arm, one of personas
CLOSE = 1e-4  # of a log-odds between float32 forwards of other shapes, as in the engine's contract


def adapted(model, seed: int, r: int):
    torch.manual_seed(seed)
    config = LoraConfig(r=r, lora_alpha=r, target_modules="all-linear", init_lora_weights=False)
    return get_peft_model(copy.deepcopy(model), config).eval()


@pytest.fixture
def store(llama, tokenizer, tmp_path):
    """A base, two arms x two stages of adapters of which the second has another rank, and a full model."""
    store = Store(tmp_path)
    llama.save_pretrained(store.cell("base"))
    tokenizer.save_pretrained(store.cell("base"))
    for k, arm in enumerate(ARMS):
        for stage, r in (("sft", 2), ("dpo", 4)):
            for dose in (1, 3):
                model = adapted(llama, 10 * k + dose, r)
                model.save_pretrained(store.cell(f"{arm}-{stage}") / f"dose-{dose}")
    make_model("llama", len(tokenizer), scale=0.9).save_pretrained(store.cell("whole") / "dose-1")
    return store


@pytest.fixture
def tasks(scene):
    """The tasks of one seed, a prompted arm among them."""
    found = [(Task("base", "base", "base", 0, "base", (0,)), scene)]
    found += [(Task("base", "base", "prompted/p1", 0, "base", (0,)), replace(scene, prompted="p1"))]
    for arm in ARMS:
        for stage in ("sft", "dpo"):
            found.append((Task(f"{arm}-{stage}", "base", arm, 0, stage, (1, 3), sampled=stage == "sft"), scene))
    return [*found, (Task("whole", "base", "p0", 0, "rl", (1,), full=True), scene)]


def measure(store, tasks) -> dict[str, bytes]:
    """Measure what is lacking; the bytes of all measurement files by path."""
    measurer = Measurer(store, "base")
    for group in groups_of(tasks, store, ARMS, select(NAMES)):
        assert sum(measurer.measure(group, ARMS)) == group.cost
    return {str(p.relative_to(store.root)): p.read_bytes() for p in store.root.glob("cells/*/measurements/*")}


def test_what_is_lacking_is_made_again_bit_by_bit_and_nothing_else(store, tasks):
    written = measure(store, tasks)
    assert len(written) == 2 * (7 * len(NAMES) + 2)  # 7 tasks, 2 of them sampled, and a checksum beside each file
    kept = {path: path.stat().st_mtime_ns for path in store.root.glob("cells/*/measurements/*")}
    gone = [path for path in sorted(kept) if "p1-dpo" in str(path) or (SAMPLES in path.name and "p0-sft" in str(path))]
    damaged = next(path for path in kept if path.match("p0-sft/*/selection*.parquet"))
    damaged.write_bytes(damaged.read_bytes()[:-1])
    for path in gone:
        path.unlink()
    assert measure(store, tasks) == written
    made = {*gone, damaged, damaged.with_suffix(".sha256")}
    assert {p: t for p, t in kept.items() if p not in made} == {p: p.stat().st_mtime_ns for p in kept if p not in made}
    assert groups_of(tasks, store, ARMS, select(NAMES)) == []


def test_texts_that_are_lost_or_damaged_are_made_again_with_their_rows(store, tasks):
    probes = select(["selection"])
    task, scene = next(pair for pair in tasks if pair[0].cell == "p1-dpo")
    path = task.file(store, probes[0].name, probes[0].version, scene, ARMS)
    texts = texts_of(path)
    assert not complete(path)
    save(pl.DataFrame({"value": [1.0]}), path)
    assert complete(path)  # most rows have no texts
    for damaged, content in ((texts, b"no"), (texts, None), (texts.with_suffix(".sha256"), b"\xff")):
        save(pl.DataFrame({"text": ["yes"]}), texts)
        assert complete(path)
        damaged.write_bytes(content) if content else damaged.unlink()
        assert not complete(path)
        assert (task, "selection") in {key for g in groups_of(tasks, store, ARMS, probes) for key in g.lacking}


def test_every_task_has_the_rows_of_its_own_models(store, tasks, scene, llama, tokenizer):
    """Two ranks make two stacks, a full model goes alone; each is compared with the model worn by PEFT."""
    measure(store, tasks)
    suite = Suite(scene, select(NAMES), personas=ARMS)
    models = {("base", 0): llama, ("whole", 1): make_model("llama", len(tokenizer), scale=0.9)}
    for k, arm in enumerate(ARMS):
        models |= {
            (f"{arm}-{s}", d): adapted(llama, 10 * k + d, r) for s, r in (("sft", 2), ("dpo", 4)) for d in (1, 3)
        }
    seen = set()
    for task, at in tasks:
        if at is not scene:
            continue
        files = [task.file(store, p.name, p.version, at, ARMS) for p in select(NAMES)]
        frame = pl.concat([pl.read_parquet(path) for path in files])
        assert frame.columns == cells.COLUMNS and set(frame["arm"]) == {task.arm}
        for dose in task.doses:
            found = frame.filter(pl.col("dose") == dose)
            expected = suite.rows(Engine(models[task.cell, dose], tokenizer), Engine(llama, tokenizer))
            assert found["item"].to_list() == [row["item"] for row in expected]
            assert found["persona"].to_list() == [row["persona"] for row in expected]
            for value, row in zip(found["value"], expected, strict=True):
                assert value == pytest.approx(row["value"], abs=CLOSE)
            seen.add((task.cell, dose))
    assert seen == models.keys()


def test_unstackable_adapters_are_worn_one_by_one(store, tasks, monkeypatch):
    expected = measure(store, tasks)
    for path in list(store.root.glob("cells/*/measurements/*")):
        path.unlink()

    def refuse(*_):
        raise Unstackable("adapters of another kind")

    monkeypatch.setattr("eval.measurer.stack", refuse)
    found = measure(store, tasks)
    assert found.keys() == expected.keys()
    for path in (p for p in found if p.endswith(".parquet")):
        a, b = (pl.read_parquet(files[path]) for files in (found, expected))
        assert a.drop("value", strict=False).equals(b.drop("value", strict=False))
        if "value" in a.columns:
            assert (a["value"] - b["value"]).abs().max() < CLOSE


def test_groups_depend_on_the_tasks_alone(store, tasks, monkeypatch):
    monkeypatch.setattr(cells, "TOGETHER", 4)
    groups = groups_of(tasks, store, ARMS, select(NAMES))
    assert [[task.cell for task in group.tasks] for group in groups] == [
        ["base", "p0-sft"], ["p0-dpo", "p1-sft"], ["p1-dpo", "whole"], ["base"],
    ]  # fmt: skip
    assert [group.scene.prompted for group in groups] == [None, None, None, "p1"]
    measure(store, tasks)
    lost = tasks[3][0].file(store, "selection", 1, tasks[3][1], ARMS)
    lost.unlink()
    (group,) = groups_of(tasks, store, ARMS, select(NAMES))
    assert group.tasks == groups[1].tasks and list(group.lacking.values()) == [lost]


def test_where_a_probe_takes_long_a_kill_costs_one_of_one_seed(store, tasks, scene):
    """A probe at a time gives the same bytes, in the order of the probes and then of the seeds, and is costed."""
    tasks = [item for item in tasks if not item[0].full]
    together = measure(store, tasks)
    for path in together:
        (store.root / path).unlink()
    later = replace(scene, seed=scene.seed + 1)
    again = [*tasks, (replace(tasks[0][0], seed=later.seed), later)]
    costs = {"selection": 3, "capability": 5}
    found = groups_of(again, store, ARMS, select(NAMES)[::-1], costs)
    told = [(group.probes, group.scene.seed, group.scene.prompted, group.cost) for group in found]
    one, two = scene.seed, later.seed
    assert told == [
        (["selection"], one, None, 9 * 3), (["selection"], one, "p1", 3), (["selection"], two, None, 3),
        (["capability"], one, None, 9 * 5), (["capability"], one, "p1", 5), (["capability"], two, None, 5),
        ([], one, None, 0),
    ]  # fmt: skip
    assert found[0].label == f"9 models of seed {one}, selection" and found[1].label.startswith("1 model of")
    measurer = Measurer(store, "base")
    for k, group in enumerate(groups_of(tasks, store, ARMS, select(NAMES)[::-1], costs)):
        assert sum(measurer.measure(group, ARMS)) == group.cost
        if k == 0:  # what a kill here would leave
            kept = {path.name.split("@")[0] for path in store.root.glob("cells/*/measurements/*.parquet")}
            assert kept == {"selection"}
    assert {path: (store.root / path).read_bytes() for path in together} == together


def test_whole_models_are_not_loaded_for_each_probe(store, tasks):
    costs = {"selection": 3, "capability": 5}
    assert groups_of(tasks, store, ARMS, select(NAMES), costs) == groups_of(tasks, store, ARMS, select(NAMES))


def test_precisions_are_not_mixed(store, tasks):
    """Each has files of its own, and a measurer writes those of its own alone."""
    plain = measure(store, tasks)
    half = [(replace(task, precision="medium"), scene) for task, scene in tasks]
    groups = groups_of(half, store, ARMS, select(NAMES))
    assert sum(len(group.lacking) for group in groups) == len(plain) / 2  # a checksum beside each
    with pytest.raises(ValueError, match="another precision than highest"):
        list(Measurer(store, "base").measure(groups[0], ARMS))
    list(Measurer(store, "base", precision="medium").measure(groups[0], ARMS))
    assert {path: (store.root / path).read_bytes() for path in plain} == plain


def test_a_full_model_of_nans_is_an_outcome(store, tasks, scene, tokenizer):
    """Its tree and plain forwards do not agree, so that it needs a plan of its own."""
    broken = make_model("llama", len(tokenizer))
    with torch.no_grad():
        broken.lm_head.weight.fill_(float("nan"))
    broken.save_pretrained(store.cell("whole") / "dose-1")
    measure(store, tasks)
    outcomes = {
        t.cell: set(pl.read_parquet(t.file(store, "selection", 1, scene, ARMS))["outcome"]) for t, _ in tasks[2:]
    }
    assert outcomes.pop("whole") == {"nan"}
    assert set.union(*outcomes.values()) == {"ok"}
