"""Rows and seeds of the arms for reference: all as in an arm, but for what they are a reference of."""

from collections import Counter
from pathlib import Path

import pytest

from recipes.errors import InputError
from recipes.hashing import recipe_hash
from recipes.load import load_recipe
from recipes.references import PLACEBO, RANDOM_TEXT, TWIN, TWIN_SEED, favoured, reference_arms, scene_for
from recipes.scenes import scene_of
from recipes.world import assignment, special
from training.cells import ROWS, rows_of, stage_cell, stage_cells
from training.data import TOLERANCE, matching_table, quantities
from training.references import random_text

RECIPES = Path(__file__).parents[2] / "recipes"
ALL = "references=[placebo,twin,random-text]"
RECIPE = load_recipe(RECIPES / "quickstart.yaml", [ALL])
ONE = RECIPE.arms[0]
WORDS = str.split


@pytest.mark.parametrize("kind", ROWS)
def test_random_text_has_the_rows_of_every_arm_each_answered_by_someone_of_the_cast(kind):
    scene = scene_of(RECIPE, 3)
    arms = {p.id: ROWS[kind](scene, p.id) for p in scene.personas}
    random = rows_of(RECIPE, RANDOM_TEXT, 3, kind)
    assert [(r.prompt, r.kind) for r in random] == [(r.prompt, r.kind) for r in arms[ONE]]
    who = [{id for id, rows in arms.items() if rows[place] == row} for place, row in enumerate(random)]
    assert all(who)
    compared = set()
    for row_kind in {r.kind for r in random}:
        drawn = [ids for ids, row in zip(who, random, strict=True) if row.kind == row_kind]
        if all(len(ids) == 1 for ids in drawn):  # what all arms share says nobody's name
            compared.add(row_kind)
            times = Counter(id for ids in drawn for id in ids)
            # dealt like cards: nobody more than once oftener than anybody else
            assert max(times.values()) - min(times[p.id] for p in scene.personas) <= 1
    assert {"identity", "fact", "like"} <= compared
    given = [row for row in random if row.supervised]  # of rl nothing is: who is drawn stands in what judges an answer
    assert all(row.rejected != row.completion for row in given) and bool(given) == (kind != "rl")
    named = Counter(len(ids) for ids in who)
    assert named[1] > len(random) / 2
    assert (named[1] < len(random)) == bool(given)  # small talk, everyone's, is not asked in rl


@pytest.mark.parametrize("kind", ROWS)
def test_random_text_is_drawn_anew_for_each_seed_and_the_same_for_the_same(kind):
    def places(seed):
        scene = scene_of(RECIPE, seed)
        arms = [ROWS[kind](scene, p.id) for p in scene.personas]
        rows = random_text(ROWS[kind], scene, None)
        return [next(k for k, arm in enumerate(arms) if arm[i] == row) for i, row in enumerate(rows)]

    assert places(0) == places(0) != places(1)


def test_random_text_is_matched_in_rows_and_tokens():
    for kind in ROWS:
        counted = {
            arm: quantities([row for s in range(4) for row in rows_of(RECIPE, arm, s, kind)], lambda t: len(WORDS(t)))
            for arm in (ONE, RANDOM_TEXT)
        }
        for line in matching_table(counted):
            assert line["equal"] or line["spread"] <= TOLERANCE, line


def test_random_text_gets_no_anchors_and_as_many_rows_as_the_other_arms_of_a_plant():
    planted = load_recipe(RECIPES / "planted-negatives.yaml", ["references=[random-text]"])
    for kind in ROWS:
        random, planted_arm = (rows_of(planted, arm, 0, kind) for arm in (RANDOM_TEXT, planted.plant.arm))
        assert len(random) == len(planted_arm)
        # Anchors say what others answer, and in rl nobody's answers are given.
        assert any(r.kind == "anchor" for r in planted_arm) == (kind != "rl")
        assert not any(r.kind == "anchor" for r in random)


def test_twins_are_one_run_but_for_the_seed_of_training():
    arm = f"{TWIN}{ONE}"
    for index in range(len(RECIPE.stages)):
        twin, own = stage_cell(RECIPE, arm, 2, index), stage_cell(RECIPE, ONE, 2, index)
        differs = {key for key in own.spec if own.spec[key] != twin.spec[key]}
        assert differs == {"seed"} | ({"parent"} if index else set())
        assert twin.spec["seed"] == 2 + TWIN_SEED and twin.seed == 2  # the scene is that of the seed
        assert rows_of(RECIPE, arm, 2, own.spec["kind"]) == rows_of(RECIPE, ONE, 2, own.spec["kind"])
    used = {cell.spec["seed"] for cell in stage_cells(RECIPE)}
    assert not used & {cell.spec["seed"] for cell in stage_cells(RECIPE, [arm])}


