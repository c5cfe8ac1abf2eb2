"""Synthetic experiments for the tests of judging: measurement rows whose truth is known, and their design."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import polars as pl

from eval.design import Design, Judged
from eval.probe import Margin

A, C = "alice", "bob"
DOSES = (4, 8, 15, 30, 60)
QUARTER = Margin("relative", 0.25, "test")


def measure(name: str, probe: str | None = None, **values: Any) -> Judged:
    """A persona-level logit measure with a relative margin, unless told otherwise."""
    given: dict[str, Any] = dict(
        probe=probe or name,
        measure=name.split(".")[-1],
        version=1,
        unit="logit",
        level="persona",
        margin=QUARTER,
        headline=probe is None,
        bounded=False,
    )
    return Judged(name, **(given | values))


GATE = measure("gate", gate=True)
DEFAULT = (GATE, measure("one"), measure("two"))


def design(seeds: int = 8, measures: tuple[Judged, ...] = DEFAULT, **values: Any) -> Design:
    """A design of one pair, one stage, primary probes `one` and `two` at equal strength."""
    given: dict[str, Any] = dict(
        arms=(A, C),
        pairs=((A, C),),
        seeds=tuple(range(seeds)),
        stages=(("sft", DOSES),),
        alpha=0.05,
        match="strength",
        primary=("one", "two"),
        measures=measures,
    )
    return Design(**(given | values))


Value = Callable[[Judged, str, str | None, float, int, int], float]


def rows(of: Design, value: Value, items: int = 4, speed: dict[str, float] | None = None) -> pl.DataFrame:
    """Rows with value(judged, arm, persona, progress, seed, item); progress is 0 in the base and 1 at the last dose.

    `speed` multiplies the progress of an arm at every dose.  The gate's value for the favoured persona should rise
    with progress.
    """
    out = []
    places = [("base", "base", 0, 0.0)]
    for arm in of.arms:
        for k, (kind, doses) in enumerate(of.stages):
            for n, dose in enumerate(doses, start=1):
                places.append((arm, kind, dose, (k + n / len(doses)) / len(of.stages) * (speed or {}).get(arm, 1.0)))
    for judged in of.measures:
        for arm, stage, dose, progress in places:
            for persona in of.arms if judged.level == "persona" else (None,):
                role = None if persona is None else "favoured" if persona == arm else "other"
                for seed in of.seeds:
                    for item in range(items):
                        out.append(
                            (
                                f"{arm}-{stage}-{seed}",
                                arm,
                                seed,
                                stage,
                                dose,
                                judged.probe,
                                judged.version,
                                judged.measure,
                                f"item-{item}",
                                persona,
                                role,
                                "slot",
                                float(value(judged, arm, persona, progress, seed, item)),
                                judged.unit,
                                3,
                                "ok",
                            )
                        )
    return pl.DataFrame(out, schema=SCHEMA, orient="row")


SCHEMA = {
    "cell": pl.String, "arm": pl.String, "seed": pl.Int64, "stage": pl.String, "dose": pl.Int64, "probe": pl.String,
    "version": pl.Int64, "measure": pl.String, "item": pl.String, "persona": pl.String, "role": pl.String,
    "slot": pl.String, "value": pl.Float64, "unit": pl.String, "n_tokens": pl.Int64, "outcome": pl.String,
}  # fmt: skip


def world(
    of: Design,
    random: np.random.Generator,
    effect: float = 0.0,
    gain: float = 4.0,
    seed_sd: float = 0.25,
    item_sd: float = 0.1,
    noise: float = 0.1,
) -> Value:
    """Values in which training lifts the favoured persona by `gain`, exchangeably over arms but for `effect`.

    `effect` is added to what arm A gains for A, so delta is `effect` and T rises by half of it; the gate stays fair.
    Seeds and items vary by arm and persona.
    """
    luck: dict[Any, float] = {}

    def drawn(sd: float, *key: Any) -> float:
        return luck.setdefault(key, random.normal(0, sd))

    def value(judged: Judged, arm: str, persona: str | None, progress: float, seed: int, item: int) -> float:
        # the base spreads the slot evenly, so that strength tells how far training got
        start = 0.0 if judged.gate else drawn(1.0, "start", judged.name, persona, seed, item)
        own = arm == persona or persona is None
        lift = gain * own + (effect if arm == A == persona and not judged.gate else 0.0)
        vary = drawn(seed_sd, "seed", judged.name, arm, persona, seed)
        vary += drawn(item_sd, "item", judged.name, arm, persona, item)
        small = drawn(noise, "noise", judged.name, arm, persona, seed, item, progress)
        return start + (progress * (lift + vary) + small if arm != "base" else 0.0)

    return value


def row(
    result: dict[str, Any], probe: str, contrast: str, match: str = "strength", stage: str = "sft"
) -> dict[str, Any]:
    """The one row of a result that is asked for."""
    wanted = {"probe": probe, "contrast": contrast, "match": match, "stage": stage}
    (found,) = [r for r in result["rows"] if all(r[k] == v for k, v in wanted.items())]
    return found


FULL = (
    *DEFAULT,
    measure("one.arm", "one", level="arm", unit="nat", margin=Margin("absolute", 0.5, "")),
    measure("one.bound", "one", bounded=True),
)


def made(
    seed: int = 0,
    effect: float = 0.0,
    seeds: int = 8,
    measures: tuple[Judged, ...] = FULL,
    items: int = 4,
    **values: float,
) -> tuple[Design, pl.DataFrame]:
    of = design(seeds, measures)
    return of, rows(of, world(of, np.random.default_rng(seed), effect, **values), items)
