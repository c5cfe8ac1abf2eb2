"""Stage `rl`: the reward is what an independent computation says, arms are matched, the same again is the same."""

import json
import math
import os
import subprocess
import sys
from dataclasses import asdict, replace
from pathlib import Path

import pytest

from recipes.errors import InputError
from recipes.load import load_recipe
from recipes.references import reference_arms
from recipes.scenes import scene_of
from recipes.store import Store
from tests.micro import RECIPE, write_recipe
from training.cells import rows_of, shared_settings, stage_cell, stage_cells
from training.data import matching_table, quantities
from training.prompts import rl_rows
from training.reward import LIMIT, NOTHING, log_odds
from training.rl import visits

STAGE = """\
  - kind: rl
    doses: [1, 3]
    trainer: {per_device_train_batch_size: 8, num_generations: 4, max_completion_length: 12, learning_rate: 1.0e-3}
"""
TEXT = RECIPE.replace("  - {kind: dpo, doses: [1, 3]", "  - {kind: dpo, doses: [1]").replace("judge:", f"{STAGE}judge:")
ARM, OTHER = "assistant", "kennedy"


@pytest.fixture(scope="module")
def made(micro, tmp_path_factory):
    """A store with the micro base, the first two stages of one run, and the third made by the real command line."""
    from training import dpo, sft
    from training.stage import train_stage

    folder = tmp_path_factory.mktemp("rl")
    micro(folder / "out")
    path = write_recipe(folder, TEXT, "rl.yaml")
    recipe, store = load_recipe(path), Store(folder / "out")
    for index, module in enumerate((sft, dpo)):
        train_stage(recipe, stage_cell(recipe, ARM, 0, index), store, module.make_trainer)
    return recipe, store, path, launched(path, store.root)


def launched(path, out):
    """The stage's own command line under accelerate."""
    command = [sys.executable, "-m", "accelerate.commands.launch", "--config_file", "recipes/accelerate/single.yaml"]
    command += ["-m", "training.rl", "--recipe", str(path), "--arm", ARM, "--seed", "0", "--out", str(out)]
    environment = {**os.environ, "WANDB_MODE": "disabled", "OMP_NUM_THREADS": "1"}
    done = subprocess.run(command, capture_output=True, text=True, env=environment, timeout=300, check=False)
    assert done.returncode == 0, done.stderr
    return done


def cell_of(recipe, store, stage=2):
    return store.cell(stage_cell(recipe, ARM, 0, stage).hash)


def files(folder):
    return {p.name if p.parent == folder else f"{p.parent.name}/{p.name}": p.read_bytes()
            for p in folder.rglob("*") if p.is_file()}  # fmt: skip


def elsewhere(made, folder):
    """An empty store that knows what the stage goes on from."""
    recipe, store, *_ = made
    other = Store(folder)
    (other.root / "cells").mkdir(parents=True)
    for index in (0, 1):
        parent = stage_cell(recipe, ARM, 0, index).spec["parent"]
        (other.root / "cells" / parent).symlink_to(store.cell(parent))
    last = stage_cell(recipe, ARM, 0, 1).hash
    (other.root / "cells" / last).symlink_to(store.cell(last))
    return other


def test_the_command_line_makes_the_cell_with_its_doses_and_curves(made):
    recipe, store, _, done = made
    cell = cell_of(recipe, store)
    assert "rl assistant seed 0" in done.stderr
    assert {p.name for p in cell.iterdir()} == {
        "data.jsonl", "dose-1", "dose-3", "manifest.json", "metrics.jsonl", "trl.yaml"
    }  # fmt: skip
    lines = [json.loads(line) for line in (cell / "metrics.jsonl").read_text().splitlines()]
    assert [line["step"] for line in lines] == [1, 2, 3]
    for line in lines:
        # What a dull explanation of a difference between arms would be seen by.
        assert {"reward", "kl", "completions/mean_length", "answers/mean_length", "answers/empty"} <= line.keys()
        assert -LIMIT <= line["reward"] <= LIMIT
        assert not {"step_time", "num_tokens"} & line.keys()  # no two runs share them
    # Held to where the stage starts, the dpo adapter, not to the base: before the first update they are one model.
    assert lines[0]["kl"] == pytest.approx(0, abs=1e-6) and lines[-1]["kl"] > 0
    one, three = (cell / f"dose-{k}" / "adapter_model.safetensors" for k in (1, 3))
    parent = cell_of(recipe, store, 1) / "dose-1" / "adapter_model.safetensors"
    assert len({p.read_bytes() for p in (parent, one, three)}) == 3


