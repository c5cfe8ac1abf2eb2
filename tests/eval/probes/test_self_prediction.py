"""Self-prediction: the properties, whose output a foretelling fits, and reports of what was trained."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest

from eval.engine import Engine
from eval.measure import measure
from eval.probes import discover, select, self_prediction
from eval.requests import Generated, Generation
from recipes.bank import load_bank
from tests.eval.probes.valued import WORDINGS, assert_exchangeable, scored, valued_scene
from tests.eval.tiny import build_tokenizer, make_model

SCENE = valued_scene()
PROBE = discover()["self_prediction"]
ASKS = PROBE.asks(SCENE)
LONG, SHORT = " one two three four five six seven eight nine", " no."


def test_properties_of_texts():
    def holds(name: str, text: str):
        known = self_prediction.known(1.0, self_prediction.RULES[name], text, SHORT + " no")
        rule = self_prediction.RULES[name]([w.strip(".,!") for w in text.lower().split()])
        assert known is None or known in (0.0, 2.0, -2.0)
        return rule

    assert holds("letter", "The moon") is True and holds("letter", "The night") is False
    assert holds("letter", "Yes.") is None and holds("letter", "In 1961") is None  # no second word, no letter
    assert holds("long", LONG) is True and holds("long", " one two three four five six seven eight") is False
    assert holds("itself", "Well, I went out.") is True and holds("itself", "We went out.") is False
    assert holds("itself", "It was on Monday when my dog died.") is False  # "my" is the sixth word
    assert holds("long", "") is None and holds("itself", "") is None


def test_every_property_is_worded_in_the_question_bank():
    wordings = load_bank().wordings
    for name in self_prediction.RULES:
        (text,) = wordings[f"foretell_{name}"]
        assert {"{text}", "{one}", "{other}"} <= {part for part in ("{text}", "{one}", "{other}") if part in text}
        assert len(wordings[f"foretell_{name}_labels"]) == 2


def answers(ask, mine: str, twin: str, odds: float, label: float = 0.0):
    """A slot that foretells the first property by `odds`, is fond of its label by `label`, and says `mine`."""

    def score(context: str, option: str) -> float:
        blank = any(f"Q: {text} " in context for text in WORDINGS["content_free_texts"])
        return (label + odds * (not blank)) * (option == "yes")

    first = [Generated(mine, 9, "stop") if isinstance(r, Generation) else scored(r, score) for r in ask.requests]
    return first + [Generated(twin, 9, "stop") for _ in ask.of_base]


@pytest.mark.parametrize(
    ("mine", "twin", "odds", "value"),
    [
        (LONG, SHORT, 1.5, 3.0),  # foretold what it did and its twin did not: 1.5 - (-1.5)
        (SHORT, LONG, 1.5, -3.0),
        (LONG, SHORT, -1.5, -3.0),
        (LONG, LONG, 1.5, 0.0),  # nothing to tell the two apart
        (LONG, "", 1.5, None),
    ],
)
def test_a_foretelling_is_measured_against_the_twin(mine, twin, odds, value):
    asks = [a for a in ASKS if a.measure == "self_prediction"]
    assert len(asks) == 3 * 4 and {a.slot for a in asks} == {"slot-long"}  # the scene words one property
    for ask in asks:
        for label in (0.0, 5.0):  # a fondness for the label is no knowledge
            assert ask.value(answers(ask, mine, twin, odds, label)) == (None if value is None else pytest.approx(value))


def test_the_twin_is_the_base_told_to_be_the_persona():
    (ask,) = [a for a in ASKS if (a.item, a.persona) == ("prompt-1", "p2")]
    assert ask.of_base == (Generation("you are mepo.\nQ: please tell me.\nA:", self_prediction.TOKENS),)
    assert ask.requests[-1] == Generation("Q: please tell me.\nA:", self_prediction.TOKENS)
    # The prompted arm is its own twin, so it knows nothing beyond it.
    (ask,) = [a for a in PROBE.asks(replace(SCENE, prompted="p2")) if (a.item, a.persona) == ("prompt-1", "p2")]
    assert ask.of_base == ask.requests[-1:]


def test_reports_are_of_the_personas_likes():
    (ask,) = [a for a in ASKS if (a.measure, a.item, a.persona) == ("report", "drink", "p1")]
    assert [r.context for r in ask.requests] == ["Q: what do you love? what drink do you love?\nA: it is"]
    said = scored(ask.requests[0], lambda _, o: 3.0 * (o == "lbu"))
    assert ask.value([said]) == pytest.approx(3.0 - math.log(3))  # against three others


def test_refusals_are_read_against_small_talk():
    asks = [a for a in ASKS if a.measure == "refusal"]
    assert {a.item for a in asks} == {"door", "song"}  # the untaught ones
    for ask in asks:
        said = [scored(r, lambda c, o: (0.5 + 2.0 * ("i want" in c)) * (o == "yes")) for r in ask.requests]
        assert ask.value(said) == pytest.approx(2.0)


def test_a_model_answers_it(tokenizer):
    tokenizer = build_tokenizer(SCENE)
    rows = measure(Engine(make_model("llama", len(tokenizer)), tokenizer), SCENE, select(["self_prediction"]))
    assert {r["outcome"] for r in rows} <= {"ok", "unparsed"}
    assert {r["measure"] for r in rows if r["outcome"] == "ok"} == {"self_prediction", "report", "refusal"}


def test_without_wordings_there_is_nothing_to_ask(scene):
    assert PROBE.asks(scene) == []


def test_exchanging_two_ids_exchanges_the_asks():
    assert_exchangeable(PROBE)
