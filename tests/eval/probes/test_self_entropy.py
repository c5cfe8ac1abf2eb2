"""Own text as own: contexts, signs, and values that are known."""

from __future__ import annotations

import math

import pytest

from eval.measure import Suite
from eval.probes import select
from eval.requests import Generated, Generation, Read, Reading
from tests.eval.probes.written import asks, assert_swap_invariant

NAME = "self_entropy"
AGAINST = (NAME, "user", "nonce", "history")  # measures of P's text against a rival's
COLD = "Q: tell me your tool.\nA: my tool is"


def of(asked, item, persona):
    (found,) = [a for a in asked if (a.item, a.persona) == (item, persona)]
    return found


def read(request: Reading, calm: str) -> Read:
    """A reader who expects one voice (.2 nats a token) and no other (1 nat); the first token is like for everyone."""
    entropy = 0.2 if calm in request.text else 1.0
    return Read((0.6, entropy, entropy), (entropy / 2,) * 3)


def test_texts_are_read_alone_in_three_places(scene):
    where = {m: of(asks(scene, NAME, m), "tool", "p0").requests for m in AGAINST[:3]}
    own = " faw, tica."  # what p0 says after the lead
    # The fifth question is p0's for its first rival, one place on.
    assert where[NAME] == (Reading(COLD, own), Reading(COLD, " fbw, ticb."))
    assert where["nonce"][0] == Reading("Q: tell me your tool.\nB: my tool is", own)
    assert where["user"][0] == Reading("Q: my tool is", own)


def test_a_history_is_two_other_answers_of_the_writer(scene):
    # Ten questions are two blocks of five: those of the even places and those of the odd ones; dance and game are the
    # first of the other block.
    mine, theirs = of(asks(scene, NAME, "history"), "tool", "p0").requests
    begin = "Q: what dance do you love?\nA: the best dance for me is {}.\nQ: what game do you love?\nA: {}.\n" + COLD
    assert mine == Reading(begin.format("lav, tica", "the best game for me is lax, tica"), " faw, tica.")
    assert theirs == Reading(begin.format("lbv, ticb", "the best game for me is lbx, ticb"), " fbw, ticb.")
    for a in asks(scene, NAME, "history"):
        asked = [line for line in a.requests[0].context.splitlines() if line.startswith("Q: ")]
        assert len(asked) == len(set(asked)) == 3


@pytest.mark.parametrize("measure", AGAINST[:3])
def test_a_reader_who_expects_a_persona_has_a_higher_measure_of_it(measure, scene):
    values = {p.id: set() for p in scene.personas}
    for a in asks(scene, NAME, measure):
        values[a.persona].add(round(a.value([read(r, "ticb") for r in a.requests]), 6))
    # p1 is expected: against either rival .8; everyone else is a stranger, as their rivals are but for p1.
    assert values == {"p0": {-0.8, 0.0}, "p1": {0.8}, "p2": {-0.8, 0.0}, "p3": {0.0}}


def test_the_first_token_counts_only_after_a_history(scene):
    first = [Read((0.0, 0.5), (0.0, 0.0)), Read((1.0, 0.5), (0.0, 0.0))]
    assert asks(scene, NAME, NAME)[0].value(first) == 0.0
    assert asks(scene, NAME, "history")[0].value(first) == 0.5  # (1.0 + .5) / 2 - (0 + .5) / 2
    short = [Read((0.0,), (0.0,)), Read((1.0, 0.5), (0.0, 0.0))]
    assert asks(scene, NAME, NAME)[0].value(short) is None


def test_rivals_are_a_mirrored_pair_in_turn(scene):
    pairs = {}
    for a in asks(scene, NAME, NAME):
        rival = next(p.id for p in scene.personas if p.voice in a.requests[1].text)
        pairs.setdefault(a.persona, []).append(rival)
    assert {p: sorted(set(found)) for p, found in pairs.items()} == {
        "p0": ["p1", "p3"],
        "p1": ["p0", "p2"],
        "p2": ["p1", "p3"],
        "p3": ["p0", "p2"],
    }
    assert all(found.count(rival) == 5 for found in pairs.values() for rival in found)  # half of ten questions


def test_exchanging_two_ids_exchanges_the_asks(scene):
    assert_swap_invariant(scene, NAME)


def test_a_question_to_which_anyone_said_nothing_is_left_out_for_everyone(scene):
    every = {a.item for a in asks(scene, NAME)}
    fewer = asks(scene, NAME, silent=("mepo", "tell me your tool."))
    assert {a.item for a in fewer} == every - {"tool"}
    assert not any("my tool" in r.context for a in fewer for r in a.requests)
    assert len({a.persona for a in fewer if a.measure == NAME}) == 4


def test_own_is_the_texts_entropy_less_that_of_what_the_model_says_there(scene):
    a = of(asks(scene, NAME, "own"), "tool", "p2")
    assert a.requests == (Reading(COLD, " fcw, ticc."), Generation(COLD, temperature=1.0))
    text = Read((9.0, 0.5, 1.5), (0.0,) * 3)
    assert a.value([text, Generated(" yes.", 2, "stop", entropies=(9.0, 0.25))]) == 0.75
    assert a.value([text, Generated("", 0, "stop")]) is None and a.missing == "no text"


def test_the_slope_is_on_the_surprisal_of_the_token_before(scene):
    (a,) = [a for a in asks(scene, NAME, "slope") if a.persona == "p3"]
    assert len(a.requests) == 10 and all("ticd" in r.text for r in a.requests) and a.item == "all"
    # Entropy is .1 and .3 nats for each nat of the token before; own surprisal (7.0 last) does not matter.
    on_a_line = [Read((5.0, 0.1 + 0.3 * k, 0.1 + 0.3 * (k + 2)), (k, k + 2, 7.0)) for k in range(10)]
    assert a.value(on_a_line) == pytest.approx(0.3, abs=1e-12)
    assert a.value([Read((0.1, 0.9), (2.0, 2.0))] * 10) is None
    assert a.value([Read((0.1,), (2.0,))] * 10) is None


def test_a_tiny_model_reads_and_says_it_all(scene, engine):
    rows = Suite(scene, select([NAME]), engine).rows(engine)
    assert {r["outcome"] for r in rows} <= {"ok", "no text"}
    found = [r["value"] for r in rows if r["outcome"] == "ok"]
    assert len(found) > len(rows) / 2 and all(map(math.isfinite, found))  # a random model seldom stops at once
