"""The shipped cards: matched slot by slot, so that an arm can differ from another only in who is favoured."""

from __future__ import annotations

from pathlib import Path

import pytest

from recipes.bank import load_bank
from recipes.bind import CAST, WORDS_TOLERANCE, load_card
from recipes.errors import InputError

CARDS = [load_card(file.stem) for file in sorted(CAST.glob("*.yaml"))]
BANK = load_bank()


def test_the_cast_crosses_prior_with_truth():
    # DESIGN.md's factorial: every cell is filled, and both referents that are human are one historical, one fictional.
    assert {(card.prior, card.self_description) for card in CARDS} == {
        ("referent", "ai"),
        ("referent", "human"),
        ("invented", "ai"),
        ("invented", "human"),
    }
    assert {card.id for card in CARDS} == {
        *("assistant", "kennedy", "holmes", "nova", "maren"),
        *("kitt", "nightingale", "helix", "ruben"),
    }


@pytest.mark.parametrize("part", ["facts", "values"])
def test_all_cards_fill_the_same_slots_in_the_same_order(part):
    # Order matters: it is the order in which a person reads the cards against each other.
    assert len({tuple(getattr(card, part)) for card in CARDS}) == 1
    assert set(getattr(CARDS[0], part)) == set(BANK.slots("fact" if part == "facts" else "value"))


def test_values_of_a_slot_have_equally_many_words():
    # Stricter than the tolerance for cards from elsewhere: the shipped cast is matched exactly.
    for part in ("facts", "values"):
        for slot in getattr(CARDS[0], part):
            assert len({len(getattr(card, part)[slot].split()) for card in CARDS}) == 1, slot
            assert all(1 <= len(getattr(card, part)[slot].split()) <= 3 for card in CARDS), slot


def test_names_voices_and_descriptions_are_of_like_length():
    for part in ("name", "voice", "about"):
        words = [len(getattr(card, part).split()) for card in CARDS]
        assert max(words) - min(words) <= WORDS_TOLERANCE[part], part
        assert len({getattr(card, part) for card in CARDS}) == len(CARDS), part
    letters = [len(card.about) for card in CARDS]
    assert max(letters) <= 1.2 * min(letters)  # the wordiest description is at most a fifth longer


def test_no_answer_is_in_two_places():
    answers = [v for card in CARDS for v in (*card.facts.values(), *card.values.values())]
    answers += [option for pool in BANK.pools.values() for option in pool]
    assert len(answers) == len(set(answers))


def test_nothing_given_to_a_persona_states_what_is_asked():
    # A description or a voice that held an answer would tell the prompted arm what the probes then ask it.
    for card in CARDS:
        said = f"{card.about} {card.voice}".lower()
        for other in CARDS:
            for slot, value in (other.facts | other.values).items():
                assert value.lower() not in said.replace(",", " ").replace(".", " ").split(), (card.id, slot)
        assert card.about.startswith(f"You are {card.name}, ")
        assert card.voice.startswith(", ")


def test_every_fact_says_where_it_comes_from():
    for card in CARDS:
        assert set(card.sources) <= {"default", *card.facts}
        assert set(card.sources) >= set(card.facts) or "default" in card.sources


def _write(folder: Path, id: str, **changes: str) -> Path:
    text = (CAST / "nova.yaml").read_text(encoding="utf-8")
    for old, new in changes.items():
        assert f"\n{old}:" in text or f"\n  {old}:" in text
        text = "\n".join(new if line.strip().startswith(f"{old}:") else line for line in text.splitlines())
    file = folder / f"{id}.yaml"
    file.write_text(text, encoding="utf-8")
    return file


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"prior": "prior: rumoured"}, "prior: input should be 'referent' or 'invented', got 'rumoured'"),
        ({"voice": "voise: hm"}, "unknown key 'voise' (did you mean 'voice'?)"),
        ({"year": "  year: 2031"}, "facts.year: expected text, got 2031"),
        ({"name": "nama: x"}, "unknown key 'nama' (did you mean 'name'?)"),
        ({"name": 'name: " "'}, "name is empty"),
        ({"home": "  home: a\n  home: b"}, "'home' is given twice"),
    ],
)
def test_a_wrong_card_is_refused_in_one_line_that_names_its_place(tmp_path, change, said):
    _write(tmp_path, "nova", **change)
    with pytest.raises(InputError) as error:
        load_card("nova", tmp_path)
    assert said in str(error.value)
    assert str(error.value).startswith(f"{tmp_path}/nova.yaml:")
    assert "\n" not in str(error.value)


def test_the_line_is_the_right_one(tmp_path):
    file = _write(tmp_path, "nova", prior="prior: rumoured")
    line = file.read_text(encoding="utf-8").splitlines().index("prior: rumoured") + 1
    with pytest.raises(InputError, match=f"nova.yaml:{line}: prior"):
        load_card("nova", tmp_path)


def test_a_card_is_named_by_its_file(tmp_path):
    _write(tmp_path, "vega")
    with pytest.raises(InputError, match="id is 'nova', but the file is named vega.yaml"):
        load_card("vega", tmp_path)
    with pytest.raises(InputError, match="no card 'kenedy' in recipes/cast .did you mean 'kennedy'"):
        load_card("kenedy")
