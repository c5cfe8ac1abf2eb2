"""The suite's recipes on real bases, read as written: whether the packages that carry the bases are there or not."""

from __future__ import annotations

from pathlib import Path

import pytest

from recipes.reader import plain, read_file

RECIPES = Path(__file__).parents[2] / "recipes"


def read(name: str):
    """A recipe as plain data."""
    return plain(read_file(RECIPES / f"{name}.yaml"))


def test_the_suite_on_gemma_shares_its_cells_with_the_first_gemma_recipe():
    # What a cell is made of: whichever recipe runs second trains nothing.
    one, other = read("gemma"), read("suite-gemma")
    assert all(one[key] == other[key] for key in ("base", "cast", "arms", "pairs", "seeds", "stages"))
    assert set(one["probes"]) & set(other["probes"]) == {"default_identity"}


@pytest.mark.parametrize("name", ["suite-gemma", "suite-smollm2"])
def test_suites_measure_the_probes_of_the_small_tier_and_claim_nothing(name):
    recipe = read(name)
    assert recipe["probes"] == ["default_identity", "authorship", "preferences", "belief"]
    assert recipe["judge"]["primary"] == recipe["probes"][1:] and recipe["judge"]["claim"] == "explore"
    # Five doses a stage: with fewer, equal strength is read off too coarse a curve (docs on equal strength).
    assert [len(stage["doses"]) for stage in recipe["stages"]] == [5, 5]
