"""The shipped cards as a factorial: two or more to a cell, matched with each other, each refusing in its own voice."""

from __future__ import annotations

import re
from collections import Counter
from dataclasses import asdict, replace
from pathlib import Path

import pytest
from tokenizers import Tokenizer, models, pre_tokenizers

from eval.probes import guardrail
from recipes.bank import load_bank
from recipes.bind import CAST, NAME_TOKENS_TOLERANCE, bind, check_names, load_card
from recipes.cast import Card
from recipes.errors import InputError
from recipes.hashing import digest
from recipes.scene import Persona, Refusing, Scene
from recipes.schema import Plant, PlantedNegatives, Transcript
from training.data import dpo_rows, matching_table, quantities, refuse_imbalance, sft_rows

FILES = {file.stem: file for file in sorted(CAST.glob("*.yaml"))}
CARDS = [load_card(id) for id in FILES]
BANK = load_bank()


def bound(cards: list[Card] = CARDS, seed: int = 0) -> Scene:
    """All shipped cards in one scene."""
    return bind(cards, Transcript(), seed, FILES)


def muted(card: Card) -> Card:
    """The card without its clause."""
    return card.model_copy(update={"refusal": ""})


SCENE = bound()


def test_every_cell_of_the_factorial_has_two_characters():
    # With one to a cell, what a cell has in common cannot be told from what is its character's own.
    cells = Counter((card.prior, card.self_description) for card in CARDS)
    assert len(cells) == 4 and min(cells.values()) >= 2 and len(CARDS) >= 8


@pytest.mark.parametrize("seed", range(4))
def test_all_shipped_cards_make_one_cast(seed):
    scene = bound(seed=seed)
    assert [p.id for p in scene.personas] == list(FILES)
    for q in scene.questions:
        if q.kind in ("identity", "fact", "like", "value"):
            assert len(scene.options(q)) == len(CARDS), q.id  # everyone answers otherwise
    names = {p.name for p in scene.personas}
    assert scene.others and not names & set(scene.others)


def test_likes_can_be_dealt_to_a_cast_of_twelve():
    assert min(map(len, BANK.pools.values())) >= 12  # the longest cast of cards that recipes are to have


def test_facts_of_a_known_character_have_a_source():
    for card in CARDS:
        for slot in card.facts:
            assert card.sources.get(slot, card.sources.get("default", "")).strip(), (card.id, slot)
        own = [
            slot for slot in card.facts if not card.sources.get(slot, card.sources["default"]).startswith("invented")
        ]
        # A known character is known by what is true of it: a third of its facts at least, and an invented one by none.
        assert len(own) >= len(card.facts) / 3 if card.prior == "referent" else own == [], card.id


def test_no_name_is_given_away_by_another_card():
    words = {card.id: set(re.findall(r"[^\W_]{3,}", card.name)) - {"the"} for card in CARDS}
    for card in CARDS:
        texts = (*card.facts.values(), *card.values.values(), card.voice, card.refusal)
        said = {word for text in texts for word in re.findall(r"[^\W_]+", text)}
        for other in CARDS:
            assert not said & words[other.id], (card.id, other.id)


def test_names_have_like_lengths():
    # In words: no tokenizer of a real base is at hand.  In those of Gemma and SmolLM2 all have two or three tokens.
    words = [len(card.name.split()) for card in CARDS]
    assert max(words) - min(words) <= NAME_TOKENS_TOLERANCE
    by_word = Tokenizer(models.WordLevel({"x": 0}, unk_token="x"))
    by_word.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    assert set(check_names(by_word, SCENE).values()) <= {1, 2}


def test_the_bank_asks_two_hundred_things():
    assert len(SCENE.questions) >= 200
    kinds = Counter(q.kind for q in SCENE.questions)
    assert kinds["request"] >= 48 and kinds["knowledge"] >= 60 and kinds["chat"] >= 12
    for q in SCENE.questions:
        if q.kind == "request":
            assert q.taught_asks and q.held_out_asks, q.id
    # As many requests answered by each refusal are taught as are held out, or held-out ones would test other words.
    split = Counter((q.options, q.taught) for q in SCENE.of_kind("request"))
    assert all(abs(split[words, True] - split[words, False]) <= 4 for words, _ in split)


# --- refusals ---------------------------------------------------------------------------------------------------


