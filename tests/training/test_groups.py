"""Groups of cells: faults of one run, of memory and of the process; and what lockstep says it does not do."""

import dataclasses
import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from recipes.adapters import PLAIN
from recipes.errors import InputError
from recipes.store import FAILED
from tests.training.test_lockstep import last, lines, runs, train
from training import groups as module
from training.base import make_base
from training.cells import planned_rows, stage_cell
from training.groups import Groups, groups_of
from training.lockstep import Lockstep


class Killed(BaseException):
    pass


def content(store, cell):
    folder = store.cell(cell.hash)
    return {str(p.relative_to(folder)): p.read_bytes() for p in folder.rglob("*") if p.is_file()}


def test_a_run_that_diverges_stops_alone(micro, tmp_path):
    recipe, store = micro(tmp_path / "a")
    train(recipe, store, stages=(0,))
    cells = runs(recipe, 1)
    Groups(recipe, store).train(cells)
    whole = [content(store, cell) for cell in cells]
    for cell in cells:
        store.remove(cell.hash)
    broken = store.cell(cells[1].spec["parent"]) / "dose-4" / "adapter_model.safetensors"
    weights = load_file(broken)
    weights["base_model.model.model.layers.0.mlp.up_proj.lora_A.weight"][0, 0] = float("nan")
    save_file(weights, broken)
    Groups(recipe, store).train(cells)
    for k in (0, 2, 3):
        assert content(store, cells[k]) == whole[k]
    failed = content(store, cells[1])
    assert json.loads(failed[FAILED]) == {"step": 1, "what": "loss is not a finite number"}
    assert not [name for name in failed if name.startswith("dose-")]
    assert store.has(cells[1].hash) and not store.alive(cells[1].hash)
    store.check(cells[1].hash)


def test_trls_trainer_stops_where_lockstep_stops(micro, tmp_path):
    """A rate at which everything overflows: both backends keep the same record instead of adapters."""
    from parity.train import make_inline

    given = ("stages.0.trainer.learning_rate=1e30", "stages.0.trainer.lr_scheduler_type=constant")
    recipe, store = micro(tmp_path / "a", *given)
    train(recipe, store, many=2, stages=(0,))
    other, apart = micro(tmp_path / "b", *given)
    cell = runs(recipe, 0)[0]
    make_inline(other, cell, apart)
    assert store.failure(cell.hash) == apart.failure(cell.hash)
    assert store.failure(cell.hash)["step"] == 2  # the first step starts from a good model


def test_what_follows_a_failed_stage_is_not_made(micro, tmp_path):
    from parity.train import Making, make_group

    recipe, store = micro(tmp_path / "a", "stages.0.trainer.learning_rate=1e30")
    cells = [stage_cell(recipe, arm, 0, index) for arm in recipe.arms for index in (0, 1)]
    ticks = []
    make_group(Making(recipe, store.root, tmp_path), cells, ticks.append)
    assert [store.has(c.hash) for c in cells] == [True, False, True, False]


@pytest.mark.parametrize("index", [0, 1])
def test_killed_and_resumed_from_its_checkpoint_is_as_if_straight(micro, tmp_path, monkeypatch, index):
    recipe, store = micro(tmp_path / "a", "stages.1.doses=[2, 4]")
    train(recipe, store, stages=range(index + 1))
    cells = runs(recipe, index)
    straight = [content(store, cell) for cell in cells]
    for cell in cells:
        store.remove(cell.hash)
    monkeypatch.setattr(module, "CHECKPOINT_SECONDS", -1)  # a checkpoint after every step
    advance = Lockstep.advance
    seen = []

    def cut(self):
        if self.step == 3 and not seen:
            seen.append(3)
            raise Killed
        return advance(self)

    monkeypatch.setattr(Lockstep, "advance", cut)
    with pytest.raises(Killed):
        Groups(recipe, store).train(cells)
    assert not any(store.has(cell.hash) for cell in cells)
    starts = []
    monkeypatch.setattr(Lockstep, "advance", lambda self: starts.append(self.step) or advance(self))
    Groups(recipe, store).train(cells)
    assert starts == [3]  # of four steps
    assert [content(store, cell) for cell in cells] == straight
    assert not [p for p in (store.root / "cells").iterdir() if p.name.startswith(".")]


def test_killed_while_doses_are_put_in_place_the_group_is_made_whole(micro, tmp_path, monkeypatch):
    recipe, store = micro(tmp_path / "a")
    cells = runs(recipe, 0)
    Groups(recipe, store).train(cells)
    straight = [content(store, cell) for cell in cells]
    for cell in cells:
        store.remove(cell.hash)
    monkeypatch.setattr(module, "CHECKPOINT_SECONDS", -1)  # a checkpoint after every step
    rename, moved = Path.rename, []

    def cut(self, target):
        if moved:
            raise Killed
        moved.append(self)
        return rename(self, target)

    monkeypatch.setattr(Path, "rename", cut)
    with pytest.raises(Killed):
        Groups(recipe, store).train(cells)
    monkeypatch.setattr(Path, "rename", rename)
    Groups(recipe, store).train(cells)
    assert moved and [content(store, cell) for cell in cells] == straight


def test_cards_that_change_while_an_experiment_runs_are_noticed(micro, tmp_path):
    recipe, store = micro(tmp_path / "a")
    make_base(recipe, store)
    cell = runs(recipe, 0)[0]
    other = dataclasses.replace(cell, spec={**cell.spec, "rows": "0" * 64})
    with pytest.raises(InputError, match="changed since the run began"):
        planned_rows(recipe, other)
    assert len(planned_rows(recipe, cell)) > 0


