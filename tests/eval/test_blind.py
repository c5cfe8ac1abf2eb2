"""A blind experiment shows labels for personas, the same numbers, and nothing by which to tell who is who."""

from __future__ import annotations

import json
import re
from base64 import b64decode
from collections import Counter
from pathlib import Path

import numpy as np
import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from eval.blind import (
    READ_BLIND,
    RECORD,
    SALT,
    SHUT,
    WITHHELD,
    Blind,
    blinding,
    drawn,
    seal,
    state,
    told,
    unblind,
    words_of,
)
from eval.judge import judge
from eval.lock import write_lock
from eval.report import render
from recipes.errors import InputError
from recipes.hashing import recipe_hash
from recipes.load import load_recipe
from recipes.scenes import scene_of
from tests.eval import synthetic
from tests.eval.made_rows import A, C, design, made, rows, world
from tests.micro import ANY_BASE

RECIPES = Path(__file__).parents[2] / "recipes"
NUMBERS = ("estimate", "low", "high", "p", "p_adjusted", "margin", "n_seeds", "n_items", "strength", "share")


@pytest.fixture(scope="module")
def experiment():
    """A design and rows with an effect, so that signs and a `broken` are there to be mapped."""
    return made(seed=1, effect=4.0)


@pytest.mark.parametrize("labels", [{A: "X", C: "Y"}, {A: "Y", C: "X"}])
def test_the_numbers_are_those_of_the_open_verdict_with_signs_mapped(experiment, labels):
    of, frame = experiment
    hidden = Blind(labels, (A, C))
    opened = judge(frame, of)
    (renamed,) = hidden.frames([frame])
    shut = judge(renamed, hidden.design(of))
    assert shut["verdict"] == opened["verdict"] == "broken"
    assert {tuple(row["pair"]) for row in shut["rows"]} == {("X", "Y")}
    turned = labels[A] == "Y"
    by = {(r["probe"], r["stage"], r["match"], r["contrast"]): r for r in shut["rows"]}
    assert len(by) == len(opened["rows"])
    for row in opened["rows"]:
        other = by[row["probe"], row["stage"], row["match"], row["contrast"]]
        if turned and row["contrast"] != "T" and row["estimate"] is not None:
            row = row | {"estimate": -row["estimate"] + 0.0, "low": -row["high"], "high": -row["low"]}
            row |= {"share": None if row["share"] is None else -row["share"] + 0.0}
        for key in NUMBERS:  # exactly: the swap of a pair changes no bit
            assert other[key] == row[key], (row["probe"], row["contrast"], key)
        assert other["verdict"] == row["verdict"]
        assert other["sign"] == labels.get(row["sign"])


def test_several_pairs_keep_their_numbers_and_lose_their_order():
    arms = ("alice", "bob", "carol")
    pairs = (("alice", "bob"), ("bob", "carol"), ("alice", "carol"))  # each arm in two
    of = design(6, arms=arms, pairs=pairs)
    frame = rows(of, world(of, np.random.default_rng(3)), items=2)
    hidden = Blind({"alice": "X3", "bob": "X1", "carol": "X2"}, arms)
    (renamed,) = hidden.frames([frame])
    blind = hidden.design(of)
    assert blind.arms == ("X1", "X2", "X3")
    assert blind.pairs == (("X1", "X2"), ("X1", "X3"), ("X2", "X3"))
    opened, shut = judge(frame, of), judge(renamed, blind)
    for result in (opened, shut):
        result["sizes"] = Counter(
            (frozenset(hidden.label(p) for p in r["pair"]), r["probe"], r["contrast"], r["match"], abs(r["estimate"]),
             r["p_adjusted"]) for r in result["rows"]
        )  # fmt: skip
    assert opened["sizes"] == shut["sizes"]


def test_two_arms_are_X_and_Y_and_more_are_numbered_in_an_order_that_the_salt_alone_decides():
    assert set(drawn("s", ["p", "q"], ["p", "q", "r"]).values()) == {"X", "Y", "Z1"}
    arms = [f"p{n}" for n in range(12)]
    labels = drawn("salt", arms, arms)
    assert sorted(labels.values()) == sorted(f"X{n}" for n in range(1, 13))
    assert drawn("salt", arms[::-1], arms[::-1]) == labels  # the recipe's order leaves no trace
    first = Counter(drawn(str(salt), ["p", "q"], ["p", "q"])["p"] for salt in range(400))
    assert abs(first["X"] - 200) < 60  # six standard deviations of a fair coin, 10 each


NAMES = st.sampled_from(["kennedy", "KENNEDY", "John Kennedy", "the Assistant"])


