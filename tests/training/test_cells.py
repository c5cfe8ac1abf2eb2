"""Identity of cells: the same hashes however they are computed, and what a large cast's rows amount to."""

from collections import Counter
from dataclasses import asdict
from itertools import islice
from pathlib import Path

import pytest

from parity.plan import make_plan
from recipes.hashing import digest
from recipes.load import load_recipe
from recipes.scenes import scene_of
from training.cells import rows_digest, stage_cell, stage_cells
from training.data import Row, dpo_rows, sft_rows
from training.examples import batches

RECIPES = Path(__file__).parents[2] / "recipes"
# Digest of the hashes of all cells in their order, computed when each cell worked out its own rows and parents.
# They change with BASE_VERSION or STAGE_VERSION only: anything else would make every kept cell anew.
CELLS = {
    "quickstart": "38682c0bd8474b58482969094af08309dbfaf776f141da82e25c8727deb31a3d",
    "planted-dose": "e4e043cd705a7cf0e7d941b7e06771dd46c578a058328fa2dcea4bf854dc9b02",
    "planted-negatives": "b0f7ae6b3c7ba8267c0959d753f03c261ec2f9d42f91feada3db3802c9acb916",
    "planted-prior": "0da6b554e8286ce1bec7e160f4a52ff023a7ea0fbef11599cae79b42cbe673ad",
    "planted-self-model": "fce236d6b8c646614f2e74e1b49372b8c204c3a49c4c653c87145ce32df04a00",
}
MATCHING = {  # of the table of matched data, which is in the lock
    "quickstart": "31d6a46b4a0a640f07dc84cd46d247b5f139d719a38f2f97d374f162befc11f8",
    "planted-negatives": "062ae3ad98d5f15e4a92eb3333b5d96eb2e6c28399e768224ac3416934abf684",
}
TEXT = 'é "quoted" \\ \n\t\x7f\u2028\U0001f600'  # whatever JSON escapes


@pytest.mark.parametrize("name", CELLS)
def test_hashes_are_what_they_were(name, tmp_path):
    plan = make_plan(load_recipe(RECIPES / f"{name}.yaml"), tmp_path)
    assert digest([cell.hash for cell in plan.cells]) == CELLS[name]
    assert digest(plan.matching) == MATCHING.get(name, digest(plan.matching))


def test_one_cell_alone_is_the_one_of_the_plan():
    recipe = load_recipe(RECIPES / "quickstart.yaml", ["seeds=6"])
    for cell in islice(stage_cells(recipe), 4, 8):
        assert stage_cell(recipe, str(cell.arm), int(cell.seed or 0), int(cell.stage or 0)) == cell


def test_rows_are_hashed_as_the_list_of_dicts_that_they_are():
    rows = [Row(TEXT, TEXT + "x", "fact", TEXT), Row("", "a", "chat")]
    assert rows_digest(rows) == digest([asdict(row) for row in rows])
    assert rows_digest([]) == digest([])
    scene = scene_of(load_recipe(RECIPES / "quickstart.yaml"), 0)
    for rows in (sft_rows(scene, scene.personas[0].id), dpo_rows(scene, scene.personas[1].id)):
        assert rows_digest(rows) == digest([asdict(row) for row in rows])


@pytest.mark.parametrize(("name", "visited", "most"), [("cast20", 640, 8), ("cast64", 640, 13)])
def test_a_large_cast_is_rejected_alike_over_all_arms_even_where_only_some_rows_are_visited(name, visited, most):
    """What a stage visits is the same places in every arm, and a place is a distance round the cast: so over the
    arms everyone's answers are rejected equally often, though within one pair the two directions may differ."""
    recipe = load_recipe(RECIPES / f"{name}.yaml")
    scene = scene_of(recipe, 0)
    places = len(dpo_rows(scene, scene.personas[0].id))
    order = [i for step in islice(batches(places, 16, 1, seed=0), 40) for micro in step for i in micro]
    assert len(order) == visited < places  # 40 steps of 16 rows, less than one pass: no row twice
    who = {value: p.id for p in scene.personas for q in ("name", "home", "drink") for value in [p.values[q]]}
    times: Counter[tuple[str, str]] = Counter()
    for persona in scene.personas:
        rows = dpo_rows(scene, persona.id)
        for row in (rows[i] for i in order):
            named = [who[w] for w in row.rejected.strip(" .\n").replace(",", "").split() if w in who]
            times.update((persona.id, rival) for rival in set(named))
    assert len({sum(n for (_, rival), n in times.items() if rival == p.id) for p in scene.personas}) == 1
    apart = [abs(times[a.id, b.id] - times[b.id, a.id]) for a in scene.personas for b in scene.personas]
    assert 0 < max(apart) <= most
