"""How what stands apart from the verdict is told: trained against prompted arms, and the arms for reference."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from statistics import median
from typing import Any

from eval import table
from eval.prompted import FIRST
from eval.wording import DASH, VERDICTS, interval, number, probability, recipe_match, visible

Rows = Sequence[Mapping[str, Any]]


def shown(verdict: Mapping[str, Any]) -> dict[str, Any]:
    """What the report shows, as text: ``{"prompted", "random_text", "twin", "placebo", "placebo_told", "pairs"}``.

    Of the reference arms, headline measures at the recipe's reading and of the first pair of each kind.
    """
    compared, given = verdict.get("prompted") or [], verdict.get("references") or {}
    several = table.many({"rows": compared})
    first = {kind: next((tuple(r["pair"]) for r in given.get(kind) or []), None) for kind in ("random_text", "twin")}
    return {
        "prompted": [_over_pairs(of) for of in _by_probe(compared)] if several else [_compared(r) for r in compared],
        "over_pairs": several,
        "first": FIRST,
        "pairs": {kind: " and ".join(map(visible, pair or ())) for kind, pair in first.items()},
        "random_text": [_random(r) for r in _heads(given.get("random_text"), first["random_text"])],
        "twin": [_twin(r) for r in _read(_heads(given.get("twin"), first["twin"]), verdict)],
        "placebo": [_placebo(r) for r in _read(_heads(given.get("placebo"), None), verdict) if r["contrast"] != "T"],
        "placebo_told": _false_positives(given.get("placebo") or [], verdict),
    }


def lines(verdict: Mapping[str, Any]) -> list[str]:
    """What the terminal shows below the sentence of the verdict."""
    compared, given = verdict.get("prompted") or [], verdict.get("references") or {}
    first = [r for r in compared if not r["exploratory"]]
    told = [f"{_pair(r, compared)}{r['probe']} after {r['stage']} {r['verdict']}{_size(r)}" for r in first]
    if table.many({"rows": first}):
        told = [", ".join(f"{n} {word}" for word, n in sorted(Counter(r["verdict"] for r in first).items()))]
    said = [f"Trained against prompted at equal strength, apart from the verdict: {'; '.join(told)}."] if told else []
    if given.get("placebo"):
        said.append(f"Placebo, apart from the verdict: {_false_positives(given['placebo'], verdict)}.")
    if given.get("twin"):
        rows = _read(_heads(given["twin"], tuple(given["twin"][0]["pair"])), verdict)
        noise = [f"{r['probe']} after {r['stage']} {number(r['twin_sd'])} beside {number(r['delta_sd'])}" for r in rows
                 if _primary(r, verdict)]  # fmt: skip
        said += [f"Twins, sd over seeds beside that of Δ: {'; '.join(noise)}."] if noise else []
    if given.get("random_text"):
        p = [r["lean"]["p_adjusted"] for r in given["random_text"] if "lean" in r]
        lean = sum(value is not None and value < alpha_of(verdict) for value in p)
        rest = f"leans to a persona in {lean} of {len(p)} contrasts" if lean else "leans to no persona in any contrast"
        said.append(f"Random text: {rest} (adjusted p).")
    return said


def alpha_of(verdict: Mapping[str, Any]) -> float:
    """The alpha of a verdict."""
    return float(verdict.get("alpha") or 0.05)


def _size(row: Mapping[str, Any]) -> str:
    if row.get("estimate") is None:
        return ""
    return f" ({number(row['estimate'], sign=True)} {interval(row['low'], row['high'])}, {row['n_seeds']} seeds)"


def _pair(row: Mapping[str, Any], rows: Rows) -> str:
    return f"{' : '.join(map(visible, row['pair']))}, " if len({tuple(r["pair"]) for r in rows}) > 1 else ""


def _primary(row: Mapping[str, Any], verdict: Mapping[str, Any]) -> bool:
    return any(r.get("primary") and r["probe"] == row["probe"] for r in verdict.get("rows") or [])


def _heads(rows: Rows | None, pair: tuple[Any, ...] | None) -> list[Mapping[str, Any]]:
    """Headline measures of one pair (None: of any)."""
    return [r for r in rows or [] if "." not in r["probe"] and (pair is None or tuple(r["pair"]) == pair)]


def _read(rows: Rows, verdict: Mapping[str, Any]) -> list[Mapping[str, Any]]:
    """The rows at the recipe's reading; what has no such reading (strength itself, arms' own) at equal dose."""
    match = recipe_match(verdict)
    there = {(r["probe"], r["stage"]) for r in rows if r["match"] == match}
    return [r for r in rows if r["match"] == match or (r["probe"], r["stage"]) not in there]


def _by_probe(rows: Rows) -> list[Rows]:
    found: dict[tuple[str, str], list[Mapping[str, Any]]] = {}
    for row in rows:
        found.setdefault((row["probe"], row["stage"]), []).append(row)
    return list(found.values())


def _what(row: Mapping[str, Any]) -> dict[str, Any]:
    return {"label": visible(row["probe"]), "unit": row["unit"], "stage": row["stage"], "size": table.size(row)}


def _compared(row: Mapping[str, Any]) -> dict[str, Any]:
    words = [visible(row.get("note") or "")]
    if row["verdict"] == "undetermined" and row.get("seeds_needed"):
        words.append(f"about {row['seeds_needed']} seeds needed")
    return _what(row) | {
        "pair": " : ".join(map(visible, row["pair"])),
        "first": not row["exploratory"],
        "cells": [number(row["trained"], sign=True), number(row["prompted"], sign=True)],
        "estimate": (number(row["estimate"], sign=True), interval(row["low"], row["high"])),
        "margin": table.margin(row),
        "p": probability(row["p_adjusted"]),
        "verdicts": [(row["verdict"], "; ".join(word for word in words if word))],
    }


def _over_pairs(rows: Rows) -> dict[str, Any]:
    """One probe and stage over many pairs: medians, and how many got each verdict."""

    def middle(key: str) -> str:
        values = [r[key] for r in rows if r[key] is not None]
        return number(median(values), sign=True) if values else DASH

    values = [r["estimate"] for r in rows if r["estimate"] is not None]
    counted = Counter(r["verdict"] for r in rows)
    return _what(rows[0]) | {
        "pair": f"{len(rows)} pairs",
        "first": not rows[0]["exploratory"],
        "cells": [middle("trained"), middle("prompted")],
        "estimate": (middle("estimate"), interval(min(values), max(values)) if values else DASH),
        "margin": DASH,
        "p": DASH,
        "verdicts": [(word, f"{counted[word]} pairs") for word in VERDICTS if counted[word]],
    }


def _random(row: Mapping[str, Any]) -> dict[str, Any]:
    def told(name: str) -> tuple[str, str, str]:
        one = row.get(name) or {}
        p = f"p {probability(one.get('p_adjusted'))}" if one else ""
        return number(one.get("estimate"), sign=True), interval(one.get("low"), one.get("high")), p

    return _what(row) | {"cells": [told(name) for name in ("trained", "change", "beyond", "lean")]}


def _twin(row: Mapping[str, Any]) -> dict[str, Any]:
    share = row.get("share")
    return _what({**row, "n_seeds": row["n_twins"]}) | {
        "sd": (number(row["twin_sd"]), interval(row["low"], row["high"])),
        "delta": (number(row["delta"], sign=True), number(row["delta_sd"])),
        "share": DASH if share is None else f"{100 * share:.0f} %",
        "p": probability(row["p"]),
    }


def _placebo(row: Mapping[str, Any]) -> dict[str, Any]:
    return _what(row) | {
        "estimate": (number(row["estimate"], sign=True), interval(row["low"], row["high"])),
        "margin": table.margin(row),
        "p": (probability(row["p"]), probability(row["p_adjusted"])),
        "verdict": row["verdict"],
        "note": visible(row.get("note") or ""),
    }


def _false_positives(rows: Rows, verdict: Mapping[str, Any]) -> str:
    """How many contrasts of the placebo were called broken, and how many p lie below alpha where so many would by luck.

    Only at the recipe's reading, lest one difference be counted twice.
    """
    judged = [r for r in _read(rows, verdict) if r["contrast"] == "delta" and r["p"] is not None]
    if not judged:
        return "nothing to judge"
    alpha, primary = alpha_of(verdict), [r for r in judged if r["primary"]]
    broken = [r for r in judged if r["verdict"] == "broken"]
    small = sum(r["p"] < alpha for r in judged)
    where = ", ".join(f"{visible(r['probe'])} after {visible(r['stage'])}" for r in broken[:6])
    named = f" ({where})" if broken else ""
    return (
        f"{len(broken)} of {len(judged)} contrasts called broken{named}, "
        f"{sum(r in broken for r in primary)} of {len(primary)} primary ones; unadjusted p below {alpha:g} in {small}, "
        f"where {alpha * len(judged):.1f} are expected by luck"
    )