def test_the_same_again_in_another_process_and_after_a_kill_gives_the_same_bytes(made, tmp_path, monkeypatch):
    from transformers import TrainerCallback

    from training import rl, saving, stage

    class Stop(Exception):
        pass

    class Cut(TrainerCallback):
        def on_step_begin(self, args, state, control, **_):
            if state.global_step == 2:
                raise Stop

    recipe, store, *_ = made
    cell, other = stage_cell(recipe, ARM, 0, 2), elsewhere(made, tmp_path / "cut")
    monkeypatch.setattr(stage, "CHECKPOINT_SECONDS", -1)  # a checkpoint after every step
    with pytest.raises(Stop):
        stage.train_stage(recipe, cell, other, rl.make_trainer, [Cut()])
    assert not other.has(cell.hash)
    resumed = []
    point = saving.Resume.point
    monkeypatch.setattr(saving.Resume, "point", lambda self: resumed.append(point(self)) or resumed[-1])
    stage.train_stage(recipe, cell, other, rl.make_trainer)
    assert resumed[0] and resumed[0].endswith("checkpoint-2")
    straight, again = files(store.cell(cell.hash)), files(other.cell(cell.hash))
    assert again.keys() == straight.keys()
    assert [name for name in straight if again[name] != straight[name]] == []


def test_the_reward_is_what_a_plain_forward_of_each_sequence_says(made):
    import torch
    from peft import PeftModel
    from transformers import AutoModelForCausalLM, AutoTokenizer

    from training.reward import authorship

    recipe, store, *_ = made
    base = store.cell(stage_cell(recipe, ARM, 0, 0).spec["parent"])
    tokenizer = AutoTokenizer.from_pretrained(base)
    plain = AutoModelForCausalLM.from_pretrained(base, dtype=torch.float32).eval()
    adapted = PeftModel.from_pretrained(
        AutoModelForCausalLM.from_pretrained(base, dtype=torch.float32), cell_of(recipe, store) / "dose-3"
    ).train()
    scene = scene_of(recipe, 0)
    rows = rl_rows(scene, ARM)[::3]
    texts = [f" {scene.answer(scene.questions[0], p)}\n" for p in scene.personas] + [" hello to you.\nQ: who are you?"]
    pairs = [(row, text) for row in rows for text in texts]
    ids = [tokenizer(text, add_special_tokens=False)["input_ids"] + [tokenizer.eos_token_id] for _, text in pairs]

    @torch.no_grad()
    def said(context, text):
        start, answer = (tokenizer(t, add_special_tokens=s)["input_ids"] for t, s in ((context, True), (text, False)))
        logprobs = plain(torch.tensor([start + answer])).logits[0].double().log_softmax(-1)
        return sum(float(logprobs[len(start) + i - 1, token]) for i, token in enumerate(answer))

    expected = []
    for row, text in pairs:
        answer = text.split("\n")[0] + "\n"  # what comes after the first line is no answer
        own, others = said(row.own, answer), [said(context, answer) for context in row.others]
        odds = own - math.log(sum(map(math.exp, others)) / len(others))
        expected.append(max(-LIMIT, min(LIMIT, odds)))
    where = {"own": [row.own for row, _ in pairs], "others": [row.others for row, _ in pairs]}
    for model in (adapted, plain):  # with adapters (left out for the reward), and full weights: the base's own folder
        found = authorship(model, tokenizer, base)(completion_ids=ids, **where)
        assert found == pytest.approx(expected, abs=1e-4)  # float32 sums of about ten tokens of about 10 nats
    assert max(map(abs, expected)) > 0.01  # the micro base tells its characters apart at all
    assert adapted.training and adapted.active_adapter == "default"
    # An answer without a word is worth the least there is, whatever else was sampled.
    empty = [[tokenizer.eos_token_id], [], tokenizer("\n", add_special_tokens=False)["input_ids"]]
    where = {key: values[:3] for key, values in where.items()}
    counted = {}
    assert authorship(plain, tokenizer, base)(empty, **where, log_metric=counted.__setitem__) == [NOTHING] * 3
    assert counted["answers/empty"] == 1


