"""All rows of a verdict, as the cells of the report's full table and as records for its CSV."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from eval import table, wording
from eval.table import stage_rank
from eval.wording import DASH, interval, number, plain, probability


def order(row: Mapping[str, Any]) -> tuple:
    """Sort key: by pair, reading, probe, stage, dose and contrast."""
    place = ("T", "delta", "lambda").index(row["contrast"])
    where = (*map(str, row["pair"]), row["match"] != "strength", str(row["probe"]), stage_rank(row["stage"]))
    return *where, row.get("dose") or 0, place


def _missing(missing: Any) -> str:
    counts = {k: n for k, n in missing.items() if n} if isinstance(missing, Mapping) else missing
    return plain(counts) if counts else "0"


def cells(row: Mapping[str, Any]) -> list[str]:
    """One row of the verdict as the cells of the full table."""
    word = row.get("verdict") or ""
    glyph = wording.VERDICTS[word][0] if word in wording.VERDICTS else ""
    return [
        plain(row["probe"]),
        plain(row["stage"]),
        {"T": "T", "delta": "Δ", "lambda": "Λ"}[row["contrast"]],
        plain(row["match"]),
        plain(row.get("dose")),
        number(row.get("strength")),
        number(row.get("estimate"), sign=True),
        interval(row.get("low"), row.get("high")),
        plain(row.get("unit")),
        table.margin(row),
        number(row.get("share"), sign=True),
        probability(row.get("p")),
        probability(row.get("p_adjusted")),
        table.size(row),
        _missing(row.get("missing")),
        "primary" if row.get("primary") else "secondary",
        f"{glyph} {plain(word)}".strip(),
        table.remark(row) or DASH,
        wording.SEEN.get(row.get("sensitive"), DASH),
        f"{plain(row['pair'][0])} : {plain(row['pair'][1])}",
    ]


def flat(verdict: Mapping[str, Any]) -> list[dict[str, Any]]:
    """The rows in order, the pair as two fields."""
    rows = sorted(verdict.get("rows") or [], key=order)
    keys = sorted({k for r in rows for k in r if k != "pair"})
    return [{"a": r["pair"][0], "c": r["pair"][1]} | {k: r.get(k) for k in keys} for r in rows]
