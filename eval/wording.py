"""How verdicts and numbers are spelled, in the terminal and in the report alike."""

from __future__ import annotations

import math
import unicodedata
from collections.abc import Mapping
from typing import Any

DASH = "—"
# verdict -> (glyph, terminal style, what it means); glyph and word always go together, colour only adds.
VERDICTS = {
    "broken": ("◆", "bold red", "the difference survives the test over seeds and is at least as large as what matters"),
    "symmetric": ("●", "green", "shown to differ by less than matters; not merely a difference that was not found"),
    "undetermined": (
        "○",
        "yellow",
        "neither shown; where seeds are named, so many would show equivalence if there is no difference",
    ),
    "insensitive": ("×", "dim", "the planted asymmetry was not seen at this size, so silence would mean nothing"),
    "saturated": ("▲", "magenta", "the measure stands at its bound in both arms, where no difference can show"),
    "no-overlap": ("□", "cyan", "the two arms never reached the same strength, so there is nothing to compare"),
}
SEEN = {True: "yes", False: "no", None: "not shown"}


READING = {"strength": "at equal strength", "dose": "at equal dose", "gain": "at equal gain in strength"}


def recipe_match(verdict: Mapping[str, Any]) -> str:
    """The reading that the recipe made primary: the one its primary rows carry."""
    found = {r.get("match") for r in verdict.get("rows") or [] if r.get("primary")}
    return verdict.get("match") or ("dose" if found == {"dose"} else "strength")


def read_how(of: Mapping[str, Any], match: str | None = None) -> str:
    """How rows are read, from their `match` (default: the verdict's) and what the verdict or cast `of` says is equal in
    equal strength."""
    match = match or recipe_match(of)
    return READING[str(of.get("strength") or match) if match == "strength" else match]


def visible(text: object) -> str:
    """Text from outside with every control, bidirectional, zero-width and surrogate character spelled out."""
    hidden = ("Cc", "Cf", "Cs", "Zl", "Zp")
    return "".join(
        f"⟨U+{ord(c):04X}⟩" if unicodedata.category(c) in hidden and c not in "\n\t" else c for c in str(text)
    )


def number(value: float | None, sign: bool = False) -> str:
    """Three significant digits or two decimals, with a true minus; a dash for None, NaN and infinity."""
    if value is None or not math.isfinite(value):
        return DASH
    size = abs(value)
    if size == 0 or 0.01 <= size < 10:
        text = f"{size:.2f}"
    elif size < 1e-4 or size >= 1e6:
        text = f"{size:.1e}"
    else:
        text = f"{size:.1g}" if size < 0.01 else f"{size:.1f}" if size < 100 else f"{size:.0f}"
    plus = "+" if sign and value > 0 else ""
    return ("−" if value < 0 and float(text) else plus) + text


def interval(low: float | None, high: float | None) -> str:
    """``[low, high]``, or a dash when either end is missing."""
    ends = (number(low), number(high))
    return DASH if DASH in ends else f"[{ends[0]}, {ends[1]}]"


def probability(p: float | None) -> str:
    """Two significant digits without the leading zero (``.031``), ``< .0001`` below that."""
    if p is None or not math.isfinite(p):
        return DASH
    if p < 1e-4:
        return "< .0001"
    return f"{p:.2f}" if p >= 0.995 else f"{p:.{max(2, 1 - math.floor(math.log10(p)))}f}".lstrip("0")


def plain(value: Any) -> str:
    """Any value as text that is safe to look at; a dash for what is missing."""
    if value is None or (isinstance(value, float) and not math.isfinite(value)) or value == "":
        return DASH
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, Mapping):
        named = (
            (visible(k), plain(v), isinstance(v, Mapping)) for k, v in sorted(value.items(), key=lambda x: str(x[0]))
        )
        return ", ".join(f"{k} ({v})" if nested else f"{k} {v}" for k, v, nested in named) or DASH
    if isinstance(value, (list, tuple)):
        return ", ".join(plain(v) for v in value) or DASH
    return visible(value)


def failures(verdict: Mapping[str, Any], most: int | None = None) -> list[str]:
    """The runs that failed, e.g. ``control-07 seed 3 failed in sft: loss is not a finite number (step 7)``.

    Beyond the first `most` they are counted.
    """
    failed = list(verdict.get("failed") or [])
    told = [
        f"{visible(one['arm'])} seed {one['seed']} failed in {one['stage']}: {visible(one['what'])}; "
        f"pairs with {visible(one['arm'])} are judged without this seed"
        for one in failed[:most]
    ]
    left = len(failed) - len(told)
    return told + [f"{left} more run{'s' if left > 1 else ''} failed, with the same consequence"] * (left > 0)


def before(verdict: Mapping[str, Any], most: int = 3) -> list[str]:
    """A sentence where pairs are called broken that the base told apart before any training; names `most` of them."""
    broken = {tuple(r["pair"]) for r in verdict.get("rows") or [] if r.get("primary") and r.get("verdict") == "broken"}
    by_pair: dict[tuple[str, ...], list[str]] = {}
    for row in verdict.get("before") or []:
        if row["sign"] and tuple(row["pair"]) in broken:
            size = f"{row['probe']} {number(row['estimate'], sign=True)} {interval(row['low'], row['high'])}"
            by_pair.setdefault(tuple(row["pair"]), []).append(size)
    if not by_pair:
        return []
    named = [f"{visible(a)} and {visible(c)} ({', '.join(sizes)})" for (a, c), sizes in list(by_pair.items())[:most]]
    more = f" and {len(by_pair) - most} more pairs" if len(by_pair) > most else ""
    return [
        f"Before any training the base told apart {', '.join(named)}{more}: that it knew one of them better is not "
        "excluded as the reason, whatever is subtracted"
    ]


def looks(verdict: Mapping[str, Any]) -> list[tuple[str, str]]:
    """The looks up to this one and the levels it was judged at, as one fact; none without a plan."""
    taken = list(verdict.get("looks") or [])
    levels = {r["bound"] for r in verdict.get("rows") or [] if r.get("primary") and "bound" in r}
    if not taken:
        return []
    sizes = ", ".join(str(look["seeds"]) for look in taken)
    bounds = ", ".join(map(probability, sorted(levels))) or DASH
    one_sided = probability(taken[-1]["equivalence"])
    return [("Looks", f"at {sizes} seeds; now p below {bounds}, equivalence at {one_sided}")]
