"""Prior and truth as explanations of the cast: least squares against statsmodels, and what cannot be told."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from scipy.stats import binom

from eval import factorial
from recipes.load import load_recipe
from tests.micro import ANY_BASE

RECIPES = Path(__file__).parents[2] / "recipes"
KINDS = [("referent", "ai"), ("referent", "human"), ("invented", "ai"), ("invented", "human")]


def cast(each: int) -> list[factorial.Kind]:
    """The first arm and `each` controls of every kind; the first is a known AI."""
    return [KINDS[0], *(kind for kind in KINDS for _ in range(each))]


def values(
    kinds: list[factorial.Kind], random: np.random.Generator, prior: float = 0.0, truth: float = 0.0, both: float = 0.0,
    first: float = 0.0, seeds: int = 4, character: float = 0.3, run: float = 0.3,
) -> np.ndarray:  # fmt: skip
    """own [N, S] with known effects; a seed lifts everyone alike."""
    p = np.array([0.5 if k[0] == "referent" else -0.5 for k in kinds])
    t = np.array([0.5 if k[1] == "ai" else -0.5 for k in kinds])
    mean = prior * p + truth * t + both * 2 * p * t + character * random.normal(size=len(kinds))
    mean[0] += first
    return mean[:, None] + random.normal(size=seeds) + run * random.normal(size=(len(kinds), seeds))


def explained(own: np.ndarray, kinds: list[factorial.Kind]) -> factorial.Explained:
    found = factorial.explain(own, kinds, 0, 0.05)
    assert isinstance(found, factorial.Explained)
    return found


def test_terms_residual_and_intervals_are_those_of_least_squares():
    """statsmodels OLS of character means with a dummy for the first arm, to 1e-10."""
    from statsmodels.formula.api import ols

    kinds = cast(4)
    own = values(kinds, np.random.default_rng(0), prior=1.0, truth=-0.5, both=0.4, first=2.0)
    found = explained(own, kinds)
    coded = {
        "y": own.mean(axis=1),
        "prior": [0.5 if k[0] == "referent" else -0.5 for k in kinds],
        "truth": [0.5 if k[1] == "ai" else -0.5 for k in kinds],
        "first": [1.0] + [0.0] * 16,
    }
    coded["both"] = [2 * p * t for p, t in zip(coded["prior"], coded["truth"], strict=True)]
    fit = ols("y ~ prior + truth + both + first", coded).fit()
    ends = fit.conf_int(0.05)
    for term, name in [*zip(found.terms, ("prior", "truth", "both"), strict=True), (found.residual, "first")]:
        wanted = (fit.params[name], *ends.loc[name])
        assert (term.estimate, term.low, term.high) == pytest.approx(wanted, abs=1e-10)
    assert found.df == fit.df_resid == 12 and found.untold == ()


def test_variance_components_are_those_of_a_balanced_analysis_of_variance():
    """By hand: mean squares of controls within their kinds and of runs beside characters and seeds."""
    kinds, random = cast(6), np.random.default_rng(1)
    own = values(kinds, random, character=1.0)
    found = explained(own, kinds)
    left = own - own.mean(axis=1, keepdims=True) - own.mean(axis=0) + own.mean()
    run = (left**2).sum() / (24 * 3)
    means = own.mean(axis=1)[1:].reshape(4, 6)
    between = ((means - means.mean(axis=1, keepdims=True)) ** 2).sum() / 20
    assert found.run == pytest.approx(run, rel=1e-10)
    assert found.character == pytest.approx(between - run / 4, rel=1e-10)


def test_what_prior_and_truth_explain_is_not_left_in_the_residual():
    """60 worlds: the first is far out as a known AI, and its residual's .95 interval holds 0 as often as that."""
    kinds, held = cast(5), 0
    for seed in range(60):
        own = values(kinds, np.random.default_rng(seed), prior=3.0, truth=2.0, both=1.0)
        residual = explained(own, kinds).residual
        held += residual.low <= 0 <= residual.high
        assert own.mean(axis=1)[0] > own.mean() + 1.0  # far out it is: (3 + 2 + 1) / 2 at least, less chance
    assert held >= binom.ppf(0.001, 60, 0.95)  # 51
    residual = explained(values(kinds, np.random.default_rng(0), prior=3.0, first=3.0), kinds).residual
    assert residual.low > 0 and residual.low < 3.0 < residual.high


