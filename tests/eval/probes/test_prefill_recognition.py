"""Forced words: what is asked of which text, the area, and its sign."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from eval.engine import Engine
from eval.measure import Suite
from eval.probes import select
from eval.probes.prefill_recognition import area
from eval.requests import Choice, Generated, Generation, Scored
from tests.eval.probes.written import asks, assert_swap_invariant
from tests.eval.tiny import make_model

NAME = "prefill_recognition"


@pytest.fixture
def worded(scene):
    """The scene with the wordings that the probe needs, of the words that there are."""
    wordings = {"yes_no": ("yes", "no"), "forced": ("who speaks? {first} {second}",), "recite": ("hello.",)}
    return replace(scene, wordings=wordings | {"memorised": ("hello to you.", "you are welcome.")})


def answered(ask, known: str):
    """Answers of a model that says "yes" to every text but those with `known` in them; its own text has it."""
    own = [r for r in ask.requests if isinstance(r, Generation)]
    texts = [Generated(f" my own {known} {k}", 4, "stop") for k in range(len(own))]
    choices = [r for r in ask.requests if isinstance(r, Choice)]
    last = [r.context.split("\n")[-3] for r in (*choices, *ask.then([*texts, *choices]))]
    scored = [Scored((-1.0, -2.0) if known not in line else (-2.0, -1.0), (1, 1)) for line in last]
    return [*texts, *scored]


def test_a_scene_without_the_wordings_is_not_asked(scene, worded):
    assert asks(scene, NAME) == []
    assert asks(replace(worded, wordings={**worded.wordings, "yes_no": ()}), NAME) == []
    assert {a.measure for a in asks(worded, NAME)} == {NAME, "other", "memorised"}


def test_every_text_is_asked_about_with_either_label_first(worded):
    (a,) = [a for a in asks(worded, NAME, NAME) if a.persona == "p1"]
    about = [r for r in a.requests if isinstance(r, Choice) and "your tool" in r.context]
    begin = "Q: tell me your tool.\nA: my tool is fbw, ticb.\nQ: who speaks?"
    assert about == [Choice(f"{begin} yes no\nA:", (" yes", " no")), Choice(f"{begin} no yes\nA:", (" yes", " no"))]
    assert len([r for r in a.requests if isinstance(r, Generation)]) == 10  # four likes, six facts
    assert a.then([Generated(" x", 1, "stop")] * 10)[0].context == (
        "Q: what drink do you love?\nA: x\nQ: who speaks? yes no\nA:"
    )


def test_who_tells_its_own_words_from_anothers_has_an_area_of_one_and_who_cannot_one_half(worded):
    for a in asks(worded, NAME):
        assert a.value(answered(a, "tree")) > 0.5  # it takes texts about a tree for its own: base texts have two
    for a in asks(worded, NAME, "memorised"):
        assert a.value(answered(a, "tree")) == 1.0
    a = asks(worded, NAME, NAME)[0]
    blind = [Scored((-1.0, -1.0), (1, 1)) if isinstance(x, Scored) else x for x in answered(a, "tree")]
    assert a.value(blind) == 0.5


def test_the_value_is_an_area_over_pairs(worded):
    assert area([2.0, 1.0], [0.0, 1.0]) == (1 + 1 + 1 + 0.5) / 4
    (a,) = [a for a in asks(worded, NAME, NAME) if a.persona == "p0"]
    # One of ten base texts is about a tree and passes for own: that one ties with all own texts.
    assert a.value(answered(a, "tree")) == pytest.approx(0.95, abs=1e-12)


def test_own_texts_that_are_empty_are_left_out_and_too_few_give_no_number(worded):
    a = asks(worded, NAME, NAME)[0]
    texts = [Generated(" x", 1, "stop")] * 7 + [Generated("", 0, "stop")] * 3
    assert len(a.then(texts)) == 7 * 2
    forced = [Scored((-1.0, -2.0), (1, 1))] * (10 * 2 + 7 * 2)
    assert a.value([*texts, *forced]) is None and a.missing == "no text"
    enough = [Generated(" x", 1, "stop")] * 8 + [Generated("", 0, "stop")] * 2
    assert a.value([*enough, *forced, *forced[:2]]) == 0.5


def test_exchanging_two_ids_exchanges_the_asks(worded):
    assert_swap_invariant(worded, NAME)


def test_a_tiny_model_answers_it_all(worded, tokenizer):
    model = make_model("llama", len(tokenizer))
    bias = torch.zeros(len(tokenizer))
    bias[tokenizer.convert_tokens_to_ids(["\n", "</s>"])] = -50.0  # it never says nothing
    model.lm_head.bias = torch.nn.Parameter(bias)
    engine = Engine(model, tokenizer)
    rows = Suite(worded, select([NAME]), engine).rows(engine)
    assert len(rows) == 4 + 4 + 1 and {r["item"] for r in rows} == {"all"}
    assert {r["outcome"] for r in rows} == {"ok"} and all(0 <= r["value"] <= 1 for r in rows)
    # The base's texts of two personas are other texts, and a random model does not read them all alike.
    assert len({r["value"] for r in rows}) > 1