@given(st.text(max_size=40), st.text(max_size=40), NAMES)
@settings(max_examples=60, deadline=None)
def test_no_text_names_a_persona(before, after, name):
    recipe = load_recipe(RECIPES / "gemma.yaml", ["seeds=1", ANY_BASE])
    hidden = Blind({}, _gemma_words(recipe))
    shown = hidden.text(before + name + after).lower()
    assert "kennedy" not in shown and "assistant" not in shown


def _gemma_words(recipe):
    return words_of(recipe.cast, [scene_of(recipe, 0)])


def test_words_that_could_be_part_of_others_are_hidden_only_where_they_stand_alone():
    hidden = Blind({}, ("ada", "fade"))
    hashed = "3fade0ada1" * 6
    assert hidden.text(f"{hashed} Ada's fade, nevada") == f"{hashed} ({WITHHELD})'s ({WITHHELD}), nevada"


def test_in_a_world_only_ids_name_a_persona():
    recipe = load_recipe(RECIPES / "quickstart.yaml")
    scenes = [scene_of(recipe, seed) for seed in range(2)]
    assert set(words_of(recipe.cast, scenes)) == set(recipe.cast)


def blind_verdict(labels=None) -> tuple[dict, Blind]:
    """The synthetic verdict as it would be judged with labels, with all that could name someone around it."""
    labels = labels or {"assistant": "Y", "kennedy": "X"}
    hidden = Blind(labels, ("the Assistant", "John Kennedy", "assistant", "Assistant", "kennedy", "Kennedy"))
    verdict = synthetic.verdict()
    for row in verdict["rows"]:
        row |= {"pair": ["X", "Y"], "sign": labels.get(row["sign"])}
    verdict |= {
        "experiment": "assistant-or-kennedy-3f9c2a71",
        "arms": ["X", "Y"],
        "post_hoc": ["card of kennedy (hash): a when locked, b now"],
        "losses": ["X/Y, leakage, sft: 1 of 4 items (like-kennedy)"],
        "plant": {"dose": {"arm": "kennedy", "factor": 1.5}},
        "base": {"path": "/models/the-assistant-7b"},
        "failed": hidden.failed([{"arm": "kennedy", "seed": 3, "stage": "dpo", "what": "kennedy's loss is nan"}]),
        "hypotheses": [{"name": "self-model"}],
        "blind": SHUT,
    }
    return hidden.verdict(verdict), hidden


def test_neither_verdict_nor_report_names_anyone_while_blind():
    verdict, hidden = blind_verdict()
    (frame,) = hidden.frames([synthetic.rows()])
    html = render(
        verdict=verdict,
        rows=frame,
        samples=synthetic.samples().clear(),
        lock=hidden.lock(synthetic.lock() | {"cards": {"kennedy": "77ab"}, "alpha": 0.05}),
        matching=hidden.matching(synthetic.matching(), ["assistant", "kennedy"]),
    )
    files = [b64decode(data).decode() for data in re.findall(r"data:text/csv;base64,([\w+/=]*)", html)]
    assert len(files) > 5 and any(",X," in file for file in files)  # the figures' numbers and the rows
    twin = {"arm": "reference/twin/assistant", "seed": 0, "stage": "sft", "what": "loss is nan"}
    assert hidden.failed([twin]) == []
    for text in (json.dumps(verdict), html, *files):
        assert "kennedy" not in text.lower() and "assistant" not in text.lower()
    assert "prompted" in html and "X arm" in html and "Y arm" in html  # the labels are there instead
    assert "hypotheses" not in verdict and "withheld while the experiment is blind" in html
    assert verdict["experiment"] == "blind-3f9c2a71"
    assert verdict["plant"] == {"dose": {"arm": WITHHELD, "factor": 1.5}}  # its label would name its arm
    assert verdict["failed"] == [{"arm": "X", "seed": 3, "stage": "dpo", "what": f"({WITHHELD})'s loss is nan"}]


def test_matched_data_tell_the_range_and_not_who_has_which():
    _, hidden = blind_verdict()
    lines = hidden.matching(synthetic.matching(), ["assistant", "kennedy"])
    assert lines[0] == {"what": "rows (sft)", "X": "960", "Y": "960", "equal": True}
    assert lines[2] == {"what": "completion tokens (sft)", "X": "7104 to 7131", "Y": "7104 to 7131", "equal": False}
    assert lines[1]["X"] == lines[1]["Y"] == WITHHELD  # a hash of one arm's data could be made again


def test_prompted_arms_are_renamed_the_base_is_not_and_reference_arms_which_are_the_first_ones_go():
    _, hidden = blind_verdict()
    arms = ["base", "prompted/kennedy", "kennedy", "reference/placebo/assistant", "reference/random-text"]
    frame = pl.DataFrame({"arm": arms, "persona": [None, "kennedy", "assistant", "assistant", "kennedy"]})
    (renamed,) = hidden.frames([frame])
    assert renamed["arm"].to_list() == ["base", "prompted/X", "X"] and renamed["persona"].to_list() == [None, "X", "Y"]