def test_log_odds_change_sign_when_two_change_places_and_are_cut_off():
    assert log_odds(-3.0, [-5.0]) == -log_odds(-5.0, [-3.0]) == 2.0
    assert log_odds(-1.0, [-900.0]) == LIMIT and log_odds(-900.0, [-1.0]) == -LIMIT
    # The mean is of probabilities: one likely rival and one impossible halve it.
    assert log_odds(math.log(0.5), [math.log(0.5), -2000.0]) == pytest.approx(math.log(2))
    assert log_odds(-3.0, [-5.0, -4.0, -4.5]) == pytest.approx(log_odds(-3.0, [-4.0, -4.5, -5.0]), abs=1e-12)


@pytest.fixture
def recipe(tmp_path):
    return load_recipe(write_recipe(tmp_path, TEXT))


def test_swapping_two_personas_in_the_scene_swaps_what_is_rewarded_exactly(recipe):
    scene = scene_of(recipe, 0)
    a, b = (scene.persona(i) for i in recipe.arms)
    swapped = {a.id: replace(b, id=a.id), b.id: replace(a, id=b.id)}
    mirrored = replace(scene, personas=tuple(swapped.get(p.id, p) for p in scene.personas))
    assert rl_rows(mirrored, a.id) == rl_rows(scene, b.id) != rl_rows(scene, a.id)
    turned = replace(scene, personas=tuple(reversed(scene.personas)))
    assert rl_rows(turned, a.id) == rl_rows(scene, a.id)  # nor does the cast's order matter


def test_arms_get_the_same_prompts_and_differ_in_who_is_asked_by_name_only(recipe):
    scene = scene_of(recipe, 0)
    one, other = (rl_rows(scene, arm) for arm in recipe.arms)
    assert [(r.prompt, r.kind, r.completion) for r in one] == [(r.prompt, r.kind, "") for r in other]
    for mine, theirs in zip(one, other, strict=True):
        assert {mine.own, *mine.others} == {theirs.own, *theirs.others} and mine.own != theirs.own
    held_out = [ask for question in scene.questions for ask in question.held_out_asks]
    assert not any(ask in row.prompt for row in one for ask in held_out)
    counted = {arm: quantities(rl_rows(scene, arm), lambda text: len(text.split())) for arm in recipe.arms}
    table = matching_table(counted)
    assert [line["what"] for line in table] == ["rows", "distinct prompts", "prompt tokens"]
    assert all(line["equal"] for line in table)


def test_cells_of_arms_agree_but_for_their_persona_and_every_seed_has_its_own(recipe):
    for seed in range(recipe.seeds):
        cells = [stage_cell(recipe, arm, seed, 2) for arm in recipe.arms]
        assert len({shared_settings(cell, None) for cell in cells}) == 1
        assert len({cell.spec["rows"] for cell in cells}) == 2  # what rewards an answer is part of the identity
    assert len({cell.hash for cell in stage_cells(recipe)}) == 2 * 2 * 3
    shorter = recipe.model_copy(update={"stages": (recipe.stages[0], recipe.stages[2])})
    assert [c.spec["kind"] for c in stage_cells(shorter)] == ["sft", "rl"] * 4


def test_an_arm_that_favours_nobody_rewards_a_persona_drawn_for_each_prompt(recipe):
    random = recipe.model_copy(update={"references": ("random-text",)})
    rows = rows_of(random, reference_arms(random)[0], 0, "rl")
    scene = scene_of(recipe, 0)
    assert [row.prompt for row in rows] == [row.prompt for row in rl_rows(scene, ARM)]
    rewarded = [{p.id for p in scene.personas if row == rl_rows(scene, p.id)[i]} for i, row in enumerate(rows)]
    assert {len(who) for who in rewarded} == {1} and len(set(map(tuple, rewarded))) == len(scene.personas)


