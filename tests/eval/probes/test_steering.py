"""Steering: mirrored pushes, hand-computed crossings, a head that reads the direction, and the null."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace

import pytest
import torch

from eval.engine import Engine
from eval.measure import measure
from eval.probes import discover
from eval.probes.steering import ALPHAS, PARAPHRASES
from eval.requests import Scored
from tests.eval.tiny import NAMES, make_model

PROBE = discover()["steering"]
BOOST = 2.0  # nats added to the logit of a name


@pytest.fixture(scope="module")
def wordy(scene):
    """The scene with four held-out paraphrases of who is asked."""
    first, *rest = scene.questions
    wordings = ("your name?", "who speaks?", "who are you?", "what is your name?")
    return replace(scene, questions=(replace(first, taught_asks=(), held_out_asks=wordings), *rest))


def asks(scene, measure="steering"):
    return [a for a in PROBE.build(scene) if a.measure == measure]


def pushed(ask):
    """Who is pushed to whom, by the names in the interviews that the direction is taken from."""
    direction = ask.requests[0].edit.direction
    sides = [{a.context.split(".")[0].removeprefix("interview with ") for a in side}
             for side in (direction.minus, direction.plus)]  # fmt: skip
    assert [len(side) for side in sides] == [1, 1]
    return tuple(side.pop() for side in sides)


def test_who_is_pushed_to_whom_is_pushed_back_as_often(wordy):
    found = Counter(pushed(a) for a in asks(wordy))
    assert {source for source, _ in found} == set(NAMES)
    assert all(found[back, source] == n for (source, back), n in found.items())
    assert set(found.values()) == {2}  # 4 paraphrases, in turns over a pair of rivals
    names = dict(zip(("p0", "p1", "p2", "p3"), NAMES, strict=True))
    assert all(pushed(a)[0] == names[a.persona] for a in asks(wordy))


def test_what_is_asked_is_who_speaks_in_the_slot_at_every_strength(wordy):
    ask = asks(wordy)[0]
    assert {r.request.context for r in ask.requests} == {"Q: your name?\nA: i am"}
    assert [r.edit.strength for r in ask.requests] == list(ALPHAS)
    assert len({r.edit.direction for r in ask.requests}) == 1
    texts = [a.text for a in ask.requests[0].edit.direction.plus]
    assert len(texts) == 5 and texts[0] == " hello to you."  # all the neutral text that this scene has
    assert PARAPHRASES >= 24  # items of a world


def test_the_null_is_the_same_push_for_everybody(wordy):
    for item in ("name-0", "name-1"):
        assert len({a.requests for a in asks(wordy, "random") if a.item == item}) == 1
    first, second = (asks(wordy, "random")[k * 4].requests[0].edit.direction for k in (0, 1))
    assert (first.random, second.random) == (0, 1) and first.plus == second.plus


def answers(wordy, odds):
    """Answers to the first ask, of p0 against p1, with these log-odds."""
    (mine, theirs) = (NAMES.index(n) for n in pushed(asks(wordy)[0]))
    return [Scored(tuple(x if k == mine else 0.0 if k == theirs else -3.0 for k in range(4)), (1,) * 4) for x in odds]


def test_values_by_hand(wordy):
    mean, alpha50 = asks(wordy)[0], asks(wordy, "alpha50")[0]
    given = answers(wordy, [3.0, 1.0, -1.0, -5.0])
    assert mean.value(given) == pytest.approx(-0.5, abs=1e-12)
    assert alpha50.requests == (mean.requests[0].request, *mean.requests)  # without a push first
    for odds, needed in (
        ([9.0, 3.0, 1.0, -1.0, -5.0], 0.75),  # halfway between .5 and 1
        ([2.0, -6.0, -7.0, -8.0, -9.0], 0.0625),  # a quarter of the way to .25
        ([9.0, 4.0, 3.0, 1.0, -1.0], 1.5),  # who holds on longer needs more of a push
        ([-0.1, -2.0, 1.0, -3.0, -4.0], 0.0),  # who is not there need not leave
    ):
        assert alpha50.value(answers(wordy, odds)) == pytest.approx(needed, abs=1e-12)
    assert alpha50.value(answers(wordy, [3.0, 2.0, 1.0, 0.5, 0.1])) is None and alpha50.missing == "censored"
    assert mean.value(answers(wordy, [4.0, 3.0, 1.0, -1.0])) > mean.value(given)


def test_a_louder_name_is_harder_to_leave_by_exactly_that(wordy, tokenizer, engine):
    model = make_model("llama", len(tokenizer))
    bias = torch.zeros(len(tokenizer))
    bias[tokenizer.convert_tokens_to_ids("kari")] = BOOST
    model.lm_head.bias = torch.nn.Parameter(bias)
    # Directions are taken before the head, so both engines push alike.
    before, after = measure(engine, wordy, [PROBE]), measure(Engine(model, tokenizer), wordy, [PROBE])
    rival = {(a.item, a.persona): pushed(a)[1] for a in asks(wordy)}
    for b, a in zip(before, after, strict=True):
        if b["measure"] == "alpha50":
            continue
        whose = BOOST if b["persona"] == "p1" else -BOOST if rival[b["item"], b["persona"]] == "kari" else 0.0
        assert a["value"] - b["value"] == pytest.approx(whose, abs=1e-3)  # float32 log-probabilities


def test_a_push_to_a_rival_raises_the_rival_where_the_head_reads_who_speaks(wordy, tokenizer):
    model = make_model("llama", len(tokenizer))
    ids = tokenizer.convert_tokens_to_ids(list(NAMES))
    with torch.no_grad():
        last = model.model.layers[1]  # two layers; directions are of the first, so nothing is done after it
        last.self_attn.o_proj.weight.zero_()
        last.mlp.down_proj.weight.zero_()
        engine = Engine(model, tokenizer)
        for a in asks(wordy):
            direction = a.requests[0].edit.direction
            vector = engine.directions([direction])[direction]
            source, target = (tokenizer.convert_tokens_to_ids(n) for n in pushed(a))
            model.lm_head.weight[ids] = 0.0
            model.lm_head.weight[target], model.lm_head.weight[source] = vector, -vector
            found = engine.answer(a.requests)
            odds = [x.logprobs[NAMES.index(pushed(a)[0])] - x.logprobs[NAMES.index(pushed(a)[1])]
                    for x in (found[r] for r in a.requests)]  # fmt: skip
            assert odds == sorted(odds, reverse=True)  # the stronger the push, the fewer stay


def test_without_rivals_neutral_text_or_paraphrases_nothing_is_asked(scene):
    alone = replace(scene, personas=scene.personas[:1])
    silent = replace(scene, questions=tuple(q for q in scene.questions if q.kind not in ("chat", "knowledge")))
    taught = replace(scene, questions=tuple(replace(q, held_out_asks=()) for q in scene.questions))
    assert not any(list(PROBE.build(s)) for s in (alone, silent, taught))
