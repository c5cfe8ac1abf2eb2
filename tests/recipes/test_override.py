"""Overrides: `path=value` changes one place of a recipe, or is itself what the error is about."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from recipes.errors import InputError
from recipes.load import load_recipe
from tests.recipes.trial import GOOD, X, refused


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("seedz=3", "-s seedz=3: unknown key (did you mean 'seeds'?)"),
        ("stages.0.doess=[1]", "-s stages.0.doess=[1]: unknown key (did you mean 'doses'?)"),
        ("juge.alpha=.1", "-s juge.alpha=.1: juge: unknown key (did you mean 'judge'?)"),
        ("judge={alhpa: .1}", "-s judge={alhpa: .1}: judge.alhpa: unknown key (did you mean 'alpha'?)"),
        ("seeds", "-s seeds: expected path=value"),
        ("=3", "-s =3: expected path=value"),
        ("a..b=3", "-s a..b=3: expected path=value"),
        ("seeds=", "-s seeds=: expected a whole number, got nothing"),
        ("seeds=[", "-s seeds=[: not YAML"),
        ("seeds.x=3", "-s seeds.x=3: seeds is 6 and has no 'x'"),
        ("stages.2.kind=dpo", "stages has 2 entries, counted from 0; no '2'"),
        ("stages.-1.kind=dpo", "no '-1'"),
        ("stages.²=1", "no '²'"),
        ("seeds=1\n2", r"-s seeds=1\n2: expected a whole number"),
        ("stages.0.trainer.seed=3", "is set by Parity: arms of one seed share it"),
        ("arms=[ada, brt]", "-s arms=[ada, brt]: arms.1: 'brt' is not in the cast"),
        ("arms=[control-01, ada]", "recipes/x.yaml:7: pairs.0.1: 'bert' is not an arm"),
        (".".join("a" * 5000) + "=1", "too long"),
    ],
)
def test_a_wrong_override_is_told_as_such(lab: Path, override: str, message: str) -> None:
    assert message in refused(X, override)


def test_what_only_the_overrides_broke_is_said_to_be_so(lab: Path) -> None:
    assert refused(X, "arms=[control-01, ada]").endswith("(with the overrides given)")
    X.write_text(GOOD.replace("seeds: 6", "seeds: six"))
    assert "overrides" not in refused(X, "question=Why?")


def test_overrides_reach_every_depth_in_their_order(lab: Path) -> None:
    recipe = load_recipe(
        X,
        [
            "seeds=18",
            "seeds=20",
            "pairs=[[bert,ada]]",
            "stages.0.trainer.learning_rate=2e-3",
            "stages.1.lora.r=2",
            "base.world.seed=3",
            "judge.margins.leakage.fidelity=0.2",
            "tracking.entity=no",
            "question=a=b",
        ],
    )
    assert (recipe.seeds, recipe.pairs, recipe.question) == (20, (("bert", "ada"),), "a=b")
    assert recipe.stages[0].trainer == {"learning_rate": 0.002}
    assert recipe.stages[1].lora == {"r": 2}
    assert recipe.base.world is not None and (recipe.base.world.seed, recipe.base.world.characters) == (3, 8)
    assert recipe.judge.margins == {"leakage.fidelity": 0.2}
    assert recipe.tracking.entity == "no"  # YAML 1.2: a word, not false


def test_an_override_changes_one_place_of_what_an_alias_shares(lab: Path) -> None:
    X.write_text(GOOD.replace("trainer:\n", "trainer: &t\n").replace("trainer: {beta: 0.1}", "trainer: *t"))
    recipe = load_recipe(X, ["stages.0.trainer.learning_rate=1"])
    assert [s.trainer["learning_rate"] for s in recipe.stages] == [1, 0.001]


PATHS = """
    name base base.world base.world.assign cast cast.0 arms arms.1 pairs pairs.0 pairs.0.1 seeds stages stages.0
    stages.0.kind stages.0.doses stages.0.doses.1 stages.0.trainer stages.1.lora stages.0.trainer.max_length probes
    probes.0 judge judge.alpha judge.primary judge.primary.0 judge.margins judge.claim plant plant.dose plant.dose.arm
    transcript launch launch.accelerate base.path base.gguf tracking
    """
WORDS = ["", "ada", "world", "a\n b", "package:"]
VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(-9, 9) | st.sampled_from(WORDS),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(["world", "dose", "r"]), inner),
    max_leaves=6,
)


@given(st.lists(st.tuples(st.sampled_from(PATHS.split()), VALUES), min_size=1, max_size=3))
@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_whatever_stands_anywhere_is_taken_or_refused_in_one_line(lab: Path, changes: list[tuple[str, object]]) -> None:
    overrides = [f"{path}={json.dumps(value)}" for path, value in changes]
    try:
        assert load_recipe(X, overrides).contrasts
    except InputError as error:
        assert len(str(error).splitlines()) == 1