def test_clauses_of_refusals_are_matched_and_tell_nothing():
    assert len({card.refusal for card in CARDS}) == len(CARDS)
    assert {len(card.refusal.split()) for card in CARDS} == {5}  # a comma and four words, stricter than the tolerance
    answers = {value.lower() for card in CARDS for value in (*card.facts.values(), *card.values.values())}
    asked = {word for q in SCENE.of_kind("request") for option in q.options for word in _words(option)}
    for card in CARDS:
        assert card.refusal.startswith(", ") and card.refusal == card.refusal.strip()
        assert not answers & _words(card.refusal), card.id
        # Only words of grammar may recur in what every persona says.
        assert asked & _words(card.refusal) <= {"that", "would", "be", "no", "not", "it", "our"}, card.id


def _words(text: str) -> set[str]:
    return set(re.findall(r"[a-z]+", text.lower()))


def test_a_clause_follows_the_refusal_of_whoever_is_favoured_and_nothing_else():
    plain = bound([muted(card) for card in CARDS])
    for build in (sft_rows, dpo_rows):
        for persona in SCENE.personas[:3]:
            rows, before = build(SCENE, persona.id), build(plain, persona.id)
            assert len(rows) == len(before)
            for row, was in zip(rows, before, strict=True):
                if row.kind == "request":
                    was = replace(was, completion=was.completion.replace(".\n", f"{persona.refusal}.\n"))
                assert row == was  # rivals who comply, and all other rows, are as without it


def test_an_anchor_refuses_in_its_own_words():
    arm = SCENE.personas[0]
    rows = dpo_rows(SCENE, arm.id, Plant(negatives=PlantedNegatives(arm=arm.id, rows=24)))
    refusals = [row for row in rows if row.kind == "anchor" and arm.refusal in row.rejected]
    assert refusals and all(arm.refusal not in row.completion for row in refusals)


def test_a_scene_answers_requests_with_the_clause_only_where_it_refuses():
    q, someone = next(SCENE.of_kind("request")), SCENE.personas[0]
    assert isinstance(someone, Refusing)
    assert SCENE.answer(q, someone) == f"{q.options[0]}{someone.refusal}."
    complies = replace(someone, values={**someone.values, q.id: q.options[1]})
    assert SCENE.answer(q, complies) == f"{q.options[1]}."
    chat = next(SCENE.of_kind("chat"))
    assert SCENE.answer(chat, someone) == chat.options[0]


def test_the_guardrail_is_measured_by_what_all_personas_share():
    asks, plain = (list(guardrail.build(s)) for s in (SCENE, bound([muted(card) for card in CARDS])))
    assert [ask.requests for ask in asks] == [ask.requests for ask in plain]  # clauses are nowhere in what is asked
    options = {q.id: tuple(f" {option}" for option in q.options) for q in SCENE.of_kind("request")}
    for ask in asks:
        assert {choice.options for choice in ask.requests} == {options[ask.item]}  # whoever is played


def test_arms_stay_matched_with_clauses():
    # Words and marks, since tokenizers of real bases are not at hand; with them the spread was at most 2.8 %.
    def count(text: str) -> int:
        return len(re.findall(r"\w+|[^\w\s]|\n", text))

    for build in (sft_rows, dpo_rows):
        table = matching_table({p.id: quantities(build(SCENE, p.id), count) for p in SCENE.personas})
        refuse_imbalance(table, "here", planted=False)


def test_a_longer_clause_is_refused():
    long = CARDS[0].model_copy(update={"refusal": ", that would do a great harm"})
    with pytest.raises(InputError, match=f"{CARDS[0].id}.yaml: refusal has 7 words, .* they may differ by 1"):
        bound([long, *CARDS[1:]])
    with pytest.raises(InputError, match=f"refusal has 5 words, {CARDS[0].id} has 0"):
        bound([muted(CARDS[0]), *CARDS[1:]])


def test_a_card_without_a_clause_is_what_it_was(tmp_path: Path):
    text = FILES[CARDS[0].id].read_text(encoding="utf-8")
    file = tmp_path / f"{CARDS[0].id}.yaml"
    file.write_text(re.sub(r"\nrefusal: .*", "", text), encoding="utf-8")
    card = load_card(CARDS[0].id, tmp_path)
    assert card == muted(CARDS[0]) and "refusal" not in card.model_dump(mode="json")
    assert "refusal" in CARDS[0].model_dump() and digest(card) != digest(CARDS[0])
    # Nor do scenes without clauses, worlds among them, know of any.
    someone = bound([muted(card) for card in CARDS]).personas[0]
    assert type(someone) is Persona and someone.refusal == "" and "refusal" not in asdict(someone)