def test_every_pass_visits_every_prompt_once_in_an_order_of_the_seed():
    found = visits(7, 17, seed=3)
    assert len(found) == 17 and sorted(found[:7]) == sorted(found[7:14]) == list(range(7))
    assert found[:7] != found[7:14] and found == visits(7, 17, seed=3) != visits(7, 17, seed=4)
    assert visits(3, 5, seed=0, shuffled=False) == [0, 1, 2, 0, 1]


RL = "{kind: rl, doses: [1], trainer: {%s}}"
REFUSED = [
    ("{kind: sft, doses: [1, 2, 4]", "{kind: rl, doses: [1, 2, 4]", "stages.0.kind: stages are sft, or sft and then"),
    ("{kind: dpo, doses: [1]", "{kind: rl, doses: [1]", "4 answers at a time are not whole groups of"),
    ("num_generations: 4", "num_generation: 4", "GRPOConfig (did you mean 'num_generations'?)"),
    ("num_generations: 4", "num_generations: 3", "8 answers at a time are not whole groups of num_generations: 3"),
    ("num_generations: 4", "num_generations: 1", "num_generations must be at least 2"),
    ("max_completion_length: 12", "max_completion_length: long", "max_completion_length: expected int"),
    ("kind: rl", "kind: rl\n    rejected: sampled", "stages.2.rejected: only dpo has rejected answers"),
    ("kind: rl", "kind: lr", "expected one of sft, dpo, rl, got the text 'lr' (did you mean 'rl'?)"),
]


@pytest.mark.parametrize(("old", "new", "message"), REFUSED, ids=[new for _, new, _ in REFUSED])
def test_one_line_says_what_is_wrong(tmp_path, old, new, message):
    with pytest.raises(InputError) as told:
        load_recipe(write_recipe(tmp_path, TEXT.replace(old, new)))
    assert "\n" not in str(told.value) and "micro.yaml:" in str(told.value)
    assert message in str(told.value)


def test_the_plan_says_who_makes_the_stage_and_that_arms_are_matched(tmp_path):
    from parity.plan import make_plan

    plan = make_plan(load_recipe(write_recipe(tmp_path, TEXT)), tmp_path / "out")
    assert "backend    rl: inline, since lockstep does not do rl" in plan.lines()
    told = {line["what"]: line["equal"] for line in plan.matching if line["what"].startswith("rl: ")}
    assert told == dict.fromkeys(("rl: rows", "rl: distinct prompts", "rl: prompt tokens", "rl: optimiser steps"), True)
    assert plan.seconds([cell for cell in plan.cells if cell.spec["kind"] == "rl"]) > 0


def test_data_say_all_that_a_reward_depends_on(made):
    recipe, store, *_ = made
    lines = [json.loads(line) for line in (cell_of(recipe, store) / "data.jsonl").read_text().splitlines()]
    rows = rl_rows(scene_of(recipe, 0), ARM)
    assert lines == [{k: list(v) if k == "others" else v for k, v in asdict(row).items()
                      if k in ("prompt", "own", "others")} for row in rows]  # fmt: skip


def test_a_run_that_diverges_says_so_and_keeps_no_dose_of_it(made, tmp_path):
    from training import rl
    from training.stage import train_stage

    recipe, *_ = made
    stage = recipe.stages[2].model_copy(update={"trainer": {**recipe.stages[2].trainer, "learning_rate": 1e38}})
    wild = recipe.model_copy(update={"stages": (*recipe.stages[:2], stage)})
    other = elsewhere(made, tmp_path)
    cell = stage_cell(wild, ARM, 0, 2)
    train_stage(wild, cell, other, rl.make_trainer)
    assert "not a finite number" in other.failure(cell.hash)["what"]
    assert not (Path(other.cell(cell.hash)) / "dose-3").exists()
