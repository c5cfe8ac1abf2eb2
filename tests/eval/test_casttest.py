"""The cast test: exact, found where planted, silent where nothing is, and the same whatever the order."""

from __future__ import annotations

from dataclasses import replace
from itertools import permutations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import binom, ttest_ind

from eval import castjudge, casttest
from eval.castread import Owns
from tests.eval.cast_rows import design, experiment, row, world


@pytest.mark.parametrize("rows", [1, 3])
def test_p_is_that_of_all_permutations_of_the_characters(rows):
    """All 5! orders, the label going to whoever stands first; statistics in sd of the others, unlike the code's."""
    d = np.random.default_rng(rows).normal(size=(5, rows)) ** 3  # cubed: not all alike in scale

    def statistics(order):
        return [abs(ttest_ind(d[list(order[1:]), r], [d[order[0], r]]).statistic) for r in range(rows)]

    seen = [statistics(order) for order in permutations(range(5))]
    found = casttest.permute(d)
    for k in range(5):
        mine = next(s for order, s in zip(permutations(range(5)), seen, strict=True) if order[0] == k)
        for r in range(rows):
            single = np.mean([s[r] >= mine[r] - 1e-9 for s in seen])
            adjusted = np.mean([max(s) >= mine[r] - 1e-9 for s in seen])
            assert found.single[k, r] == pytest.approx(single, abs=1e-12)
            assert found.adjusted[k, r] == pytest.approx(adjusted, abs=1e-12)


def test_the_studentised_deviation_is_a_t_test_of_one_against_the_rest():
    d = np.random.default_rng(0).normal(size=20)
    for k in range(20):
        t, sd = casttest.deleted(d, k)
        others = np.delete(d, k)
        assert t == pytest.approx(ttest_ind([d[k]], others).statistic, rel=1e-12)
        assert sd == pytest.approx(others.std(ddof=1), rel=1e-12)


def test_a_planted_character_is_found_among_nineteen_controls_and_cannot_be_among_five():
    # 10 sd of a character (.3 + .3 / 4 of runs make .34): beside it nobody of 19 comes near
    found = castjudge.of_owns(world(of := design(20), np.random.default_rng(0), special=3.4), of)
    assert found["verdict"] == "special" and found["p"] == found["smallest_p"] == 1 / 20
    assert row(found, "one")["verdict"] == "special" and row(found, "one", "dose")["verdict"] == "special"
    # three sd of one character against 19; at equal strength it is read half way, where less of it is there
    assert row(found, "one", "dose")["estimate"] == pytest.approx(3.4, abs=1.0)
    assert found["left_out"] == {"found": 0, "of": 19, "share": 0.0, "by_t": found["left_out"]["by_t"]}
    few = castjudge.of_owns(world(of := design(6), np.random.default_rng(0), special=3.4), of)
    assert few["verdict"] == "out of reach" and few["p"] == few["smallest_p"] == 1 / 6
    assert all(r["verdict"] == "not shown" for r in few["rows"])


def test_a_twentieth_is_not_below_alpha_and_may_be_used():
    assert casttest.reaches(1 / 20, 0.05) and not casttest.reaches(2 / 20, 0.05)
    assert casttest.reaches(3 / 60, 0.05) and not casttest.reaches(None, 0.05)


def test_nobody_is_special_in_a_null_more_often_than_alpha():
    """300 worlds of 19 controls whose three probes go together by half; without a gate, so at equal dose alone."""
    random, of = np.random.default_rng(1), design(20, match="dose")
    ungated = replace(of, measures=of.measures[1:])
    hits = 0
    for _ in range(300):
        found = castjudge.of_owns(world(of, random, common=0.5), ungated)
        assert len(found["rows"]) == 3
        hits += found["verdict"] == "special"
    # exact size .05: 15 expected, and more than the upper .999 quantile (28) would happen in one of a thousand
    assert 0 < hits <= binom.ppf(0.999, 300, 0.05)


def test_an_arm_that_only_learns_faster_is_not_special_at_equal_strength():
    """Half as fast again: 2 logits beyond 4 at the last dose, where the sd of a character is about .4."""
    hits = {"dose": 0, "strength": 0}
    for seed in range(20):
        random, of = np.random.default_rng(seed), design(20)
        speed = 1 + 0.05 * random.normal(size=20)
        speed[0] = 1.5
        found = castjudge.of_owns(world(of, random, speed=speed), of)
        for match in hits:
            hits[match] += row(found, "one", match)["p"] <= 0.05
    assert hits["dose"] >= 17  # five sd ahead, in one of a hundred worlds less than two and a half
    assert hits["strength"] <= binom.ppf(0.999, 20, 0.05)  # 5