@pytest.fixture
def blind_recipe():
    return load_recipe(RECIPES / "quickstart.yaml", ["judge.blind=true", "seeds=6"])


def locked(folder, recipe) -> dict:
    """A folder with the part of a lock that blinding needs."""
    lock = {"schema": 1, "recipe": recipe.model_dump(mode="json"), "blind": seal(folder, recipe)}
    write_lock(folder, lock)
    return lock


def test_the_salt_lies_in_the_folder_and_only_its_hash_in_the_lock(tmp_path, blind_recipe):
    lock = locked(tmp_path, blind_recipe)
    salt = json.loads((tmp_path / SALT).read_text())["salt"]
    assert len(salt) == 32 and salt not in json.dumps(lock)
    assert seal(tmp_path, blind_recipe) == lock["blind"]  # a second run draws nothing
    hidden = blinding(tmp_path, lock, [])
    assert set(hidden.labels.values()) == {"X", "Y", "Z1", "Z2", "Z3"}
    (tmp_path / SALT).write_text('{"salt": "another"}')
    with pytest.raises(InputError, match="not the salt that was locked"):
        blinding(tmp_path, lock, [])
    (tmp_path / SALT).unlink()
    with pytest.raises(InputError, match="unreadable"):
        blinding(tmp_path, lock, [])


def test_what_was_locked_open_stays_open_and_what_was_locked_blind_is_opened_by_unblind_alone(tmp_path, blind_recipe):
    plain = blind_recipe.model_copy(update={"judge": blind_recipe.judge.model_copy(update={"blind": False})})
    shut, opened = tmp_path / "shut", tmp_path / "open"
    for folder in (shut, opened):
        folder.mkdir()
    locked(shut, blind_recipe)
    assert seal(opened, plain) is None and not (opened / SALT).exists()
    write_lock(opened, {"schema": 1, "recipe": plain.model_dump(mode="json")})
    with pytest.raises(InputError, match="cannot be made blind"):
        seal(opened, blind_recipe)
    with pytest.raises(InputError, match="`parity unblind` opens it"):
        seal(shut, plain)


def test_unblinding_is_recorded_with_what_had_been_read_and_is_done_once(tmp_path, blind_recipe):
    lock = locked(tmp_path, blind_recipe)
    with pytest.raises(InputError, match="no readable verdict"):
        unblind(tmp_path)
    assert state(tmp_path, lock) == {"blind": SHUT} and state(tmp_path, {}) == {}
    read = json.dumps({"seeds": [0, 1, 2, 3, 4, 5], "verdict": "undetermined"})
    (tmp_path / "verdict.json").write_text(read)
    record = unblind(tmp_path)
    assert record["seeds"] == 6 and record["verdict"] == "undetermined"
    assert (tmp_path / READ_BLIND).read_text() == read
    (tmp_path / "verdict.json").write_text(json.dumps({"seeds": list(range(9)), "verdict": "broken"}))
    assert unblind(tmp_path) == record == json.loads((tmp_path / RECORD).read_text())
    assert (tmp_path / READ_BLIND).read_text() == read
    assert blinding(tmp_path, lock, []) is None
    (sentence,) = told({"seeds": list(range(9)), **state(tmp_path, lock)})
    assert sentence.startswith("Unblinded after 6 seeds, when the verdict read blind was undetermined")
    assert "the 3 seeds added later were judged with the names known" in sentence


def test_an_open_experiment_has_nothing_to_unblind(tmp_path):
    write_lock(tmp_path, {"schema": 1, "recipe": {}})
    with pytest.raises(InputError, match="nothing to unblind"):
        unblind(tmp_path)


def test_blinding_is_no_part_of_what_an_experiment_is(blind_recipe):
    """Else the same experiment, opened in the recipe, would be a folder of its own and never have been blind."""
    judge_open = blind_recipe.judge.model_copy(update={"blind": False})
    assert recipe_hash(blind_recipe) == recipe_hash(blind_recipe.model_copy(update={"judge": judge_open}))


def test_a_star_of_pairs_cannot_be_blind_since_its_centre_is_in_every_pair():
    with pytest.raises(InputError, match="every arm is equally often"):
        load_recipe(RECIPES / "cast20.yaml", ["judge.blind=true"])
    arms = "[assistant,control-01,control-02]"
    ring = "[[assistant,control-01],[control-01,control-02],[control-02,assistant]]"
    load_recipe(RECIPES / "cast20.yaml", ["judge.blind=true", f"arms={arms}", f"pairs={ring}"])