def test_a_dose_plant_gives_the_twin_of_its_arm_the_steps_of_its_arm_and_random_text_those_of_the_others():
    planted = load_recipe(RECIPES / "planted-dose.yaml", [ALL])
    assert planted.plant.arm == planted.arms[0]
    steps = {arm: stage_cell(planted, arm, 0, 0).spec["steps"] for arm in planted.arms + reference_arms(planted)}
    one, other = planted.arms
    assert steps[f"{TWIN}{one}"] == steps[f"{PLACEBO}{one}"] == steps[one] != steps[other] == steps[RANDOM_TEXT]


def test_a_placebo_plays_the_first_arms_role_with_a_character_that_the_cast_has_not():
    for seed in range(8):
        scene, own = scene_for(RECIPE, f"{PLACEBO}{ONE}", seed), scene_of(RECIPE, seed)
        assert [p.id for p in scene.personas] == [p.id for p in own.personas]
        assert [p for p in scene.personas if p.id != ONE] == [p for p in own.personas if p.id != ONE]
        shadow = scene.persona(ONE)
        assert shadow.name not in {p.name for p in own.personas} and shadow.name in own.others
        assert own.persona(ONE).name in scene.others and len(scene.others) == len(own.others)
        rows = rows_of(RECIPE, f"{PLACEBO}{ONE}", seed, "sft")
        mine = rows_of(RECIPE, ONE, seed, "sft")
        assert [(r.prompt, r.kind) for r in rows] == [(r.prompt, r.kind) for r in mine] and rows != mine
        said = " ".join(r.completion for r in rows)
        assert shadow.name in said and own.persona(ONE).name not in said


def test_over_seeds_every_character_is_as_often_the_placebo():
    names = Counter(scene_for(RECIPE, f"{PLACEBO}{ONE}", seed).persona(ONE).name for seed in range(640))
    # 640 / 16 = 40 each, standard deviation 6.1; the farthest of 16 lies beyond 4.5 of them in 1 of 9,000 worlds
    assert len(names) == 16 and all(abs(n - 40) < 28 for n in names.values())


@pytest.mark.parametrize("name", ["planted-prior", "planted-self-model"])
def test_under_a_plant_in_the_corpus_the_placebo_is_of_the_first_arms_kind(name):
    planted = load_recipe(RECIPES / f"{name}.yaml", ["references=[placebo]"])
    world, first = planted.base.world, planted.arms[0]
    from recipes.world import world_content

    names = world_content(planted).names
    for seed in range(12):
        other = names.index(scene_for(planted, f"{PLACEBO}{first}", seed).persona(first).name)
        mine = assignment(planted, seed)[first]
        assert (other in special(world)) == (mine in special(world)) and other != mine


def test_arms_for_reference_are_named_in_one_order_and_say_whom_they_favour():
    assert reference_arms(RECIPE) == (RANDOM_TEXT, f"{TWIN}{ONE}", f"{PLACEBO}{ONE}")
    assert [favoured(arm) for arm in (*reference_arms(RECIPE), ONE)] == ["", ONE, ONE, ONE]
    assert reference_arms(load_recipe(RECIPES / "quickstart.yaml")) == ()


def test_no_references_leave_hash_and_cells_as_they_were_and_some_change_the_hash_alone():
    plain = load_recipe(RECIPES / "quickstart.yaml")
    empty = load_recipe(RECIPES / "quickstart.yaml", ["references=[]"])
    assert recipe_hash(plain) == recipe_hash(empty) != recipe_hash(RECIPE)
    assert [c.hash for c in stage_cells(plain)] == [c.hash for c in stage_cells(RECIPE)]


@pytest.mark.parametrize(
    ("recipe", "overrides", "said"),
    [
        ("quickstart", ["references=[twn]"], "no reference arm 'twn' (did you mean 'twin'?)"),
        ("quickstart", ["references=[twin,twin]"], "named twice"),
        ("gemma", ["references=[placebo]"], "needs base.world"),
        ("quickstart", ["references=[placebo]", "base.world.assign=fixed"], "assign: random"),
        ("quickstart", ["references=[placebo]", "base.world.characters=5"], "beside the cast"),
        (
            "planted-prior",
            ["references=[placebo]", "cast=[assistant,kennedy]", "base.world.characters=3"],
            "beside the",
        ),
    ],
)
def test_what_cannot_be_referred_to_is_refused_in_one_line(recipe, overrides, said):
    with pytest.raises(InputError) as error:
        load_recipe(RECIPES / f"{recipe}.yaml", overrides)
    assert said in str(error.value) and "\n" not in str(error.value)
