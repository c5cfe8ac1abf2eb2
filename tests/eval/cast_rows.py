"""Synthetic casts for the tests of the cast test: own measures as arrays, or all measurement rows of an experiment."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import polars as pl

from eval.castread import Owns
from eval.design import Design
from tests.eval import made_rows
from tests.eval.made_rows import DEFAULT, DOSES, GATE, measure

PROBES = ("one", "two", "three")


def design(arms: int, seeds: int = 4, **values) -> Design:
    """The first arm with each of the others, three primary probes at equal strength."""
    ids = ("first", *(f"control-{k:02d}" for k in range(1, arms)))
    measures = (GATE, *(measure(name) for name in PROBES))
    of = made_rows.design(seeds, measures, arms=ids, pairs=tuple((ids[0], id) for id in ids[1:]), primary=PROBES)
    return replace(of, **values)


def world(
    of: Design, random: np.random.Generator, special: float = 0.0, character: float = 0.3, run: float = 0.3,
    items: int = 4, speed: np.ndarray | None = None, common: float = 0.0,
) -> Owns:  # fmt: skip
    """Own measures that rise by 4 with progress, by arm and run more or less; `special` is added to the first arm's.

    `common` is how much of a character's deviation its probes share; `speed` [N] multiplies the progress of an arm.
    """
    n, seeds, probes = len(of.arms), len(of.seeds), len(of.measures)
    progress = np.arange(len(DOSES) + 1) / len(DOSES)
    progress = progress[None, :] * (np.ones(n) if speed is None else speed)[:, None]  # [N, P]
    shared = random.normal(size=(n, 1))
    away = character * (np.sqrt(common) * shared + np.sqrt(1 - common) * random.normal(size=(n, probes)))
    away[0] += special
    away[:, 0] = 0.0  # the gate tells strength
    lift = 4.0 + away[:, None] + run * random.normal(size=(n, seeds, probes)) * (np.arange(probes) > 0)
    value = progress[:, None, :, None, None] * lift[:, :, None, :, None]
    value = value + random.normal(size=(probes, items))  # an item is as hard for everyone
    value[:, :, :, 1:] += 0.05 * random.normal(size=value[:, :, :, 1:].shape)
    where = {m.name: slice(k * items, (k + 1) * items) for k, m in enumerate(of.measures)}
    return Owns(value.reshape(n, seeds, len(DOSES) + 1, probes * items), where)


def row(cast: dict, probe: str, match: str = "strength") -> dict:
    """The row of a probe at one reading."""
    (found,) = [r for r in cast["rows"] if (r["probe"], r["match"]) == (probe, match)]
    return found


def experiment(arms: int = 6, seeds: int = 4, seed: int = 0, effect: float = 0.0) -> tuple[Design, pl.DataFrame]:
    """Measurement rows of every arm for every persona, as they come from an experiment."""
    of = replace(design(arms, seeds), measures=DEFAULT, primary=("one", "two"))
    value = made_rows.world(of, np.random.default_rng(seed), effect)
    return of, made_rows.rows(of, value, items=3)
