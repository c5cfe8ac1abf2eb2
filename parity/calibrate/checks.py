"""What a calibration must show, and whether it does: the demands of the method, one line each."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from eval.wording import DASH

FOUND = 0.8  # share of nulls of the largest size that must be called symmetric
POWER = 0.9  # at twice the margin
COVERED = 0.93  # of intervals whose level is .95; less is told from it where its own interval ends below


def checks(result: Mapping[str, Any]) -> list[dict[str, Any]]:
    """``{"what", "figure", "holds"}`` for every demand that the parts made can answer.

    A share demanded at most at alpha fails where its exact interval lies above alpha; one demanded at least at some
    share fails where the share itself is smaller.
    """
    return [{"what": what, "figure": told(hit), "holds": bool(holds)} for what, hit, holds in _all(result) if hit["of"]]


def _all(result: Mapping[str, Any]) -> Iterator[tuple[str, Mapping[str, Any], bool]]:
    alpha = result["alpha"]
    most = str(max(result["seeds"]))
    for seeds, of in (result.get("null") or {}).items():
        hit = of["significant"]
        yield f"null, {seeds} seeds: some primary contrast significant in at most {alpha:g}", hit, _may(hit, alpha)
        for row in of["rows"]:
            if row["primary"]:
                hit = row["significant"]
                where = f"null, {seeds} seeds, {label(row)}"
                yield f"{where}: p < {alpha:g} in at most {alpha:g}", hit, _may(hit, alpha)
                if seeds == most:
                    hit = row["verdicts"]["symmetric"]
                    yield f"{where}: symmetric in {FOUND:g} at least", hit, _at(hit, FOUND)
    if looks := result.get("looks"):
        hit, at = looks["rejects"], ", ".join(map(str, looks["planned"]))
        what = f"null, looks at {at} seeds: some primary contrast significant at any of them in at most {alpha:g}"
        yield what, hit, _may(hit, alpha)
    for row in result.get("power") or []:
        where = f"{row['probe']}, delta of {row['margins']:g} margins, {row['seeds']} seeds"
        if row["margins"] >= 1:
            hit = row["symmetric"]
            yield f"{where}: wrongly symmetric in at most {alpha:g}", hit, _may(hit, alpha)
        if row["margins"] >= 2:
            yield f"{where}: broken in {POWER:g} at least", row["broken"], _at(row["broken"], POWER)
    for entry in result.get("confounds") or []:
        if entry["match"] == "strength" and entry["adjusted"]:
            where = f"{entry['plant']} {entry['size']:g}, {entry['seeds']} seeds, adjusted"
            hit = entry["significant"]
            yield f"{where}: some primary contrast significant in at most {alpha:g}", hit, _may(hit, alpha)
    for row in result.get("coverage") or []:
        hit = row["covered"]
        if "." not in row["probe"]:
            yield f"coverage, {row['seeds']} seeds, {label(row)}: {COVERED:g} at least", hit, hit["high"] >= COVERED


def label(row: Mapping[str, Any]) -> str:
    """A row's identity in words, e.g. ``selection delta, sft, equal strength``."""
    return f"{row['probe']} {row['contrast']}, {row['stage']}, equal {row['match']}"


def told(hit: Mapping[str, Any]) -> str:
    """A share with its interval and the counts it is made of, ``.045 [.021, .084] (9 of 200)``; a dash of none."""
    if not hit["of"]:
        return DASH
    share, low, high = (f"{hit[key]:.3f}".removeprefix("0") for key in ("share", "low", "high"))
    return f"{share} [{low}, {high}] ({hit['count']} of {hit['of']})"


def _may(hit: Mapping[str, Any], most: float) -> bool:
    return hit["low"] <= most


def _at(hit: Mapping[str, Any], least: float) -> bool:
    return hit["share"] is not None and hit["share"] >= least
