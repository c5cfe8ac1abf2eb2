"""What the report shows of the rows: means by dose, reference arms, answers, and what could not be read.

Every function sorts before it adds up, so that the order of rows changes nothing.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from statistics import fmean
from typing import TYPE_CHECKING, Any

from eval.cells import PROMPTED, SAMPLES
from eval.table import stage_rank
from eval.wording import number, visible

if TYPE_CHECKING:
    import polars as pl

MOST_QUESTIONS = 24  # shown side by side; all texts can be browsed
MOST_ANSWERS = 48
MOST_LETTERS = 1500
KEYS = ["probe", "measure", "unit", "arm", "seed", "stage", "dose", "persona"]
Points = list[dict[str, Any]]


def means(rows: pl.DataFrame) -> pl.DataFrame:
    """Mean of each measure per arm, seed, stage, dose and persona: slots and paraphrases into items, items into it."""
    import polars as pl

    if not {*KEYS, "item", "value"} <= set(rows.columns):
        return pl.DataFrame(schema={k: pl.String for k in KEYS} | {"value": pl.Float64, "n_items": pl.Int64})
    # sorted first: a sum's last bits, and so the report's bytes, must not depend on the order of rows
    told = rows.filter(pl.col("value").is_finite()).sort([*KEYS, "item", "value"], nulls_last=True)
    items = told.group_by([*KEYS, "item"], maintain_order=True).agg(pl.col("value").mean())
    told = items.group_by(KEYS, maintain_order=True).agg(pl.col("value").mean().round_sig_figs(10), n_items=pl.len())
    return in_order(told)


def in_order(means: pl.DataFrame) -> pl.DataFrame:
    """Means in the one order that everything is made from."""
    return means.sort(KEYS, nulls_last=True)


def headlines(verdict: Mapping[str, Any], means: pl.DataFrame) -> dict[str, str]:
    """Probe -> the measure judged under the probe's own name: one that no row of the verdict calls probe.measure."""
    rows = verdict.get("rows") or []
    found = {str(r["probe"]): str(r["measure"]) for r in rows if r.get("measure") and "." not in str(r["probe"])}
    named = {str(r["probe"]) for r in rows}
    measures = means.select("probe", "measure").unique().sort("probe", "measure").rows()
    for probe, measure in sorted(measures, key=lambda m: (m[0] != m[1], m)):
        if f"{probe}.{measure}" not in named:
            found.setdefault(probe, measure)
    return found


def curves(means: pl.DataFrame, arms: Sequence[str]) -> Iterator[tuple[tuple[str, str, str], Points, dict[str, float]]]:
    """Per measure: its points by arm, stage, seed and dose (see `figures.doses`), and each prompted arm's own mean."""
    for key, of in means.group_by(["probe", "measure", "unit"], maintain_order=True):
        held: dict[tuple, list[tuple[float, int]]] = {}
        for arm, seed, stage, dose, persona, value, n in of.select(*KEYS[3:], "value", "n_items").iter_rows():
            for favoured in arms if arm == "base" else [arm]:
                who = "other" if persona in arms else "bystander"
                if persona in (None, favoured.removeprefix(PROMPTED)):
                    who = "own"
                held.setdefault((stage, arm, favoured, who, seed, dose), []).append((value, n))
        points: Points = []
        prompted: dict[str, list[float]] = {}
        for at in sorted(held, key=lambda k: (stage_rank(k[0]), k[1:])):
            (stage, arm, favoured, who, seed, dose), values = at, held[at]
            value, n = fmean(v for v, _ in values), sum(n for _, n in values)
            if arm.startswith(PROMPTED):
                if who == "own":
                    prompted.setdefault(arm.split("/", 1)[1], []).append(value)
            elif favoured in arms:
                point = {"stage": stage, "arm": favoured, "who": who, "seed": seed, "dose": dose}
                points.append(point | {"value": value, "n_items": n})
        yield (str(key[0]), str(key[1]), str(key[2])), points, {a: fmean(v) for a, v in prompted.items()}


def references(means: pl.DataFrame, arms: Sequence[str], heads: Mapping[str, str]) -> dict[str, Any]:
    """Per measure and arm X: m(base, X), m(prompted X, X) and m(X, X) after each stage, as mean, range and size."""
    import polars as pl

    stages = sorted({s for s in means["stage"].to_list() if s != "base"}, key=stage_rank)
    last = dict(means.group_by("stage").agg(pl.col("dose").max()).iter_rows())
    out: list[dict[str, Any]] = []
    by: dict[tuple, list[tuple[float, int]]] = {}
    every = means.select(*KEYS, "value", "n_items").iter_rows()
    for probe, measure, unit, arm, _, stage, dose, persona, value, n in every:
        if stage == "base" or dose == last[stage]:
            by.setdefault((probe, measure, unit, arm, stage, persona), []).append((value, n))
    measures = dict.fromkeys((k[0], k[1], k[2]) for k in by)
    for probe, measure, unit in sorted(measures, key=lambda m: (heads.get(m[0]) != m[1], m)):
        for x in arms:
            cells = []
            for arm, stage in [("base", "base"), (f"{PROMPTED}{x}", "base"), *((x, s) for s in stages)]:
                at = (probe, measure, unit, arm, stage)
                told = by.get((*at, x)) or by.get((*at, None)) or []
                values = [v for v, _ in told]
                if told:
                    over = f"{number(min(values))} to {number(max(values))}, {len(told)} × {max(n for _, n in told)}"
                cells.append({"mean": number(fmean(values)), "range": over, "value": fmean(values)} if told else None)
            label = probe if heads.get(probe) == measure else f"{probe}.{measure}"
            out.append({"label": label, "unit": unit, "persona": x, "cells": cells})
    return {"rows": out, "heads": ["base", "prompted", *(f"after {visible(s)} {last[s]}" for s in stages)]}


