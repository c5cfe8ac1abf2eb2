"""The cast test in a sentence."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from eval.wording import interval, number, probability, visible


def told(verdict: Mapping[str, Any]) -> list[str]:
    """What the cast test of a verdict says, without a full stop; empty where there was none."""
    cast = verdict.get("cast")
    if not cast:
        return []
    first, n = visible(cast["first"]), cast["controls"] + 1
    primary = [row for row in cast["rows"] if row["primary"]]
    if cast["verdict"] == "special":
        special = [row for row in primary if row["verdict"] == "special"]
        row = min(special, key=lambda r: (r["p_adjusted"], -abs(r["statistic"] or 0.0)))
        more = f", and in {len(special) - 1} more" if len(special) > 1 else ""
        return [
            f"Among {n} characters {first} is special in {where(row)}{more}: beside the mean of the others it gained "
            f"{number(row['estimate'], sign=True)} {visible(row['unit'])} {interval(row['low'], row['high'])}, "
            f"studentised {number(row['statistic'], sign=True)}, adjusted p "
            f"{probability(row['p_adjusted'])}{_left_out(cast)}"
        ]  # fmt: skip
    if cast["verdict"] == "not shown":
        return [
            f"Among {n} characters {first} is not shown to be special (least adjusted p {probability(cast['p'])}, "
            f"where none can be below {probability(cast['smallest_p'])}){_left_out(cast)}"
        ]
    if cast["verdict"] == "out of reach":
        return [
            f"Whether {first} is special cannot be shown: among {n} characters no p can be below "
            f"{probability(cast['smallest_p'])}"
        ]
    if cast["verdict"] == "no-overlap":
        return [f"Whether {first} is special cannot be read: too few arms share a range of strength"]
    if cast["verdict"] == "interim":
        return [f"Whether {first} is special is judged at the last planned look"]
    return []


def where(row: Mapping[str, Any]) -> str:
    """``leakage after dpo``."""
    return f"{visible(row['probe'])} after {visible(row['stage'])}"


def _left_out(cast: Mapping[str, Any]) -> str:
    found, of = cast["left_out"]["found"], cast["left_out"]["of"]
    return f"; each tested as if it were the first, {found} of {of} controls {'is' if found == 1 else 'are'} special"