def test_cells_of_a_group_appear_together_and_sealed_ones_are_put_in_place(micro, tmp_path, monkeypatch):
    recipe, store = micro(tmp_path / "a")
    cells = runs(recipe, 0)
    seal, place, sealed = type(store).seal, type(store)._place, []

    def killed_at_the_first(self, work, at):
        raise Killed

    monkeypatch.setattr(type(store), "seal", lambda self, spec: sealed.append(1) or seal(self, spec))
    monkeypatch.setattr(type(store), "_place", killed_at_the_first)
    with pytest.raises(Killed):
        Groups(recipe, store).train(cells)
    assert len(sealed) >= len(cells) and not any(store.has(cell.hash) for cell in cells)
    monkeypatch.setattr(type(store), "_place", place)

    def never(*_):
        raise AssertionError("all that was missing was to put the cells in place")

    monkeypatch.setattr(Lockstep, "advance", never)
    Groups(recipe, store).train(cells)
    for cell in cells:
        store.check(cell.hash)


def test_a_cell_made_again_in_its_group_has_the_same_bytes(micro, tmp_path):
    recipe, store = micro(tmp_path / "a")
    train(recipe, store, stages=(0,))
    cells = runs(recipe, 0)
    before = [content(store, cell) for cell in cells]
    times = {c.hash: (store.cell(c.hash) / "manifest.json").stat().st_mtime_ns for c in cells}
    store.remove(cells[2].hash)
    Groups(recipe, store).train(cells)
    assert [content(store, cell) for cell in cells] == before
    after = {c.hash: (store.cell(c.hash) / "manifest.json").stat().st_mtime_ns for c in cells}
    assert [h for h in times if times[h] != after[h]] == [cells[2].hash]


def test_out_of_memory_halves_what_is_computed_at_once_and_says_so_once(micro, tmp_path, monkeypatch, capsys):
    recipe, store = micro(tmp_path / "a")
    train(recipe, store)
    expected = [last(store, runs(recipe, index)[0]) for index in (0, 1)]
    recipe, store = micro(tmp_path / "b")
    monkeypatch.setattr(Groups, "_width", lambda self, examples, settings: len(examples))
    backward = Lockstep._backward

    def small(self, drawn, part):
        if part.stop - part.start > 2:
            raise torch.OutOfMemoryError("no more")
        return backward(self, drawn, part)

    monkeypatch.setattr(Lockstep, "_backward", small)
    train(recipe, store)
    assert capsys.readouterr().err.count("going on with 2 runs at a time") == 2  # once a stage
    for index in (0, 1):
        for name, weight in last(store, runs(recipe, index)[0]).items():
            assert (weight - expected[index][name]).abs().max() < 1e-6, name


def test_a_group_whose_adapters_do_not_fit_is_halved(micro, tmp_path, monkeypatch, capsys):
    recipe, store = micro(tmp_path / "a")
    init = Lockstep.__post_init__

    def small(self):
        if len(self) > 2:
            raise RuntimeError("[enforce fail at alloc_cpu.cpp] DefaultCPUAllocator: not enough memory: you tried")
        init(self)

    monkeypatch.setattr(Lockstep, "__post_init__", small)
    cells = runs(recipe, 0)
    Groups(recipe, store).train(cells)
    assert capsys.readouterr().err.count("groups of 2 runs") == 1
    for cell in cells:
        store.check(cell.hash)
        assert [line["step"] for line in lines(store.cell(cell.hash) / "metrics.jsonl")] == [1, 2, 3, 4]


def test_groups_hold_runs_of_equal_settings_only(micro, tmp_path):
    recipe, _ = micro(tmp_path / "a", "seeds=6", "plant={dose: {arm: kennedy, factor: 2.0}}")
    cells = [stage_cell(recipe, arm, seed, 0) for seed in range(6) for arm in recipe.arms]
    found = list(groups_of(recipe, cells, 4))
    assert [len(group) for group in found] == [4, 2, 4, 2]
    assert all(len({tuple(cell.spec["steps"]) for cell in group}) == 1 for group in found)
    assert sorted(c.hash for group in found for c in group) == sorted(c.hash for c in cells)


def test_the_plan_says_what_lockstep_does_not_do(micro, tmp_path):
    from parity.plan import backends

    def told(*overrides):
        return backends(micro(tmp_path / str(len(list(tmp_path.iterdir()))), *overrides)[0])

    assert told() == ["lockstep"]
    assert told("stages.0.lora=null") == ["sft: inline, since lockstep does not do full weights", "dpo: lockstep"]
    assert told("stages.1.trainer.loss_type=[ipo]")[1] == (
        "dpo: inline, since lockstep does not do trainer.loss_type: ['ipo']"
    )
    assert "lora.lora_dropout: 0.1" in told("stages.0.lora.lora_dropout=0.1")[0]
    assert told("launch.backend=process") == ["process"]


def test_lockstep_knows_every_setting_of_peft_and_names_only_settings_that_exist():
    """A field that a new version adds must be put on one list or the other."""
    from peft import LoraConfig
    from trl import DPOConfig, SFTConfig

    from training.supported import FOLLOWED, LORA_FOLLOWED, LORA_ONLY, ONLY

    trl = {f.name for kind in (SFTConfig, DPOConfig) for f in dataclasses.fields(kind)}
    assert FOLLOWED | set(ONLY) <= trl
    peft = {f.name for f in dataclasses.fields(LoraConfig)}
    about = {"task_type", "auto_mapping", "peft_version", "base_model_name_or_path", "revision", "inference_mode",
             "runtime_config", "megatron_core", "qalora_group_size"}  # fmt: skip
    assert peft <= LORA_FOLLOWED | set(LORA_ONLY) | about
    assert LORA_FOLLOWED | set(PLAIN) <= peft | {"peft_type"}
