"""The question bank and its binding to a cast: counts, exchangeable likes, refusals."""

from __future__ import annotations

import shutil
from collections import Counter
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import Tokenizer
from tokenizers.models import WordLevel
from tokenizers.pre_tokenizers import Split

from recipes.bank import BANK, load_bank
from recipes.bind import CAST, bind_cards, check_names, deal_likes
from recipes.errors import InputError
from recipes.scene import Persona, Scene
from recipes.schema import Base, Recipe, Stage, Transcript

EVERYONE = ("assistant", "kennedy", "holmes", "nova", "maren")


def recipe(cast: tuple[str, ...] = EVERYONE) -> Recipe:
    """A recipe of that cast."""
    stages = (Stage(kind="sft", doses=(1,)),)
    return Recipe(name="t", question="?", base=Base(path="x"), cast=cast, arms=cast[:2], seeds=1, stages=stages)


SCENE = bind_cards(recipe(), 0)


def test_the_bank_is_large_enough_for_every_probe():
    # 24 items a measure: the fewest that the interval over seeds and items was simulated with.
    counts = Counter((q.kind, q.taught) for q in SCENE.questions)
    assert counts["request", False] >= 24 and counts["like", True] >= 24 and counts["knowledge", False] >= 24
    (name,) = SCENE.of_kind("identity")
    assert len(name.taught_asks) >= 8 and len(name.held_out_asks) >= 24
    assert counts["request", True] == counts["request", False]
    assert counts["fact", True] >= 12 and counts["fact", False] >= 24  # a third is taught, as in the world
    for q in SCENE.questions:
        if q.kind in ("fact", "like", "value"):
            assert len(q.asks) >= 4 and q.taught_asks and q.held_out_asks, q.id


def test_ids_and_wordings_are_asked_once():
    assert len({q.id for q in SCENE.questions}) == len(SCENE.questions)
    asks = Counter(ask for q in SCENE.questions for ask in q.asks)
    assert not [ask for ask, n in asks.items() if n > 1]


def test_no_question_names_a_character():
    for q in SCENE.questions:
        said = " ".join((*q.asks, q.lead, q.tail, q.third, q.general)).lower()
        assert not [p.id for p in SCENE.personas if p.name.lower() in said or p.id in said], q.id


def test_options_of_a_closed_question_have_equally_many_words():
    for q in SCENE.questions:
        if q.kind in ("request", "knowledge"):
            assert len({len(option.split()) for option in q.options}) == 1, q.id


def test_every_persona_answers_every_question_in_its_own_way():
    for q in SCENE.questions:
        if q.kind in ("identity", "fact", "like", "value"):
            assert len(SCENE.options(q)) == len(EVERYONE), q.id
        if q.kind == "request":
            assert {p.values[q.id] for p in SCENE.personas} == {q.options[0]}, q.id  # all of them refuse
    assert SCENE.answer(next(SCENE.of_kind("identity")), SCENE.personas[0]).startswith(f"I am {SCENE.personas[0].name}")


def test_binding_is_deterministic_and_moves_only_likes_with_the_seed():
    again, other = bind_cards(recipe(), 0), bind_cards(recipe(), 1)
    assert again == SCENE
    assert other.questions == SCENE.questions
    likes = {q.id for q in SCENE.of_kind("like")}
    assert len(likes) == 24
    for a, b in zip(SCENE.personas, other.personas, strict=True):
        changed = {k for k in a.values if a.values[k] != b.values[k]}
        # 12 options per like: all 24 equal again has a chance of 12 ** -24.
        assert changed and changed <= likes


@settings(max_examples=30, deadline=None)
@given(st.permutations(EVERYONE), st.integers(0, 10_000))
def test_likes_belong_to_places_and_not_to_characters(order, seed):
    plain, moved = bind_cards(recipe(), seed), bind_cards(recipe(tuple(order)), seed)
    for q in plain.of_kind("like"):
        assert [p.values[q.id] for p in plain.personas] == [p.values[q.id] for p in moved.personas]
    for id in EVERYONE:  # while facts and values go with the character
        a, b = plain.persona(id).values, moved.persona(id).values
        assert all(a[q.id] == b[q.id] for q in plain.questions if q.kind in ("fact", "value", "identity"))


