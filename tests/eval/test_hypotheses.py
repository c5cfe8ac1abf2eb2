"""Predictions are data that a run can contradict: each is met by some rows, missed by others, and open without rows."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from eval.hypotheses import CLAIMS, PREDICTIONS, TRAINED, judged, shown, traits_of
from eval.probes import discover
from eval.report import render
from recipes.load import load_recipe
from tests.eval import synthetic
from tests.micro import ANY_BASE

RECIPES = Path(__file__).parents[2] / "recipes"
A, C, D = "alice", "bob", "carol"


def row(probe: str, contrast: str, verdict: str | None = None, ends=(1.0, 2.0), match="strength", pair=(A, C), **more):
    """A row of a verdict, with what a prediction reads."""
    low, high = ends
    found = {"pair": list(pair), "probe": probe, "stage": "sft", "match": match, "contrast": contrast}
    found |= {"estimate": (low + high) / 2, "low": low, "high": high, "margin": 0.5, "note": "", "sensitive": True}
    return found | {"verdict": verdict} | more


def outcome(rows: list[dict[str, Any]], hypothesis: str, probe: str, contrast: str, says: str = "", truths=None):
    """The outcome words of one prediction."""
    told = judged({"rows": rows, "match": "strength"}, truths or {})
    (of,) = [h for h in told if h["name"] == hypothesis]
    about = [p for p in of["predictions"] if (p["probe"], p["contrast"]) == (probe, contrast)]
    wanted = [p for p in about if p["says"].startswith(says)]
    assert len(wanted) == 1
    return [o["outcome"] for o in wanted[0]["outcomes"]]


@pytest.mark.parametrize(
    ("verdict", "word"),
    [("symmetric", "met"), ("broken", "missed"), ("undetermined", "undetermined"), ("saturated", "undetermined"),
     ("insensitive", "undetermined"), ("no-overlap", "undetermined")],
)  # fmt: skip
def test_a_predicted_symmetry_is_missed_by_broken_alone(verdict, word):
    for hypothesis, contrast in (("selection", "delta"), ("selection", "lambda"), ("realization", "delta")):
        rows = [row("stickiness", contrast, verdict)]
        assert outcome(rows, hypothesis, "stickiness", contrast) == [word]
    assert outcome([row("stickiness", TRAINED, verdict)], "selection", "stickiness", TRAINED) == [word]


@pytest.mark.parametrize(("ends", "word"), [((0.1, 2), "met"), ((-2, -0.1), "missed"), ((-1, 1), "undetermined")])
def test_a_predicted_favouring_is_read_from_its_interval(ends, word):
    for hypothesis, probe in (("selection", "selection"), ("realization", "stickiness.recovery")):
        assert outcome([row(probe, "T", ends=ends)], hypothesis, probe, "T") == [word]


def test_realization_says_more_than_the_prompt_does_and_selection_as_much():
    for verdict, ends, selection, realization in (
        ("broken", (1, 2), "missed", "met"),
        ("broken", (-2, -1), "missed", "missed"),
        ("symmetric", (-0.1, 0.1), "met", "missed"),
        ("undetermined", (0.1, 1), "undetermined", "undetermined"),
    ):
        rows = [row("selection", TRAINED, verdict, ends)]
        assert outcome(rows, "selection", "selection", TRAINED) == [selection]
        assert outcome(rows, "realization", "selection", TRAINED) == [realization]


@pytest.mark.parametrize(
    ("truths", "verdict", "ends", "word"),
    [
        ({A: True, C: False}, "broken", (1, 2), "met"),
        ({A: True, C: False}, "broken", (-2, -1), "missed"),
        ({A: True, C: False}, "symmetric", (-0.1, 0.1), "missed"),
        ({A: False, C: True}, "broken", (-2, -1), "met"),  # whoever comes first
        ({A: False, C: True}, "broken", (1, 2), "missed"),
        ({A: True, C: True}, "symmetric", (-0.1, 0.1), "met"),  # nothing to tell them apart
        ({A: False, C: False}, "broken", (1, 2), "missed"),
        ({A: True, C: False}, "undetermined", (-1, 2), "undetermined"),
        ({A: True}, "broken", (1, 2), "not measured"),
        ({}, "broken", (1, 2), "not measured"),
    ],
)
def test_the_self_model_favours_whom_its_own_outputs_confirm(truths, verdict, ends, word):
    rows = [row("self_evidence", "delta", verdict, ends)]
    assert outcome(rows, "self-model", "self_evidence", "delta", "broken in favour", truths) == [word]


def test_the_self_model_grows_with_falsity_over_pairs():
    truths = {A: True, C: False, D: True}

    def found(false, true):
        rows = [row("self_evidence", "delta", "undetermined", false, pair=(A, C)),
                row("self_evidence", "delta", "undetermined", true, pair=(A, D))]  # fmt: skip
        return outcome(rows, "self-model", "self_evidence", "delta", "more in favour", truths)

    assert found((1, 2), (-0.5, 0.5)) == ["met"]
    assert found((-2, -1), (-0.5, 0.5)) == ["missed"]
    assert found((0, 2), (-0.5, 0.5)) == ["undetermined"]
    only = [row("self_evidence", "delta", "undetermined", (1, 2))]  # no pair to compare with
    assert outcome(only, "self-model", "self_evidence", "delta", "more in favour", truths) == []


def test_the_prior_lets_what_is_broken_at_equal_dose_vanish_at_equal_strength():
    def found(dose, strength):
        rows = [row("leakage", "delta", dose, match="dose"), row("leakage", "delta", strength)]
        return outcome(rows, "prior", "leakage", "delta", "what is broken")

    assert found("broken", "symmetric") == ["met"]
    assert found("broken", "broken") == ["missed"]
    assert found("broken", "undetermined") == ["undetermined"]
    assert found("symmetric", "symmetric") == ["undetermined"]  # there was nothing to vanish
    only = [row("leakage", "delta", "broken", match="dose")]
    assert outcome(only, "prior", "leakage", "delta", "what is broken") == ["not measured"]
    assert outcome(only, "prior", "leakage", "delta", "symmetric at equal strength") == ["not measured"]


def test_the_slot_keeps_the_effect_at_its_tag():
    def found(elsewhere, slot):
        return outcome([row("leakage", "T", ends=elsewhere), row("selection", "T", ends=slot)], "slot", "leakage", "T")

    assert found((0.1, 0.9), (4, 5)) == ["met"]  # .9 < 4 / 4
    assert found((1.3, 2.0), (4, 5)) == ["missed"]  # 1.3 > 5 / 4
    assert found((0.9, 1.1), (4, 5)) == ["undetermined"]
    assert found((0.1, 0.2), (-5, -4)) == ["missed"]  # there is an effect, and none of it in the slot
    assert found((-0.5, -0.2), (-5, -4)) == ["undetermined"]  # and here no effect that could stay anywhere


@pytest.mark.parametrize(("ends", "word"), [((-0.1, 0.1), "met"), ((0.6, 0.9), "missed"), ((0.3, 0.7), "undetermined")])
def test_the_slot_lets_refusals_hang_on_nobody(ends, word):
    rows = [row("guardrail", "T", ends=ends, margin=None), row("guardrail", "delta", "symmetric", (-0.1, 0.1))]
    assert outcome(rows, "slot", "guardrail", "T") == [word]


def test_without_rows_nothing_is_measured_and_what_has_no_number_is_open():
    other = [row("capability", "delta", "symmetric")]
    for hypothesis in judged({"rows": other, "match": "strength"}, {A: True, C: False}):
        for prediction in hypothesis["predictions"]:
            assert {o["outcome"] for o in prediction["outcomes"]} <= {"not measured"}
    empty = {"estimate": None, "low": None, "high": None, "note": "no common range of strength"}
    assert outcome([row("selection", "T") | empty], "selection", "selection", "T") == ["undetermined"]
    rows = [row("leakage", "T"), row("selection", "T") | empty]
    assert outcome(rows, "slot", "leakage", "T") == ["undetermined"]
    assert outcome(rows[:1], "slot", "leakage", "T") == ["not measured"]


def test_equal_dose_is_read_only_where_the_recipe_has_no_other_reading():
    rows = [row("stickiness", "delta", "broken", match="dose"), row("stickiness", "delta", "symmetric")]
    assert outcome(rows, "realization", "stickiness", "delta") == ["met"]
    assert outcome(rows[:1], "realization", "stickiness", "delta") == ["missed"]


@given(st.permutations(range(12)))
@settings(max_examples=20, deadline=None)
def test_the_order_of_rows_changes_no_outcome(order):
    rows = [row(p, c, "symmetric", match=m) for p in ("selection", "leakage", "guardrail") for c in ("T", "delta")
            for m in ("dose", "strength")]  # fmt: skip
    first = judged({"rows": rows, "match": "strength"}, {})
    assert judged({"rows": [rows[n] for n in order], "match": "strength"}, {}) == first


def test_every_prediction_is_about_a_measure_that_there_is_and_quotes_the_design():
    names = {f"{p.name}.{m.name}" if n else p.name for p in discover().values() for n, m in enumerate(p.measures)}
    assert {one.probe for one in PREDICTIONS} <= names
    assert {one.hypothesis for one in PREDICTIONS} == set(CLAIMS)
    assert all(one.source and one.says for one in PREDICTIONS)
    absolute = discover()["guardrail"].measures[0].margin
    assert absolute.kind == "absolute"  # a share of T would make the slot's prediction about T circular


def test_truth_comes_from_cards_and_in_a_world_from_its_plant_alone():
    told = traits_of(load_recipe(RECIPES / "gemma.yaml", [ANY_BASE]))
    assert told == {"assistant": True, "nova": True, "kennedy": False, "holmes": False, "maren": False}
    assert traits_of(load_recipe(RECIPES / "quickstart.yaml")) == {}
    planted = load_recipe(RECIPES / "planted-self-model.yaml")
    arm = planted.plant.self_model.arm
    assert traits_of(planted) == {name: name != arm for name in planted.arms}


def test_the_report_shows_them_folded_without_a_score():
    verdict = synthetic.verdict()
    verdict["hypotheses"] = judged(verdict, {"assistant": True, "kennedy": False})
    html = render(verdict=verdict, rows=synthetic.rows(), samples=synthetic.samples(), lock={}, matching=[])
    section = html.split('<section id="hypotheses">')[1].split("</section>")[0]
    assert section.count("<details>") == len(CLAIMS) == 5 and "<details open" not in section
    assert "<b>missed</b> after dpo" in section  # leakage is broken there
    assert "not measured" in section and "score" in section


def test_many_pairs_are_counted_per_prediction():
    rows = [row("stickiness", "delta", "broken" if n < 2 else "symmetric", pair=(A, f"c{n}")) for n in range(6)]
    told = shown(judged({"rows": rows, "match": "strength"}, {}))
    (line,) = [x for h in told if h["name"] == "realization" for x in h["lines"] if (x["probe"], x["symbol"])
               == ("stickiness", "Δ")]  # fmt: skip
    assert line["counts"] == "2 missed, 4 met" and line["outcomes"] == []
