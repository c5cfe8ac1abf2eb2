"""The figures of the replications, from rows that are known."""

from __future__ import annotations

import numpy as np
import polars as pl
import pytest

from eval.interval import crossed
from parity.replications import STAGES, draw, mean_of, own_text, topic
from recipes.load import load_recipe
from recipes.schema import Recipe


@pytest.fixture
def recipe(tmp_path) -> Recipe:
    from tests.micro import write_recipe

    return load_recipe(write_recipe(tmp_path))


def table(recipe: Recipe) -> pl.DataFrame:
    """Rows in which a reader has less entropy on its own persona's text after training: .3 after SFT, .5 after DPO."""
    gain = {"base": 0.0, "sft": 0.3, "dpo": 0.5}
    rows = []
    for seed in range(3):
        for stage in STAGES:
            doses = next((s.doses for s in recipe.stages if s.kind == stage), (0,))
            for arm in ("base",) if stage == "base" else recipe.arms:
                for dose in doses:
                    where = {"arm": arm, "seed": seed, "stage": stage, "dose": dose}
                    for item in ("a", "b"):
                        noise = 0.01 * seed + (0.02 if item == "b" else 0.0)
                        for persona in recipe.arms:
                            role = "favoured" if persona == arm else "other"
                            sign = 1 if role == "favoured" else -1
                            value = sign * gain[stage] * (dose == doses[-1]) + noise
                            for measure in ("self_entropy", "user", "nonce", "history"):
                                row = {"probe": "self_entropy", "measure": measure, "item": item, "role": role}
                                rows.append({**where, **row, "value": value})
                        row = {"probe": "commitment", "measure": "topic", "item": item, "role": None}
                        rows.append({**where, **row, "value": -1.5 + gain[stage]})
    return pl.DataFrame(rows)


def test_a_mean_has_the_crossed_interval_of_seeds_and_items():
    x = np.random.default_rng(0).normal(size=(4, 5))
    rows = [{"seed": s, "item": str(i), "value": x[s, i] + way} for s in range(4) for i in range(5) for way in (-1, 1)]
    rows += [{"seed": 0, "item": "only once", "value": 100.0}]  # an item that other seeds lack does not count
    expected = crossed(x)
    assert mean_of(pl.DataFrame(rows)) == pytest.approx((expected.mean, *expected.interval(0.95)))


def test_own_text_and_topic_by_stage(recipe):
    rows = table(recipe)
    found = own_text(recipe, rows)
    # the mean of the noise is .02: .01 over seeds 0 to 2, .01 over the two items
    assert [found["user"][stage][0] for stage in STAGES] == pytest.approx([0.02, 0.32, 0.52])
    assert found["self_entropy"]["dpo, the other's text"][0] == pytest.approx(-0.48)
    by_dose = dict(topic(recipe, rows))
    assert list(by_dose) == ["base", "sft 1", "sft 2", "sft 4", "dpo 1", "dpo 3"]
    assert by_dose["base"][0] == pytest.approx(1.5) and by_dose["dpo 3"][0] == pytest.approx(1.0)


def test_four_figures_are_drawn_to_the_same_bytes(recipe, tmp_path):
    rows = table(recipe)
    found = {
        "own_text": own_text(recipe, rows),
        "topic": topic(recipe, rows),
        "steered": {"base, random": {0.25: (1.0, 0.5, 1.5), 1.0: (0.0, -0.5, 0.5)}},
        "taught": [(0, (1.0, 0.5, 1.5), (2.0, 1.0, 3.0)), (4, (2.0, 1.5, 2.5), (2.0, 1.0, 3.0))],
    }
    for folder in ("first", "second"):
        (tmp_path / folder).mkdir()
        draw(found, tmp_path / folder)
    names = ["commitment.svg", "selection.svg", "self-entropy.svg", "steering.svg"]
    assert sorted(p.name for p in (tmp_path / "first").iterdir()) == names
    for name in names:
        assert (tmp_path / "first" / name).read_bytes() == (tmp_path / "second" / name).read_bytes()
