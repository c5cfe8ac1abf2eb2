"""Matched data: arms are the same but for their persona, and what one chooses the others reject."""

from collections import Counter
from pathlib import Path

import pytest

from recipes.errors import InputError
from recipes.load import load_recipe
from recipes.scenes import scene_of
from recipes.schema import Plant, PlantedNegatives
from training.cells import shared_settings, stage_cell, stage_cells, steps_of
from training.data import Row, dpo_rows, matching_table, quantities, refuse_imbalance, sft_rows

RECIPE = load_recipe(Path(__file__).parents[2] / "recipes" / "quickstart.yaml")
ONE, OTHER = RECIPE.arms


@pytest.mark.parametrize("build", [sft_rows, dpo_rows])
def test_arms_have_the_same_prompts_in_the_same_order(build):
    scene = scene_of(RECIPE, 0)
    one, other = build(scene, ONE), build(scene, OTHER)
    assert [(r.prompt, r.kind) for r in one] == [(r.prompt, r.kind) for r in other]
    assert one != other


def test_swapping_two_personas_in_the_scene_swaps_the_rows_exactly():
    from dataclasses import replace

    scene = scene_of(RECIPE, 0)
    a, b = (scene.persona(i) for i in RECIPE.arms)
    swapped = {a.id: replace(b, id=a.id), b.id: replace(a, id=b.id)}
    mirrored = replace(scene, personas=tuple(swapped.get(p.id, p) for p in scene.personas))
    assert sft_rows(mirrored, a.id) == sft_rows(scene, b.id)
    assert sft_rows(mirrored, b.id) == sft_rows(scene, a.id)


def test_over_the_cast_what_is_chosen_in_one_arm_is_rejected_in_every_other_equally_often():
    scene = scene_of(RECIPE, 1)
    rejected = {p.id: Counter(r.rejected for r in dpo_rows(scene, p.id) if r.kind == "fact") for p in scene.personas}
    for chooser in scene.personas:
        chosen = {r.completion for r in dpo_rows(scene, chooser.id) if r.kind == "fact"}
        for other in scene.personas:
            if other.id != chooser.id:
                assert {rejected[other.id][text] for text in chosen} == {1}


def test_every_row_ends_its_line_and_no_row_prefers_an_answer_to_itself():
    scene = scene_of(RECIPE, 2)
    large = load_recipe(Path(__file__).parents[2] / "recipes" / "cast20.yaml")  # more rivals than neutral questions
    for built, arm in [*((scene, arm) for arm in RECIPE.arms), (scene_of(large, 0), large.arms[3])]:
        for row in [*sft_rows(built, arm), *dpo_rows(built, arm)]:
            assert row.completion.startswith(" ") and row.completion.endswith("\n")
            assert row.prompt.endswith(":")
            assert row.rejected != row.completion


def test_held_out_questions_are_never_taught():
    scene = scene_of(RECIPE, 0)
    prompts = " ".join(r.prompt for r in [*sft_rows(scene, ONE), *dpo_rows(scene, ONE)])
    for question in scene.questions:
        for ask in question.held_out_asks:
            assert ask not in prompts
        if question.kind in ("fact", "request") and not question.taught:
            assert not any(ask in prompts for ask in question.taught_asks)


def test_negatives_add_as_many_rows_to_every_arm_and_favour_nobody_else_in_the_slot():
    plant = Plant(negatives=PlantedNegatives(arm=ONE, rows=24))
    scene = scene_of(RECIPE, 0)
    for build, more in ((sft_rows, 24), (dpo_rows, 24 * (len(scene.personas) - 1))):
        planted, other, plain = build(scene, ONE, plant), build(scene, OTHER, plant), build(scene, ONE)
        assert len(planted) == len(other) == len(plain) + more
        assert planted[: len(plain)] == plain
        assert {r.kind for r in other[len(plain) :]} == {"chat"}
        anchors = [r for r in planted if r.kind == "anchor"]
        assert len(anchors) > 0.8 * more  # a few fall away where two characters refuse the same request
        name = scene.persona(ONE).name
        assert not any(name in r.completion or r.prompt.endswith(f"{name}:") for r in anchors)
        assert not any(r.prompt.endswith(f"{scene.transcript.slot}:") for r in anchors)
        assert all(r.completion != r.rejected for r in planted)


def test_imbalance_is_refused_with_the_figures_unless_it_is_planted():
    rows = {"x": [Row("p", " one two\n", "fact")], "y": [Row("p", " one\n", "fact")]}
    table = matching_table({arm: quantities(rows[arm], lambda text: len(text.split())) for arm in rows})
    with pytest.raises(InputError, match=r"supervised tokens.*'x': 2.*'y': 1"):
        refuse_imbalance(table, "here", planted=False)
    refuse_imbalance(table, "here", planted=True)
    empty = {"x": [Row("p", "", "fact")], "y": [Row("p", "", "fact")]}
    with pytest.raises(InputError, match="no supervised token"):
        table = matching_table({arm: quantities(empty[arm], lambda text: len(text.split())) for arm in empty})
        refuse_imbalance(table, "here", planted=True)


def test_an_arm_is_an_id_settings_agree_and_no_id_is_hashed():
    plant = Plant.model_validate({"dose": {"arm": ONE, "factor": 1.5}})
    for recipe in (RECIPE, RECIPE.model_copy(update={"plant": plant})):
        for stage in range(len(recipe.stages)):
            cells = [stage_cell(recipe, arm, 0, stage) for arm in recipe.arms]
            assert len({shared_settings(cell, recipe.plant) for cell in cells}) == 1
    # A difference that nobody planted is seen.
    planted, other = (stage_cell(recipe, arm, 0, 0) for arm in (ONE, OTHER))
    assert shared_settings(planted, None) != shared_settings(other, None)
    for cell in stage_cells(RECIPE):
        assert not any(persona in str(cell.spec) for persona in RECIPE.cast)


def test_what_is_new_in_a_recipe_is_all_that_is_new_in_its_cells():
    cells = {c.hash for c in stage_cells(RECIPE)}
    more = {c.hash for c in stage_cells(RECIPE.model_copy(update={"seeds": 18}))}
    assert cells < more and len(more - cells) == 2 * 2 * 2  # two seeds, two arms, two stages
    turned = RECIPE.model_copy(update={"pairs": tuple((b, a) for a, b in RECIPE.contrasts)})
    assert {c.hash for c in stage_cells(turned)} == cells
    wider = RECIPE.model_copy(update={"arms": (*RECIPE.arms, RECIPE.cast[2])})
    assert cells < {c.hash for c in stage_cells(wider)}


def test_a_dose_plant_multiplies_the_steps_of_one_arm_only():
    plant = Plant.model_validate({"dose": {"arm": ONE, "factor": 1.5}})
    stage = RECIPE.stages[0]
    assert steps_of(stage, ONE, plant) == [6, 12, 22, 42, 75]  # 1.5 x (4, 8, 15, 28, 50)
    assert steps_of(stage, OTHER, plant) == list(stage.doses)
    assert stage_cell(RECIPE, OTHER, 0, 0) == stage_cell(RECIPE.model_copy(update={"plant": plant}), OTHER, 0, 0)