@settings(max_examples=20, deadline=None)
@given(seed=st.integers(0, 10**6), shift=st.floats(-50, 50), scale=st.floats(0.1, 10))
def test_a_constant_for_all_and_another_unit_change_no_p(seed, shift, scale):
    d = np.random.default_rng(seed).normal(size=(8, 2))
    found = casttest.permute(d)
    moved = casttest.permute(scale * d + shift)
    assert np.array_equal(found.single, moved.single) and np.array_equal(found.adjusted, moved.adjusted)


def test_characters_that_are_all_alike_have_p_one():
    for value in (0.0, 0.1, 1e6):
        found = casttest.permute(np.full((7, 2), value))
        assert (found.single == 1).all() and (found.adjusted == 1).all()


def test_fewer_than_five_arms_have_no_cast_test():
    of, rows = experiment(arms=4)
    assert castjudge.judged(rows, of) == {}
    of, rows = experiment(arms=5)
    assert castjudge.judged(rows, of)["cast"]["controls"] == 4


def test_what_a_probe_could_not_show_comes_before_what_it_says():
    of = design(20)
    own = world(of, np.random.default_rng(0), special=3.4)
    blunt = replace(of, measures=tuple(replace(m, sensitive=False if m.name == "one" else None) for m in of.measures))
    assert row(castjudge.of_owns(own, blunt), "one")["verdict"] == "insensitive"
    bounded = replace(of, measures=tuple(replace(m, bounded=not m.gate) for m in of.measures))
    high = Owns(own.value + 20.0, own.where)  # far above log(.98 / .02) = 3.9
    assert row(castjudge.of_owns(high, bounded), "one")["verdict"] == "saturated"
    blind = castjudge.of_owns(high, replace(bounded, primary=("one",)))
    assert blind["verdict"] == "not shown" and blind["p"] is None  # the p of a row that shows nothing is no claim's
    assert row(castjudge.of_owns(own, of), "one")["verdict"] == "special"


def test_a_bound_reached_only_after_equal_strength_saturates_the_last_dose_alone():
    of = design(20)
    own = world(of, np.random.default_rng(0), speed=np.ones(20))
    own = Owns(own.value - own.value[:, :1, :1] + 1.0, own.where)  # from 1 at the base to about 5 at the last dose
    bounded = replace(of, measures=tuple(replace(m, bounded=not m.gate) for m in of.measures))
    found = castjudge.of_owns(own, bounded)
    assert {match: row(found, "one", match)["verdict"] == "saturated" for match in ("dose", "strength")} == {
        "dose": True,
        "strength": False,
    }


def test_special_but_less_than_matters_is_said():
    of = design(20)
    own = world(of, np.random.default_rng(0), special=3.4)
    pair = {"contrast": "delta", "pair": ["first", "control-01"], "probe": "one", "stage": "sft", "match": "strength"}
    for margin, note in ((9.0, "by less than matters"), (1.0, "")):
        assert row(castjudge.of_owns(own, of, [pair | {"margin": margin}]), "one")["note"] == note


def test_before_the_last_planned_look_nothing_is_claimed():
    of = design(20)
    own = world(of, np.random.default_rng(0), special=3.4)
    assert castjudge.of_owns(own, replace(of, looks=(4, 8)))["verdict"] == "interim"
    assert castjudge.of_owns(own, replace(of, looks=(2, 4)))["verdict"] == "special"


def test_controls_tested_as_if_they_were_the_first_are_special_as_often_as_alpha_says():
    """Exactly: never more than alpha N.  By t: about alpha where characters vary normally, more in heavy tails."""
    random = np.random.default_rng(0)
    tests = found = heavy = 0
    for _ in range(60):
        d = random.normal(size=(20, 2))
        exact, of = casttest.left_out(casttest.permute(d).any_row, 0, 0.05)
        assert of == 19 and exact <= 1
        hits, number = casttest.left_out_by_t(d, 0, 0.05)
        found, tests = found + hits, tests + number
        heavy += casttest.left_out_by_t(random.standard_cauchy(size=(20, 2)), 0, 0.05)[0]
    assert tests == 60 * 19 * 2
    # .05 each, not quite independent within a world: .05 +- 4 sd of 2280 tests is .032 to .068
    assert 0.032 < found / tests < 0.068 < heavy / tests
