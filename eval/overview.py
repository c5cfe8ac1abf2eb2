"""The report's parts where there are many pairs or many arms: the same facts, taken together so that they stay legible.

Nothing is left out of the verdict: all of its rows are in the file that the page carries.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from statistics import median
from typing import Any

from eval import crowd, table
from eval.cells import PROMPTED
from eval.many import Group, groups, pair_name, pairs_told, reach, unreachable
from eval.table import GATE, Line, stage_rank
from eval.wording import DASH, interval, number, plain, probability, read_how, visible
from recipes.references import PREFIX

MOST_ARMS = 12  # beyond these, curves by arm are drawn as one among the others
SAMPLED_ARMS = 3  # whose answers are shown
MOST_NOTES = 200
USUAL = ("broken", "symmetric", "undetermined")
HEADINGS = {
    "primary": "Primary",
    "secondary (exploratory)": "Secondary, exploratory",
    "gate": "Strength itself, at equal dose",
}


def pairs(verdict: Mapping[str, Any], lines: Sequence[Line], show: Any, name: Any, levels: str) -> dict[str, Any]:
    """Figures and tables of all pairs: a strip per stage, a ladder per primary probe, a table per group."""
    found = groups(lines)
    reading = read_how(verdict)
    strips, ladders = [], []
    for stage in sorted({g.line.stage for g in found}, key=stage_rank):
        of = [g for g in found if g.line.stage == stage and g.line.probe != GATE]
        if of:
            caption = f"After {visible(stage)}, {reading}, one dot per pair"
            title = f"Δ and Λ of all pairs after {visible(stage)}, {reading}"
            strips.append(show(crowd.strip(of, name=name(f"effects-{stage}"), title=title), caption))
        for group in of:
            if group.line.primary and group.judged:
                caption = f"{group.line.label} after {visible(stage)}, {reading}, {levels}"
                title = f"Δ and Λ of {group.line.label} after {visible(stage)} in every pair"
                drawn = crowd.ladder(group, name=name(f"pairs-{stage}-{group.line.label}"), title=title)
                ladders.append(show(drawn, caption))
    named = list(dict.fromkeys(ln.pair for ln in lines))
    kinds = dict.fromkeys(g.kind for g in found)
    return {
        "told": pairs_told(named),
        "reach": reach(verdict),
        "strips": strips,
        "ladders": ladders,
        "usual": USUAL,
        "least": probability(unreachable(verdict)) if unreachable(verdict) is not None else None,
        "groups": [(HEADINGS[kind], [_group(g, named) for g in found if g.kind == kind]) for kind in kinds],
        "primary": [row for g in found if g.kind == "primary" for row in _primary(g, named)],
    }


def _group(group: Group, named: Sequence[Sequence[Any]]) -> dict[str, Any]:
    favouring = group.spreads.get("T")
    rows = []
    for spread in group.judged:
        far = spread.farthest
        rows.append(
            {
                "symbol": spread.symbol,
                "median": number(spread.middle, sign=True),
                "range": interval(*spread.ends),
                "counts": [spread.counts.get(word, 0) for word in USUAL],
                "rare": [(n, word) for word, n in sorted(spread.counts.items()) if word not in USUAL],
                "least": probability(spread.least),
                "farthest": (pair_name(far["pair"], named), number(far["estimate"], sign=True)) if far else None,
            }
        )
    return {
        "label": group.line.label,
        "stage": group.line.stage,
        "unit": group.line.any.get("unit"),
        "size": group.size_told(),
        "T": (number(favouring.middle, sign=True), interval(*favouring.ends))
        if favouring and favouring.estimates
        else None,
        "contrasts": rows,
        "seen": group.seen(),
    }


def _primary(group: Group, named: Sequence[Sequence[Any]]) -> Iterable[list[Any]]:
    """Each pair's Δ and Λ as the cells of a table; the verdict's word last but one, for its sign."""
    for line in group.of:
        for symbol, row in line.judged:
            yield [
                f"{line.label} {symbol}",
                line.stage,
                pair_name(line.pair, named),
                number(row.get("estimate"), sign=True),
                interval(row.get("low"), row.get("high")),
                table.margin(row),
                probability(row.get("p_adjusted")),
                table.size(row),
                str(row.get("verdict") or DASH),
                table.remark(row),
            ]


def references(found: Mapping[str, Any], arms: Sequence[str]) -> dict[str, Any]:
    """Reference arms of the first arm by itself and of all others together: the median and range of their means."""
    rows = []
    for label in dict.fromkeys(r["label"] for r in found["rows"]):
        of = [r for r in found["rows"] if r["label"] == label]
        rows += [r for r in of if r["persona"] == arms[0]]
        others = [r for r in of if r["persona"] != arms[0]]
        cells = []
        for held in zip(*(r["cells"] for r in others), strict=True):
            values = [c["value"] for c in held if c]
            told = f"{number(min(values))} to {number(max(values))}, {len(values)} arms" if values else ""
            cells.append({"mean": number(median(values)), "range": told} if values else None)
        if others:
            rows.append({"label": label, "unit": of[0]["unit"], "persona": f"{len(others)} others", "cells": cells})
    return {"rows": rows, "heads": found["heads"]}


def sampled(samples: Any, arms: Sequence[str]) -> Any:
    """Samples of the base and of the first few arms, prompted and trained; of the interviews those of these arms."""
    import polars as pl

    if "arm" not in samples.columns:
        return samples
    first = list(arms[:SAMPLED_ARMS])
    kept = samples.filter(pl.col("arm").is_in(["base", *first, *(PROMPTED + arm for arm in first)]))
    if "persona" in kept.columns:  # sixty interviews would leave no room for what is asked in the slot
        kept = kept.filter(pl.col("persona").is_null() | pl.col("persona").is_in(first))
    return kept


def matching(lines: Sequence[Mapping[str, Any]], arms: Sequence[str]) -> list[dict[str, Any]]:
    """Matched data as the lowest and the highest value of any arm."""
    out = []
    for line in lines:
        values = [line[arm] for arm in arms if arm in line]
        numbers = [v for v in values if isinstance(v, (int, float)) and not isinstance(v, bool)]
        if numbers and len(numbers) == len(values):
            cells = [plain(min(numbers)), plain(max(numbers))]
        else:
            told = sorted({plain(v) for v in values})
            cells = [told[0], told[-1]] if told else [DASH, DASH]
        out.append({"what": line.get("what"), "cells": cells, "equal": line.get("equal")})
    return out


def outcomes(found: Mapping[str, Any]) -> dict[str, Any]:
    """Rows by outcome of the base, of all prompted and of all trained arms."""
    held: dict[str, list[list[Any]]] = {}
    for row in found["rows"]:
        kind = "reference" if row[0].startswith(PREFIX) else "trained"
        kind = "base" if row[0] == "base" else "prompted" if row[0].startswith(PROMPTED) else kind
        held.setdefault(kind, []).append(row)
    rows = [
        [kind if kind == "base" else f"{len(of)} {kind} arms", *map(sum, zip(*(r[1:] for r in of), strict=True))]
        for kind, of in held.items()
    ]
    return {"kinds": found["kinds"], "rows": rows}


def notes(lines: Sequence[str]) -> list[str]:
    """The first notes, and how many more verdict.json has."""
    left = len(lines) - MOST_NOTES
    return [*lines[:MOST_NOTES], *([f"and {left} more, in verdict.json"] if left > 0 else [])]
