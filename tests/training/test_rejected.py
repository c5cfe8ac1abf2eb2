"""Rejected answers that the model samples: arms draw alike, what is chosen stays, nothing is preferred to itself."""

import json

import pytest

from eval.lock import lock_of
from eval.probes import select
from recipes.hashing import digest, recipe_hash
from recipes.load import load_recipe
from recipes.scenes import scene_of
from recipes.store import Store
from tests.micro import RECIPE, write_recipe
from training.cells import SAMPLED_VERSION, rows_of, stage_cell
from training.rejected import COUNTS, imbalances, sampled
from training.supported import backend_of

TEXT = RECIPE.replace("{kind: dpo, ", "{kind: dpo, rejected: sampled, ")
ARMS = ("assistant", "kennedy")


@pytest.fixture(scope="module")
def made(micro, tmp_path_factory):
    """A store with the micro base and two stages of two arms, the second on sampled rejected answers."""
    from training import dpo, sft
    from training.stage import train_stage

    folder = tmp_path_factory.mktemp("rejected")
    micro(folder / "out")
    recipe, store = load_recipe(write_recipe(folder, TEXT)), Store(folder / "out")
    for arm in ARMS:
        for index, module in enumerate((sft, dpo)):
            train_stage(recipe, stage_cell(recipe, arm, 0, index), store, module.make_trainer)
    return recipe, store


def folder_of(made, arm):
    recipe, store = made
    return store.cell(stage_cell(recipe, arm, 0, 1).hash)


def data_of(made, arm):
    return [json.loads(line) for line in (folder_of(made, arm) / "data.jsonl").read_text().splitlines()]


def test_only_the_rejected_answers_are_others_and_none_is_the_chosen_one(made):
    recipe, _ = made
    for arm in ARMS:
        rows, data = rows_of(recipe, arm, 0, "dpo"), data_of(made, arm)
        assert [(d["prompt"], d["chosen"]) for d in data] == [(r.prompt, r.completion) for r in rows]
        assert sum(d["rejected"] != r.rejected for d, r in zip(data, rows, strict=True)) > len(rows) / 2
        for line in data:
            assert line["rejected"].split() != line["chosen"].split()
            assert line["rejected"].startswith(" ") and line["rejected"].endswith("\n") and line["rejected"].strip()
            assert line["rejected"].count("\n") == 1
    assert [d["prompt"] for d in data_of(made, ARMS[0])] == [d["prompt"] for d in data_of(made, ARMS[1])]


def test_counts_stand_in_the_cell_and_in_the_first_line_of_the_metrics(made):
    from transformers import AutoTokenizer

    recipe, store = made
    tokenizer = AutoTokenizer.from_pretrained(store.cell(stage_cell(recipe, ARMS[0], 0, 0).spec["parent"]))
    for arm in ARMS:
        counts = json.loads((folder_of(made, arm) / COUNTS).read_text())
        rejected = [d["rejected"] for d in data_of(made, arm)]
        assert counts["rows"] == len(rejected)
        lengths = [len(tokenizer(text, add_special_tokens=False)["input_ids"]) for text in rejected]
        assert counts["mean_tokens"] == pytest.approx(sum(lengths) / len(lengths))
        lines = [json.loads(line) for line in (folder_of(made, arm) / "metrics.jsonl").read_text().splitlines()]
        assert {k.removeprefix("rejected/"): v for k, v in lines[0].items() if k.startswith("rejected/")} == counts
        assert not any(key.startswith("rejected/") for line in lines[1:] for key in line)


def test_the_same_model_and_seed_sample_the_same_and_nobody_elses_random_numbers_move(made):
    import torch
    from peft import PeftModel
    from transformers import AutoModelForCausalLM, AutoTokenizer

    recipe, store = made
    sft = stage_cell(recipe, ARMS[0], 0, 0)
    base = store.cell(sft.spec["parent"])
    tokenizer = AutoTokenizer.from_pretrained(base)
    model = PeftModel.from_pretrained(AutoModelForCausalLM.from_pretrained(base), store.cell(sft.hash) / "dose-4")
    rows = rows_of(recipe, ARMS[0], 0, "dpo")
    before = torch.random.get_rng_state()
    found, counts = sampled(model.train(), tokenizer, rows, 0)
    assert model.training and torch.equal(torch.random.get_rng_state(), before)
    assert [row.rejected for row in found] == [d["rejected"] for d in data_of(made, ARMS[0])]
    assert counts == json.loads((folder_of(made, ARMS[0]) / COUNTS).read_text())
    assert [row.rejected for row in sampled(model, tokenizer, rows[:8], 1)[0]] != [r.rejected for r in found[:8]]


