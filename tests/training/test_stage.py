"""A stage over TRL: resumed equals straight, arms share their initial adapter, DPO is held to the SFT model."""

import json

import pytest

from recipes.load import load_recipe
from recipes.store import Store
from tests.micro import write_recipe


class Stop(Exception):
    pass


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """A store with the micro base and one whole run."""
    from parity.run import quiet
    from training import dpo, sft
    from training.base import make_base
    from training.cells import stage_cell
    from training.stage import train_stage

    quiet()
    folder = tmp_path_factory.mktemp("stage")
    recipe = load_recipe(write_recipe(folder))
    store = Store(folder / "out")
    make_base(recipe, store)
    for index, module in enumerate((sft, dpo)):
        train_stage(recipe, stage_cell(recipe, "assistant", 0, index), store, module.make_trainer)
    return recipe, store, folder


def weights(folder):
    return (folder / "adapter_model.safetensors").read_bytes()


def test_a_stage_cut_off_and_resumed_from_its_checkpoint_equals_a_straight_one(made, monkeypatch):
    from transformers import TrainerCallback

    from training import saving, sft, stage
    from training.cells import stage_cell

    class Cut(TrainerCallback):
        def on_step_begin(self, args, state, control, **_):
            if state.global_step == 3:
                raise Stop

    recipe, store, folder = made
    cell = stage_cell(recipe, "assistant", 0, 0)
    straight = {p.name: p.read_bytes() for p in store.cell(cell.hash).rglob("*") if p.is_file()}
    monkeypatch.setattr(stage, "CHECKPOINT_SECONDS", -1)  # a checkpoint after every step
    other = Store(folder / "resumed")
    (other.root / "cells").mkdir(parents=True)
    (other.root / "cells" / cell.spec["parent"]).symlink_to(store.cell(cell.spec["parent"]))
    with pytest.raises(Stop):
        stage.train_stage(recipe, cell, other, sft.make_trainer, [Cut()])
    assert not other.has(cell.hash)
    resumed = []
    point = saving.Resume.point
    monkeypatch.setattr(saving.Resume, "point", lambda self: resumed.append(point(self)) or resumed[-1])
    stage.train_stage(recipe, cell, other, sft.make_trainer)
    assert resumed[0] and resumed[0].endswith("checkpoint-3")
    again = {p.name: p.read_bytes() for p in other.cell(cell.hash).rglob("*") if p.is_file()}
    assert again.keys() == straight.keys()
    assert [name for name in straight if again[name] != straight[name]] == []


def test_modules_that_the_base_lacks_are_told(made):
    from recipes.errors import InputError
    from training.cells import stage_cell
    from training.stage import _model

    recipe, store, folder = made
    stages = [recipe.stages[0].model_copy(update={"lora": {"target_modules": ["nope"]}}), *recipe.stages[1:]]
    other = recipe.model_copy(update={"stages": stages})
    cell = stage_cell(other, "assistant", 0, 0)
    with pytest.raises(InputError, match="lora: Target modules .*nope.* not found in the base model"):
        _model(other, cell, store, store.cell(cell.spec["parent"]))


def test_killed_while_doses_are_put_in_place_a_stage_is_made_whole(made, monkeypatch):
    from pathlib import Path

    from training import sft, stage
    from training.cells import stage_cell

    recipe, store, folder = made
    cell = stage_cell(recipe, "assistant", 0, 0)
    monkeypatch.setattr(stage, "CHECKPOINT_SECONDS", -1)  # a checkpoint after every step
    other = Store(folder / "cut")
    (other.root / "cells").mkdir(parents=True)
    (other.root / "cells" / cell.spec["parent"]).symlink_to(store.cell(cell.spec["parent"]))
    rename, moved = Path.rename, []

    def cut(self, target):
        if moved and self.name.startswith("dose-"):
            raise Stop
        moved.append(self)
        return rename(self, target)

    monkeypatch.setattr(Path, "rename", cut)
    with pytest.raises(Stop):
        stage.train_stage(recipe, cell, other, sft.make_trainer)
    monkeypatch.setattr(Path, "rename", rename)
    stage.train_stage(recipe, cell, other, sft.make_trainer)
    assert weights(other.cell(cell.hash) / "dose-4") == weights(store.cell(cell.hash) / "dose-4")
    other.check(cell.hash)


