"""What an experiment's folder says of itself beyond the verdict's rows."""

from __future__ import annotations

from pathlib import Path

from eval.experiment import sensitivity
from recipes.load import load_recipe

RECIPES = Path(__file__).parents[2] / "recipes"


def test_a_planted_control_speaks_for_worlds_of_its_own_size_only():
    shown = sensitivity(load_recipe(RECIPES / "planted-dose.yaml"))
    assert shown["selection"] is True
    quickstart = RECIPES / "quickstart.yaml"
    assert sensitivity(load_recipe(quickstart, ["base.world.seed=3", "seeds=18"])) == shown
    for other in ("characters=24", "width=48", "layers=1", "facts=12"):
        assert sensitivity(load_recipe(quickstart, [f"base.world.{other}"])) == {}
    for name in ("cast20", "cast64"):
        assert sensitivity(load_recipe(RECIPES / f"{name}.yaml")) == {}