def test_alone_of_its_kind_the_residual_holds_the_interaction_and_says_so():
    kinds = [KINDS[0], *KINDS[1:], *KINDS[1:], *KINDS[1:]]
    found = explained(values(kinds, np.random.default_rng(0), both=5.0), kinds)
    assert [t.name for t in found.terms] == ["prior", "truth"] and found.untold == ("prior x truth",)
    # with effects +-.5 x 5 / .5: the first departs by 2 x 5 from what the other three kinds add up to
    assert found.residual.estimate == pytest.approx(10.0, abs=2.0)


def test_without_another_level_an_effect_is_untold():
    kinds = [KINDS[0], *[KINDS[1], KINDS[3]] * 4]
    found = explained(values(kinds, np.random.default_rng(0)), kinds)
    assert [t.name for t in found.terms] == ["prior"] and found.untold == ("truth", "prior x truth")
    same = [KINDS[0], *[KINDS[3]] * 8]
    assert factorial.explain(values(same, np.random.default_rng(0)), same, 0, 0.05) == (
        "no two controls differ in prior or truth"
    )


def test_too_few_characters_are_refused_in_words():
    kinds = KINDS  # four characters, of whom three fix three terms
    assert factorial.explain(values(kinds, np.random.default_rng(0)), kinds, 0, 0.05) == (
        "4 characters are too few for 3 terms and one of the first arm's own"
    )
    own = values(cast(2), np.random.default_rng(0))
    own[0] = np.nan
    assert factorial.explain(own, cast(2), 0, 0.05) == "the first arm has no value here"


def test_lost_runs_are_no_seeds_effect():
    """A seed that lifts everyone by 100 must not lift whoever has it beside whoever lost it."""
    kinds = cast(3)
    own = values(kinds, np.random.default_rng(0), run=0.01)
    whole = explained(own, kinds)
    holes = own + np.array([0.0, 100.0, 0.0, 0.0])
    holes[4, 1] = holes[9, 0] = holes[0, 2] = np.nan
    found = explained(holes, kinds)
    assert found.residual.estimate == pytest.approx(whole.residual.estimate, abs=0.05)  # runs differ by .01
    assert [t.estimate for t in found.terms] == pytest.approx([t.estimate for t in whole.terms], abs=0.05)


def test_a_constant_and_the_order_of_controls_change_nothing():
    kinds = cast(3)
    own = values(kinds, np.random.default_rng(0), prior=1.0)
    order = [0, *reversed(range(1, len(kinds)))]
    before = explained(own, kinds)
    for other in (explained(own + 7.0, kinds), explained(own[order], [kinds[k] for k in order])):
        assert other.residual.low == pytest.approx(before.residual.low, abs=1e-9)
        assert [t.estimate for t in other.terms] == pytest.approx([t.estimate for t in before.terms], abs=1e-9)


def test_kinds_come_from_cards_and_a_world_has_none():
    assert factorial.kinds_of(load_recipe(RECIPES / "cast20.yaml")) == factorial.NO_KINDS
    recipe = load_recipe(RECIPES / "gemma.yaml", [ANY_BASE])
    found = factorial.kinds_of(recipe)
    assert isinstance(found, dict) and set(found) == set(recipe.arms)
    assert set(found.values()) <= set(KINDS)


def test_rows_of_the_verdict_hold_plain_numbers():
    import json

    kinds = cast(3)
    told = factorial.as_row(factorial.explain(values(kinds, np.random.default_rng(0)), kinds, 0, 0.05))
    assert json.loads(json.dumps(told, allow_nan=False)) == told
    assert set(told) == {"terms", "residual", "df", "variance", "untold"}
    assert factorial.as_row("why") == {"left_out": "why"}