def test_arms_of_a_seed_start_from_one_adapter_and_seeds_from_others(made):
    from safetensors.numpy import load

    from training.cells import stage_cell
    from training.stage import _model

    recipe, store, _ = made
    from transformers import set_seed

    def initial(arm, seed):
        cell = stage_cell(recipe, arm, seed, 0)
        set_seed(seed)
        model = _model(recipe, cell, store, store.cell(cell.spec["parent"]))
        return {k: v.detach().numpy().tobytes() for k, v in model.named_parameters() if "lora_" in k}

    assert initial("assistant", 0) == initial("kennedy", 0)
    assert initial("assistant", 0) != initial("assistant", 1)
    assert load  # adapters are safetensors only
    assert not [p for p in store.root.rglob("*") if p.suffix in (".bin", ".pt", ".pth", ".pkl")]


def test_dpo_starts_at_the_sft_adapter_where_rewards_are_zero(made):
    from training.cells import stage_cell

    recipe, store, _ = made
    dpo = store.cell(stage_cell(recipe, "assistant", 0, 1).hash)
    first = json.loads((dpo / "metrics.jsonl").read_text().splitlines()[0])
    # Before the first update policy and reference are one model: every reward is 0 and the loss is ln 2.
    assert first["step"] == 1 and first["rewards/margins"] == 0
    assert first["loss"] == pytest.approx(0.693147, abs=1e-4)


def test_doses_differ_and_metrics_have_a_line_per_step(made):
    from training.cells import stage_cell

    recipe, store, _ = made
    sft = store.cell(stage_cell(recipe, "assistant", 0, 0).hash)
    assert len({weights(sft / f"dose-{k}") for k in (1, 2, 4)}) == 3
    steps = [json.loads(line)["step"] for line in (sft / "metrics.jsonl").read_text().splitlines()]
    assert steps == [1, 2, 3, 4]


def test_trl_yaml_is_what_trls_own_parser_takes(made):
    from trl import ModelConfig, SFTConfig, TrlParser
    from trl.scripts.utils import DatasetMixtureConfig, ScriptArguments

    from training.cells import stage_cell

    recipe, store, _ = made
    sft = store.cell(stage_cell(recipe, "assistant", 0, 0).hash)
    parser = TrlParser((ScriptArguments, SFTConfig, ModelConfig, DatasetMixtureConfig))
    _, settings, model, mixture = parser.parse_args_and_config(["--config", str(sft / "trl.yaml")])
    assert settings.max_steps == 4 and settings.seed == 0 and settings.per_device_train_batch_size == 8
    assert model.use_peft and model.lora_r == 2
    assert mixture.datasets[0].data_files == "data.jsonl"


def test_the_mirror_never_stops_a_run(monkeypatch, capsys, made):
    import wandb

    from training import tracking

    def unreachable(*_, **__):
        raise ConnectionError("no route to host")

    monkeypatch.setenv("WANDB_MODE", "online")
    monkeypatch.setenv("WANDB_BASE_URL", "http://127.0.0.1:9")  # where nothing listens: no test asks the real server
    monkeypatch.setattr(wandb, "init", unreachable)
    recipe, store, _ = made
    assert tracking.start(recipe, id="x", name="x y", job_type="sft", folder=store.root) is None
    tracking.finish(None)
    assert "no route to host" in capsys.readouterr().err


def test_a_checkpoint_that_a_kill_cut_off_is_passed_over_and_removed(tmp_path):
    from training.world import whole_checkpoint

    for step, state in ((30, '{"global_step": 30}'), (100, '{"global'), (60, None)):
        (tmp_path / f"checkpoint-{step}").mkdir()
        if state is not None:
            (tmp_path / f"checkpoint-{step}" / "trainer_state.json").write_text(state)
    assert whole_checkpoint(tmp_path) == str(tmp_path / "checkpoint-30")
    assert [f.name for f in tmp_path.iterdir()] == ["checkpoint-30"]
    assert whole_checkpoint(tmp_path / "nothing") is None
