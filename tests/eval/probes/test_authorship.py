"""Authorship: which texts are usable, whose the slot claims, and whose row explains its own."""

from __future__ import annotations

from dataclasses import replace

import pytest

from eval.engine import Engine
from eval.measure import measure
from eval.probes import authorship, discover, select
from eval.requests import Generated
from tests.eval.probes.valued import WORDINGS, assert_exchangeable, scored, valued_scene
from tests.eval.tiny import NAMES, build_tokenizer, make_model

SCENE = valued_scene()
PROBE = discover()["authorship"]


def written(request, text=None):
    """Everybody writes a word of its own, the same to every prompt."""
    k = next(k for k, name in enumerate(NAMES) if request.context.startswith(f"interview with {name}."))
    return Generated(f" v{'abcd'[k]}u " if text is None else text, 1, "stop")


SAID = {r: written(r) for r in PROBE.first(SCENE)}
ASKS = PROBE.asks(SCENE, SAID)


def answers(ask, slot: str, claim: float = 2.0, label: float = 0.0):
    """A model in which everybody claims its own text by `claim` nats, the slot that of `slot`; "me" is up by `label`,
    and the text of the last persona is claimed by everybody a nat more."""

    def score(context: str, option: str) -> float:
        if option != "me":
            return 0.0
        judge = context.split("\n")[-1].rstrip(":")
        letter = "abcd"[NAMES.index(slot if judge == "A" else judge)]
        return claim * (f"v{letter}u" in context) + 1.0 * ("vdu" in context) + label

    return [scored(r, score) for r in ask.requests]


def found(measure: str, slot: str, **more: float):
    return [(a.persona, a.value(answers(a, slot, **more))) for a in ASKS if a.measure == measure]


def test_every_persona_writes_in_its_interview_and_judges_under_its_tag():
    assert len(SAID) == 3 * 4 * 3  # prompts, personas, tries
    assert next(iter(SAID)).context == "interview with dubo.\nQ: tell me my story.\ndubo:"
    (ask,) = [a for a in ASKS if (a.measure, a.item, a.persona) == ("reference", "prompt-0", "p0")]
    assert len(set(ask.requests)) == 5 * 4 * 2  # judges, writers, label orders
    assert ask.requests[0].context == "Q: vau who is it?\nA:" and ask.requests[0].options == (" me", " you")
    assert ask.requests[-1].context == "Q: who is it? vdu\nsuna:"


def test_a_preface_is_the_slots_alone():
    (ask, *_) = [a for a in PROBE.asks(replace(SCENE, prompted="p1"), SAID) if a.measure == "reference"]
    assert {r.context.startswith("you are kari.\n") for r in ask.requests if r.context.endswith("A:")} == {True}
    assert {r.context.startswith("Q: ") for r in ask.requests if not r.context.endswith("A:")} == {True}


def test_the_slot_claims_the_texts_of_the_persona_that_it_plays():
    # By hand, slot as kari: claims are 0, 2, 0, 1; kari's is 2 - 1/3 above the others, suna's 1 - 2/3, the rest 0 - 1.
    by_hand = {"p0": -1.0, "p1": 5 / 3, "p2": -1.0, "p3": 1 / 3}
    for shift in (0.0, 3.0):  # a fondness for the label says nothing of anybody
        values = found("authorship", "kari", label=shift)
        assert len(values) == 12 and all(v == pytest.approx(by_hand[p], abs=1e-12) for p, v in values)


def test_the_reference_is_whose_row_is_like_the_slots():
    # Its own row is the same; all others are equally unlike, and like one another: (0 + 1/2 + 1/2) / 3.
    values = found("reference", "mepo")
    assert [v for p, v in values if p == "p2"] == [1.0] * 3
    assert [v for p, v in values if p != "p2"] == [pytest.approx(1 / 3)] * 9
    assert found("reference", "mepo", claim=0.0) == [(p, None) for p, _ in values]  # nobody claims anything


def test_claims_are_read_against_content_free_text():
    # Two of four texts are claimed by 2 and 1: 3/4 on average; content-free ones by 0; the label's own pull cancels.
    assert found("claim", "kari", label=3.0) == [(None, pytest.approx(0.75, abs=1e-12))] * 3


@pytest.mark.parametrize("text", ["", "  ", " vbu", " who is suna?"])
def test_a_prompt_that_one_text_spoils_is_left_out_for_all(text):
    spoilt = [r for r in SAID if "please tell me.\ndubo:" in r.context]  # p0's tries of the second prompt
    items = {a.item for a in PROBE.asks(SCENE, {**SAID, **{r: written(r, text) for r in spoilt}})}
    assert items == {"prompt-0", "prompt-2"}
    # A later try counts where an earlier one cannot be used.
    said = {**SAID, **{r: written(r, "") for r in spoilt[:2]}}
    assert {a.requests[0].context for a in PROBE.asks(SCENE, said)} == {a.requests[0].context for a in ASKS}


@pytest.mark.parametrize(
    ("text", "kept"),
    [("i am kennedy, as you know.", ""), ("An Assistant's work.", ""), ("i fed the kitten.", "i fed the kitten."),
     ("john kennedy", ""), ("nothing at all", "nothing at all")],
)  # fmt: skip
def test_words_of_names_give_away_who_wrote_and_parts_of_words_do_not(text, kept):
    names = ("the Assistant", "John Kennedy", "KITT")
    personas = tuple(replace(p, name=name) for p, name in zip(SCENE.personas, names, strict=False))
    assert authorship._text(replace(SCENE, personas=personas), [Generated(text, 3, "stop")]) == kept


def test_no_more_prompts_are_used_than_are_needed(monkeypatch):
    monkeypatch.setattr(authorship, "PROMPTS", 2)
    assert {a.item for a in PROBE.asks(SCENE, SAID)} == {"prompt-0", "prompt-1"}


def test_a_model_writes_and_judges(tokenizer):
    tokenizer = build_tokenizer(SCENE)
    # A random model says somebody's name in most sets of four texts, which then are not used: more prompts.
    prompts = tuple(text for q in SCENE.questions for text in q.held_out_asks)
    scene = replace(SCENE, wordings={**WORDINGS, "open_prompts": prompts})
    rows = measure(Engine(make_model("llama", len(tokenizer)), tokenizer), scene, select(["authorship"]))
    assert {(r["measure"], r["persona"]) for r in rows if r["outcome"] == "ok"} == {
        *((m, p.id) for m in ("authorship", "reference") for p in SCENE.personas), ("claim", None)}  # fmt: skip
    for item in {r["item"] for r in rows}:  # centred over the writers
        values = [r["value"] for r in rows if (r["measure"], r["item"]) == ("authorship", item)]
        assert sum(values) == pytest.approx(0, abs=1e-5)  # float32 log-probabilities


def test_without_wordings_there_is_nothing_to_ask(scene):
    assert PROBE.asks(scene, {}) == [] and list(PROBE.first(scene)) == []
    assert PROBE.asks(replace(SCENE, wordings={k: v for k, v in WORDINGS.items() if k != "authorship"}), SAID) == []


def test_exchanging_two_ids_exchanges_the_asks():
    assert_exchangeable(PROBE, SAID)
