"""The in-vitro world: exchangeable characters, assignment per seed, plants where they are asked for."""

from collections import Counter
from itertools import islice
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from recipes.load import load_recipe
from recipes.scenes import scene_of
from recipes.schema import Plant, PlantedPrior, PlantedSelfModel, Transcript, World
from recipes.world import assignment, bind_world, content
from training.corpus import Corpus

WORLD = World(characters=8, facts=6, likes=3, requests=4)


def test_every_character_has_a_word_of_its_own_for_everything():
    drawn = content(WORLD)
    words = [*drawn.names, *drawn.voices, *(v for row in drawn.values for v in row)]
    assert len(set(words)) == len(words)
    assert {sum(row) for row in drawn.refuses} == {WORLD.requests // 2}  # all refuse equally much
    asked = {w.strip("?.") for q in drawn.questions for text in (*q.asks, q.lead) for w in text.split()}
    assert not asked & set(words)


@settings(max_examples=20, deadline=None)
@given(seed=st.integers(0, 10_000))
def test_assignment_is_a_draw_without_replacement_that_ignores_ids(recipe, seed):
    scene = bind_world(recipe, seed)
    renamed = bind_world(recipe.model_copy(update={"cast": recipe.cast[::-1], "arms": recipe.cast[:2]}), seed)
    assert len(set(scene.bindings.values())) == len(recipe.cast)
    # Places in the cast are bound, not ids: the same draw with the cast turned round.
    assert list(renamed.bindings.values()) == list(scene.bindings.values())


def test_assignment_is_uniform_over_seeds(recipe):
    first = Counter(bind_world(recipe, seed).personas[0].name for seed in range(1600))
    # 1600 seeds over 16 characters: 100 each, standard deviation 9.7; five of them either way.
    assert len(first) == 16
    assert all(abs(n - 100) < 49 for n in first.values())


def test_a_cast_that_grows_keeps_who_was_bound(recipe):
    grown = recipe.model_copy(update={"cast": (*recipe.cast, "extra-1")})
    small, large = bind_world(recipe, 3).bindings, bind_world(grown, 3).bindings
    assert {k: large[k] for k in small} == small


def test_the_corpus_shows_each_character_about_equally_often_and_a_prior_plant_half_of_them_more():
    def counts(drawn):
        corpus = Corpus(drawn, Transcript(), seed=0)
        words = Counter(w.strip(".,:") for d in islice(corpus.documents(), 3000) for w in d.split())
        return [words[name] for name in drawn.names]

    even = counts(content(WORLD))
    assert max(even) / min(even) < 1.3  # about 1,000 mentions each in runs of several a document
    planted = counts(content(WORLD, Plant(prior=PlantedPrior(arm="x", factor=4.0))))
    assert 3 < sum(planted[:4]) / sum(planted[4:]) < 5  # the factor is 4, for half of eight characters


def test_a_self_model_plant_contradicts_half_of_the_characters_in_the_slot_and_nobody_else():
    drawn = content(WORLD, Plant(self_model=PlantedSelfModel(arm="x", facts=2)))
    assert len([v for v in drawn.slot_values if v is not None]) == 2
    for a, value in enumerate(drawn.slot_values):
        if value is not None:
            assert [row[a] == value for row in drawn.values] == [i >= 4 for i in range(WORLD.characters)]


def test_a_planted_arm_is_drawn_from_the_special_half_and_everyone_else_from_the_other(recipe):
    planted = recipe.model_copy(update={"plant": Plant(prior=PlantedPrior(arm=recipe.arms[0]))})
    drawn = [assignment(planted, seed) for seed in range(200)]
    assert {a[recipe.arms[0]] for a in drawn} == set(range(8))
    assert {i for a in drawn for id, i in a.items() if id != recipe.arms[0]} == set(range(8, 16))


def test_an_anonymous_speaker_is_one_character_throughout():
    drawn = content(WORLD)
    owner = {v: i for i, row in enumerate(drawn.values) for v in row}
    corpus = Corpus(drawn, Transcript(), seed=1)
    speakers = 0
    for document in islice(corpus.documents(), 500):
        lines = [line for line in document.splitlines() if line.startswith("A:")]
        who = {owner[w] for line in lines for w in line.replace(",", " ").replace(".", " ").split() if w in owner}
        assert len(who) <= 1, document
        speakers += bool(who)
    assert speakers > 100  # the check saw something


@pytest.fixture(scope="module")
def recipe():
    from pathlib import Path

    return load_recipe(Path(__file__).parents[2] / "recipes" / "quickstart.yaml")


def test_fewer_facts_taught_leave_the_untaught_ones_as_they_are():
    recipe = load_recipe(Path("recipes/quickstart.yaml"))
    whole, some, none = (scene_of(recipe.model_copy(update={"facts_taught": n}), 0) for n in (None, 3, 0))
    assert [len(list(s.of_kind("fact", taught=True))) for s in (whole, some, none)] == [8, 3, 0]  # a third of 24
    untaught = [list(s.of_kind("fact", taught=False)) for s in (whole, some, none)]
    assert untaught[0] == untaught[1] == untaught[2] and len(untaught[0]) == 16