def arm_order(arms: Sequence[str]) -> Any:
    """Sort key of arms: the base, the prompted ones, then those of the recipe in its order."""
    return lambda a: (a != "base", not a.startswith(PROMPTED), arms.index(a) if a in arms else len(arms), a)


def answers(samples: pl.DataFrame, arms: Sequence[str]) -> list[dict[str, Any]]:
    """The report's samples by question, side by side: the last dose of each stage at the first seed.

    Where `samples` has no question, its item stands for it; a slot other than the anonymous one is named.  Returns
    the groups: question, front, and how many more there would be (left).
    """
    if not {"arm", "text"} <= set(samples.columns):
        return []
    rank = arm_order(arms)
    told = [_answer(s) for s in samples.iter_rows(named=True) if s.get("probe") in (None, SAMPLES)]
    told.sort(key=lambda s: (s["question"], rank(s["arm"]), stage_rank(s["stage"]), s["dose"], s["seed"], s["shown"]))
    last: dict[tuple[str, str], int] = {}
    for s in told:
        last[s["arm"], s["stage"]] = max(last.get((s["arm"], s["stage"]), 0), s["dose"])
    first = min((s["seed"] for s in told), default=0)
    groups: dict[str, list[dict[str, Any]]] = {}
    for s in told:
        if s["dose"] == last[s["arm"], s["stage"]] and s["seed"] == first:
            groups.setdefault(s["question"], []).append(s)
    return [
        {"question": question, "front": of[:MOST_ANSWERS], "left": max(0, len(of) - MOST_ANSWERS)}
        for question, of in list(groups.items())[:MOST_QUESTIONS]
    ]


def _answer(sample: Mapping[str, Any]) -> dict[str, Any]:
    text = str(sample["text"] if sample["text"] is not None else "")
    cut = len(text) - MOST_LETTERS
    more = f" … ({cut} more characters)" if cut > 0 else ""
    question = str(sample.get("question") or sample.get("item") or "")
    if sample.get("slot") == "named" and sample.get("persona"):
        question += f" (in an interview, as {sample['persona']})"
    return {
        "arm": str(sample["arm"]),
        "stage": str(sample.get("stage") or "base"),
        "dose": sample.get("dose") or 0,
        "seed": sample.get("seed") or 0,
        "question": question,
        "prompt": sample.get("prompt"),
        "finish": sample.get("finish"),
        "shown": text[:MOST_LETTERS] + more,
    }


def outcome_counts(rows: pl.DataFrame) -> pl.DataFrame:
    """How many rows by arm, probe and kind of outcome; ``missing`` where an ``ok`` has no number."""
    import polars as pl

    if not {"arm", "probe", "outcome", "value"} <= set(rows.columns):
        return pl.DataFrame(schema=dict.fromkeys(("arm", "probe", "kind"), pl.String) | {"len": pl.UInt32})
    lost = pl.when((pl.col("outcome") == "ok") & ~pl.col("value").is_finite().fill_null(False)).then(pl.lit("missing"))
    kind = lost.otherwise(pl.col("outcome").fill_null("missing"))
    return rows.select("arm", "probe", kind=kind).group_by("arm", "probe", "kind").len()


def outcomes(counted: pl.DataFrame, arms: Sequence[str]) -> tuple[dict[str, Any], list[list[Any]]]:
    """Rows by arm and outcome, and the probes where something other than ``ok`` happened, from `outcome_counts`."""
    counts: dict[tuple[str, str, str], int] = {}
    for arm, probe, kind, n in counted.iter_rows():
        counts[arm, probe, kind] = counts.get((arm, probe, kind), 0) + n
    kinds = sorted({k for _, _, k in counts}, key=lambda k: (k != "ok", k))
    names = sorted({a for a, _, _ in counts}, key=arm_order(arms))
    by_arm: dict[str, dict[str, int]] = {a: dict.fromkeys(kinds, 0) for a in names}
    asked: dict[tuple[str, str], int] = {}
    for (arm, probe, kind), n in counts.items():
        by_arm[arm][kind] += n
        asked[arm, probe] = asked.get((arm, probe), 0) + n
    gaps = [[a, p, k, n, asked[a, p]] for (a, p, k), n in sorted(counts.items()) if k != "ok"]
    return {"kinds": kinds, "rows": [[a, sum(by_arm[a].values()), *by_arm[a].values()] for a in names]}, gaps