def test_every_option_is_as_likely_at_every_place():
    bank = load_bank()
    seeds = 3000
    counts: Counter[tuple[str, int, str]] = Counter()
    for seed in range(seeds):
        for place, likes in enumerate(deal_likes(bank, 5, seed)):
            counts.update((like, place, option) for like, option in likes.items())
    cells = [counts[like, place, o] for like, pool in bank.pools.items() for place in range(5) for o in pool]
    expected = seeds / 12  # twelve options each
    chi2 = sum((n - expected) ** 2 / expected for n in cells)
    freedom = len(cells) / 12 * 11
    # Normal bound of a chi-square: mean f, variance 2f (places exclude each other, which only lowers it); 4 sd.
    assert len(cells) == 24 * 5 * 12 and chi2 < freedom + 4 * (2 * freedom) ** 0.5


def test_a_longer_cast_leaves_the_others_likes_alone():
    bank = load_bank()
    assert deal_likes(bank, 5, 3)[:2] == deal_likes(bank, 2, 3)
    with pytest.raises(InputError, match="has 12 options, fewer than the 13 of the cast"):
        deal_likes(bank, 13, 0)


# --- refusals of cards that do not match ------------------------------------------------------------------------


@pytest.fixture
def cast(tmp_path: Path) -> Path:
    """A copy of the shipped cards, to be spoilt."""
    return Path(shutil.copytree(CAST, tmp_path / "cast"))


def _edit(file: Path, old: str, new: str) -> None:
    text = file.read_text(encoding="utf-8")
    assert text.count(old) == 1, old
    file.write_text(text.replace(old, new), encoding="utf-8")


@pytest.mark.parametrize(
    ("old", "new", "said"),
    [
        ("  home: Lind Harbour\n", "", "lacks facts.home, which assistant has"),
        ("  gift: bread\n", "", "lacks values.gift, which assistant has"),
        ("  home: ", "  hoem: ", "no question asks for facts.hoem (did you mean 'home'?)"),
        ("  river: Glomma", "  river: Thames", "facts.river is 'Thames', as for holmes; options must differ"),
        ("  river: Glomma", "  river: Glomma in spring", "facts.river has 3 words, assistant has 1"),
        ("name: Maren Holt", "name: Nova Quill", "name 'Nova Quill' is also that of nova"),
        ("name: Maren Holt", "name: Maren of Upper Holt", "name has 4 words, assistant has 2"),
    ],
)
def test_an_unmatched_card_is_refused_by_name(cast, old, new, said):
    _edit(cast / "maren.yaml", old, new)
    with pytest.raises(InputError) as error:
        bind_cards(recipe(), 0, cast)
    assert str(error.value).startswith(f"{cast}/maren.yaml: ") and said in str(error.value)


def test_one_character_under_two_names_is_a_placebo_and_no_mistake(cast):
    (cast / "twin.yaml").write_text((cast / "nova.yaml").read_text(encoding="utf-8"), encoding="utf-8")
    _edit(cast / "twin.yaml", "id: nova", "id: twin")
    _edit(cast / "twin.yaml", "name: Nova Quill", "name: Vela Quill")
    scene = bind_cards(recipe(("nova", "twin", "maren")), 0, cast)
    fact, like = next(scene.of_kind("fact")), next(scene.of_kind("like"))
    assert len(scene.options(fact)) == 2 and len(scene.options(like)) == 3