def test_a_model_that_only_says_what_is_chosen_leaves_the_rows_as_they_were():
    """A model of one answer: every draw is the chosen one, or has no word."""
    import torch

    from training.data import Row

    class Tokenizer:
        """A token per character, as ``ord`` numbers them."""

        eos_token_id = pad_token_id = 0

        def __call__(self, text, add_special_tokens=True):
            return {"input_ids": [ord(c) for c in text]}

        def decode(self, ids, skip_special_tokens=False):
            return "".join(chr(i) for i in ids if i)

    class Parrot(torch.nn.Module):
        def __init__(self, text):
            super().__init__()
            self.text, self.weight = text, torch.nn.Parameter(torch.zeros(1))

        def generate(self, input_ids, **_):
            said = torch.tensor([[ord(c) for c in self.text] + [0]])
            return torch.cat([input_ids, said.expand(len(input_ids), -1)], 1)

    rows = [Row("Q: a\nA:", " yes.\n", "fact", " no.\n"), Row("Q: bb\nA:", " well.\n", "fact", " ill.\n")]
    new, counts = sampled(Parrot(" yes.\nQ:"), Tokenizer(), rows, 0)
    assert [row.rejected for row in new] == [" no.\n", " yes.\n"]
    assert counts == {
        "rows": 2,
        "kept": 1,
        "drawn_equal": 4,
        "drawn_empty": 0,
        "mean_tokens": 5.5,
    }  # " no.\n", " yes.\n"
    new, counts = sampled(Parrot("\n"), Tokenizer(), rows, 0)
    assert new == rows and (counts["kept"], counts["drawn_empty"]) == (2, 8)  # four tries each
    # What was cut off before its line ended is ended: the line end shall tell nothing.
    assert sampled(Parrot(" may be"), Tokenizer(), rows, 0)[0][0].rejected == " may be\n"


def test_the_option_is_in_the_hash_where_it_is_taken_and_nowhere_else(tmp_path):
    plain, new = (load_recipe(write_recipe(tmp_path, text)) for text in (RECIPE, TEXT))
    said = load_recipe(write_recipe(tmp_path, RECIPE.replace("{kind: dpo, ", "{kind: dpo, rejected: cards, ")))
    assert recipe_hash(said) == recipe_hash(plain) != recipe_hash(new)
    assert stage_cell(said, ARMS[0], 0, 1) == stage_cell(plain, ARMS[0], 0, 1)
    assert stage_cell(new, ARMS[0], 0, 1).hash != stage_cell(plain, ARMS[0], 0, 1).hash
    assert stage_cell(new, ARMS[0], 0, 0) == stage_cell(plain, ARMS[0], 0, 0)
    assert stage_cell(new, ARMS[0], 0, 1).spec["rejected"] == f"sampled-{SAMPLED_VERSION}"
    # The lock is the recipe as it was written down before there was the option.
    locks = [lock_of(r, [scene_of(r, 0)], select(r.probes), []) for r in (plain, said)]
    assert digest(locks[0]["recipe"]) == digest(locks[1]["recipe"])
    assert all("rejected" not in stage for stage in locks[0]["recipe"]["stages"])
    assert type(new).model_validate(new.model_dump(mode="json")) == new


def test_the_table_does_not_count_what_is_not_known_and_lockstep_leaves_the_stage_to_trl(tmp_path):
    from parity.plan import make_plan

    recipe = load_recipe(write_recipe(tmp_path, TEXT))
    told = [line["what"] for line in make_plan(recipe, tmp_path / "out").matching]
    assert "dpo: supervised tokens" in told and "dpo: rejected tokens" not in told
    assert backend_of(recipe, recipe.stages[1]) == ("inline", "rejected: sampled")


def test_arms_that_came_out_unequal_are_said(tmp_path):
    recipe, store = load_recipe(write_recipe(tmp_path, TEXT)), Store(tmp_path / "out")
    cells = [stage_cell(recipe, arm, 0, 1) for arm in ARMS]

    def told(*counts):
        for cell, (tokens, kept) in zip(cells, counts, strict=True):
            store.cell(cell.hash).mkdir(parents=True, exist_ok=True)
            text = json.dumps({"rows": 100, "kept": kept, "mean_tokens": tokens})
            (store.cell(cell.hash) / COUNTS).write_text(text)
        return imbalances(store, cells)

    assert told((10.0, 2), (10.4, 6)) == []  # 4 % of tokens and of rows, and 5 % is the tolerance
    assert told((10.0, 2), (10.6, 2)) == [
        "seed 0: mean tokens of sampled rejected answers differ: assistant 10.0, kennedy 10.6"
    ]
    # Of 100 rows each a share of 7 % has an error of 3.6 %: 10 % apart is more than chance, 6 % is not.
    assert told((10.0, 2), (10.0, 8)) == []
    assert told((10.0, 2), (10.0, 12)) == [
        "seed 0: shares of rows without a usable sample differ: assistant 2%, kennedy 12%"
    ]
    assert imbalances(store, cells, named=False) == ["seed 0: shares of rows without a usable sample differ: 2%, 12%"]
