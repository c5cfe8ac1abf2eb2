"""The forest plot of a verdict as a picture: Δ and Λ of every probe in margins, one picture per pair and stage.

The report's own figures are SVG that follows the page's theme; W&B shows PNG on white.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from io import BytesIO
from typing import Any

from eval.figures import briefly, effect, short
from eval.frames import Frame, margins, place
from eval.svg import style, tone
from eval.table import GATE, Line, lines, many, size, stage_rank
from eval.wording import DASH, VERDICTS, probability, read_how, visible

PAPER = "white"
MOST = 40  # lines of a picture with many pairs: those farthest from zero, in margins
SHARPNESS = 108  # pixels to the inch; at the frame's own 72 text is coarse, at twice that drawing takes a second


def forests(verdict: Mapping[str, Any]) -> Iterator[tuple[str, str, bytes]]:
    """(key, title, PNG) of every picture, e.g. key ``forest/dpo``; with several pairs ``forest/dpo/a-c``.

    Beyond a few pairs one picture per stage shows the primary contrasts that are farthest out.
    """
    for key, title, of in _parts(verdict):
        yield key, title, png(of, several=many(dict(verdict)))


def keys(verdict: Mapping[str, Any]) -> list[str]:
    """The keys of the pictures, without drawing any."""
    return [key for key, _, _ in _parts(verdict)]


def _parts(verdict: Mapping[str, Any]) -> Iterator[tuple[str, str, list[Line]]]:
    told = [line for line in lines(verdict) if line.probe != GATE and line.judged]
    reading = read_how(verdict)
    pairs = list(dict.fromkeys(line.pair for line in told))
    for stage in sorted({line.stage for line in told}, key=stage_rank):
        of = [line for line in told if line.stage == stage]
        after = f"after {visible(stage)}, {reading}"
        if many(dict(verdict)):
            first = sorted((line for line in of if line.primary), key=_far, reverse=True)
            title = f"Δ and Λ {after}: the {min(MOST, len(first))} farthest of {len(first)} primary ones of all pairs"
            yield f"forest/{stage}", title, first[:MOST]
            continue
        for pair in pairs:
            mine = [line for line in of if line.pair == pair]
            if mine:
                title = f"Δ and Λ of {visible(pair[0])} and {visible(pair[1])} {after}"
                yield f"forest/{stage}" + (f"/{pair[0]}-{pair[1]}" if len(pairs) > 1 else ""), title, mine


def _far(line: Line) -> float:
    found = [abs(v[0] / v[3]) for _, row in line.judged if (v := _values(row))]
    return max(found, default=-1.0)


def _values(row: Mapping[str, Any]) -> tuple[float, ...] | None:
    """Estimate, low, high and margin, where all are numbers and the margin is none of zero."""
    values = tuple(row.get(key) for key in ("estimate", "low", "high", "margin"))
    return values if all(v is not None and math.isfinite(v) for v in values) and values[3] else None  # type: ignore[return-value]


def png(shown: Sequence[Line], several: bool = False) -> bytes:
    """One picture; `several`: lines are of different pairs, and name theirs."""
    of = place(
        [
            ("Primary", [line for line in shown if line.primary]),
            ("Secondary, exploratory", [line for line in shown if not line.primary]),
        ]
    )
    if several or not shown:
        sides = ("← Δ < 0", "Δ > 0 →")
    else:
        a, c = (short(visible(name), 18) for name in shown[0].pair)
        sides = (f"← Δ favours {c}", f"Δ favours {a} →")

    def label(line: Line) -> tuple[str, str]:
        pair = " : ".join(map(visible, line.pair))
        return short(line.label, 24), short(pair, 30) if several else size(line.any)

    held = BytesIO()
    with style("forest"):
        frame = Frame(of, label, sides, [(624, "estimate, interval, unit"), (816, "adj. p"), (874, "verdict")], margins)
        for at, symbol, row in [(y + n, *one) for y, line in of.members for n, one in enumerate(line.judged)]:
            word = str(row.get("verdict") or DASH)
            token = f"v-{word}" if word in VERDICTS else "soft"
            frame.write(180, at, symbol)
            frame.write(624, at, briefly(row.get("estimate"), row.get("low"), row.get("high")))
            frame.write(770, at, short(visible(row.get("unit") or ""), 6), "soft")
            frame.write(816, at, probability(row.get("p_adjusted")))
            frame.write(874, at, short(visible(word), 14), token, weight="bold")
            effect(frame, at, row, word, tone(token), PAPER)
        frame.figure.set_facecolor(PAPER)
        frame.figure.savefig(held, format="png", dpi=SHARPNESS)
    return held.getvalue()