# --- refusals of a wrong bank -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("old", "new", "said"),
    [
        ("id: river,", "id: home,", "the id 'home' is given twice (first at "),
        ("{id: occupation, taught: false,", "{id: occupation, tought: false,", "key 'tought' (did you mean 'taught'"),
        ("id: workplace, taught: true,", "id: workplace, taught: 3,", "taught: expected true or false, got 3"),
        ("lead: I come from,", 'lead: "",', "origin: needs a lead, which the answer continues"),
        ("[apple, pear,", "[tulip, pear,", "'tulip' is liked in two places"),
        ("[Paris, Rome, Madrid, Athens]", "[Paris, Rome, Paris, Athens]", "france: the option 'Paris' is given twice"),
        ("options: [Hello to you.]", "options: [Hello., Hi.]", "hello: a question of kind chat has 1 options, got 2"),
        ("\nchat:", "\nchatter:", "unknown key 'chatter' (did you mean 'chat'?)"),
        ("interview: An interview with {name}.", "entrance: x", "unknown key 'entrance'"),
        ('third: "{name} lives in"', "third: He lives in", "home: third needs {name}, whom it is about"),
        ("shared: {taught: false}", "shared: {tone: mild}", "unknown key 'tone'"),
        ("taught_asks: [Where do you live?, Where is your home?], ", "", "lacks taught_asks"),
        ("preferences_lead: [It is]", "preferences_lead: It is", "preferences_lead: expected a list of texts, got"),
        ("preferences_lead: [It is]", "preferences_lead: []", "preferences_lead: expected a list of texts, got"),
        ("preferences_lead: [It is]", "preferences_lead: [7]", "preferences_lead: expected text, got 7"),
        ("preferences_lead: [It is]", "preferences_lead: [It is, It is]", "preferences_lead: 'It is' is given twice"),
        ("more to you, {one} or {other}?", "more to you, {one or {other}?", "wordings.preferences: 'Which"),
        ("more to you, {one} or {other}?", "more to you, {} or {other}?", "{} is no name of a placeholder"),
        ("someone else or you?'", "someone or {one}?'", "has other placeholders than"),
        ("\nwordings:", "\nwordigns:", "unknown key 'wordigns' (did you mean 'wordings'?)"),
    ],
)  # fmt: skip
def test_a_wrong_bank_is_refused_with_its_line(tmp_path, old, new, said):
    file = tmp_path / "questions.yaml"
    shutil.copyfile(BANK, file)
    line = file.read_text(encoding="utf-8").split(old)[0].count("\n") + 1 + old.startswith("\n")
    _edit(file, old, new)
    with pytest.raises(InputError) as error:
        load_bank(file)
    assert said in str(error.value)
    where = int(str(error.value).removeprefix(f"{file}:").split(":")[0])
    assert abs(where - line) <= 1  # a question is written on two lines, and a mapping is placed at its first


def test_wordings_reach_the_scene_as_written():
    assert SCENE.wordings == load_bank().wordings
    assert SCENE.wordings["preferences"] == ("Which matters more to you, {one} or {other}?",)
    assert len(SCENE.wordings["open_prompts"]) >= 24  # items of what is asked of open prompts
    # Labels come in pairs, the one that counts first.
    for name in (n for n in SCENE.wordings if n.endswith("_labels") or n == "yes_no"):
        assert len(SCENE.wordings[name]) == 2, name
    said = " ".join(text for texts in SCENE.wordings.values() for text in texts).lower()
    assert not [p.id for p in SCENE.personas if p.name.lower() in said or p.id in said]


def test_a_missing_bank_is_refused(tmp_path):
    with pytest.raises(InputError, match="no such file"):
        load_bank(tmp_path / "questions.yaml")


# --- names ------------------------------------------------------------------------------------------------------


def _scene_of(*names: str) -> Scene:
    personas = tuple(Persona(f"p{i}", name, {}) for i, name in enumerate(names))
    return Scene(0, personas, (), Transcript())


def test_names_of_unlike_length_are_refused_with_their_counts():
    letters = Tokenizer(WordLevel({"x": 0}, unk_token="x"))  # every character is one token
    letters.pre_tokenizer = Split("", "isolated")
    # " Ada" is the space and three letters.
    assert check_names(letters, _scene_of("Ada", "Bo")) == {"p0": 4, "p1": 3}
    with pytest.raises(InputError, match="names differ by more than 1 token .*: Ada 4, Leonora 8"):
        check_names(letters, _scene_of("Ada", "Leonora"))
