"""Lockstep equals TRL's trainers, whatever else is in the group."""

import json
import subprocess
import sys

import pytest
import torch
from safetensors.torch import load_file

from training.cells import stage_cell
from training.groups import Groups

SIXTY = ("stages.0.doses=[20, 60]", "stages.1.doses=[20, 60]")  # the length at which equality is asked for
# Weights in float32 after 60 steps: Adam multiplies rounding where a gradient is about nothing; seen 4e-7 to 2e-6.
# One row too many in one batch moves them by more than 1e-3.
WEIGHTS, LOSS = 1e-4, 1e-5


def runs(recipe, index, many=4):
    each = [(arm, seed) for seed in range(recipe.seeds) for arm in recipe.arms]
    return [stage_cell(recipe, arm, seed, index) for arm, seed in each[:many]]


def train(recipe, store, many=4, stages=(0, 1)):
    groups = Groups(recipe, store)
    for index in stages:
        groups.train(runs(recipe, index, many))


def last(store, cell):
    return load_file(store.cell(cell.hash) / f"dose-{cell.spec['doses'][-1]}" / "adapter_model.safetensors")


def lines(path):
    return [json.loads(line) for line in path.read_text().splitlines()]


def assert_same(found, expected, tolerance=WEIGHTS):
    assert found.keys() == expected.keys()
    for name, weight in expected.items():
        assert (found[name] - weight).abs().max() < tolerance, name


@pytest.fixture(scope="module")
def sixty(micro, tmp_path_factory):
    """Four runs of both stages in lockstep, 60 steps each."""
    recipe, store = micro(tmp_path_factory.mktemp("sixty"), *SIXTY)
    train(recipe, store)
    return recipe, store


def test_trls_command_line_makes_the_adapter_that_lockstep_made(sixty, monkeypatch):
    recipe, store = sixty
    cell = runs(recipe, 0)[3]
    folder = store.cell(cell.hash)
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    command = [sys.executable, "-m", "trl.scripts.sft", "--config", "trl.yaml"]
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr[-2000:]
    assert_same(load_file(folder / "trl-output" / "adapter_model.safetensors"), last(store, cell))
    # TRL prints its log lines with four digits.
    said = [json.loads(line.replace("'", '"')) for line in done.stdout.splitlines() if line.startswith("{'loss'")]
    ours = lines(folder / "metrics.jsonl")
    assert len(said) == len(ours) == 60
    for theirs, mine in zip(said, ours, strict=True):
        for name in ("loss", "grad_norm", "learning_rate", "mean_token_accuracy", "epoch"):
            assert float(theirs[name]) == pytest.approx(mine[name], rel=1e-3, abs=1e-5), name


@pytest.mark.parametrize("index", [0, 1])
def test_every_step_and_dose_is_that_of_trls_trainer(sixty, micro, tmp_path, index):
    from parity.train import make_inline

    recipe, store = sixty
    other, apart = micro(tmp_path / "trl", *SIXTY)
    cell = runs(recipe, index)[1]
    if index:
        parent = store.cell(cell.spec["parent"])
        (apart.root / "cells" / parent.name).symlink_to(parent)
    make_inline(other, cell, apart)
    for dose in cell.spec["doses"]:
        name = f"dose-{dose}/adapter_model.safetensors"
        assert_same(load_file(store.cell(cell.hash) / name), load_file(apart.cell(cell.hash) / name))
    theirs, ours = (lines(s.cell(cell.hash) / "metrics.jsonl") for s in (apart, store))
    assert len(theirs) == len(ours) == 60
    for their, our in zip(theirs, ours, strict=True):
        assert set(our) <= set(their)
        for name, value in our.items():
            if name == "rewards/accuracies" and our["step"] == 1:
                continue  # policy and reference are one model: who is preferred is rounding
            # A gradient's norm and a reward amplify what the weights differ by; seen 3e-5.
            within = LOSS if name == "loss" else 1e-4
            assert value == pytest.approx(their[name], abs=within, rel=within), (our["step"], name)


@pytest.mark.parametrize(
    "settings",
    [
        # An epoch ends with a smaller batch and, with three to a step, with fewer of them.
        {"gradient_accumulation_steps": 3, "per_device_train_batch_size": 4, "max_grad_norm": 0.1},
        {"lr_scheduler_type": "cosine", "warmup_steps": 3, "weight_decay": 0.1, "adam_beta2": 0.9},
        {"max_length": 16, "max_grad_norm": 0.0, "gradient_checkpointing": True},
    ],
)
def test_trls_settings_mean_what_they_mean_to_trl(micro, tmp_path, settings):
    from parity.train import make_inline

    given = [f"stages.{i}.trainer.{key}={json.dumps(value)}" for i in (0, 1) for key, value in settings.items()]
    recipe, store = micro(tmp_path / "a", *given, "stages.0.doses=[8]", "stages.1.doses=[8]")
    train(recipe, store, many=2)
    other, apart = micro(tmp_path / "b", *given, "stages.0.doses=[8]", "stages.1.doses=[8]")
    for index in (0, 1):
        cell = runs(recipe, index)[0]
        make_inline(other, cell, apart)
        assert_same(last(store, cell), last(apart, cell), 1e-5)  # 8 steps of 2e-3: an error of one is far more


def test_how_many_run_together_changes_nothing_but_rounding(micro, tmp_path):
    """One, four and sixteen runs in a group; 1e-6 is a few units in the last place of weights of about 1."""
    made = {}
    for many in (1, 4, 16):
        recipe, store = micro(tmp_path / str(many), "seeds=8", "stages.0.doses=[60]", "stages.1.doses=[60]")
        train(recipe, store, many)
        made[many] = [last(store, runs(recipe, index)[0]) for index in (0, 1)]
    for many in (4, 16):
        for found, alone in zip(made[many], made[1], strict=True):
            assert_same(found, alone, 1e-6)


def test_half_precision_trains_as_trl_does(micro, tmp_path):
    from parity.train import make_inline

    given = ("stages.0.trainer.bf16=true", "stages.0.trainer.use_cpu=true", "stages.0.doses=[4]")
    recipe, store = micro(tmp_path / "a", *given)
    train(recipe, store, many=2, stages=(0,))
    other, apart = micro(tmp_path / "b", *given)
    cell = runs(recipe, 0)[0]
    make_inline(other, cell, apart)
    theirs, ours = (lines(s.cell(cell.hash) / "metrics.jsonl") for s in (apart, store))
    for their, our in zip(theirs, ours, strict=True):
        assert our["loss"] == pytest.approx(their["loss"], rel=2e-2)  # bfloat16 keeps eight bits
    assert last(store, cell)["base_model.model.model.layers.0.mlp.up_proj.lora_A.weight"].dtype == torch.float32
