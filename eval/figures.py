"""Figures of the report, each with its numbers as CSV: effects in margins, and measures by dose."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from statistics import fmean
from typing import Any

from eval.frames import EDGE, Frame, by_dose, margins, place
from eval.svg import Drawn, as_csv, style, svg, tone
from eval.table import Line, size
from eval.wording import DASH, VERDICTS, interval, number, probability, visible

MARKERS = {
    "broken": "D",
    "symmetric": "o",
    "undetermined": "o",
    "insensitive": "x",
    "saturated": "^",
    "no-overlap": "s",
}
HOLLOW = {"undetermined", "no-overlap"}
ARM_MARKERS = "osD^vPX"  # a second cue beside colour; with many arms the pair (colour, marker) stays distinct
WHO = {"own": "-", "other": "--", "bystander": ":"}  # dash pattern by whose measure it is
ROOM = 21  # letters between the axis and the unit
RAISED = str.maketrans("-0123456789", "⁻⁰¹²³⁴⁵⁶⁷⁸⁹")


def arm_tone(place: int) -> str:
    """Colour token of the arm at that place of the recipe."""
    return f"arm{place % 6}"


def forest(lines: Sequence[Line], *, name: str, title: str) -> Drawn:
    """Δ and Λ of one pair and stage, each in units of its margin, primary probes above secondary ones.

    A margin differs from probe to probe in size and unit; divided by it, all share one axis and one shaded band.
    """
    of = place(
        [
            ("Primary", [ln for ln in lines if ln.primary]),
            ("Secondary, exploratory", [ln for ln in lines if not ln.primary]),
        ]
    )
    a, c = (short(visible(p), 18) for p in (lines[0].pair if lines else (DASH, DASH)))
    columns = [(624, "estimate, interval, unit"), (816, "adj. p"), (874, "verdict")]
    with style(name):
        sides = (f"← Δ favours {c}", f"Δ favours {a} →")
        frame = Frame(of, lambda ln: (short(ln.label, 24), size(ln.any)), sides, columns, margins)
        for at, symbol, row in [(y + n, *one) for y, ln in of.members for n, one in enumerate(ln.judged)]:
            word = row.get("verdict") or DASH
            token = f"v-{word}" if word in VERDICTS else "soft"
            frame.write(180, at, symbol)
            frame.write(624, at, briefly(row.get("estimate"), row.get("low"), row.get("high")))
            frame.write(770, at, short(visible(row.get("unit") or ""), 6), "soft")
            frame.write(816, at, probability(row.get("p_adjusted")))
            glyph = VERDICTS[word][0] if word in VERDICTS else ""
            frame.write(874, at, f"{glyph} {short(visible(word), 14)}", token, weight="bold")
            effect(frame, at, row, word, tone(token), tone("paper"))
    said = "; ".join(
        f"{ln.label} {s} {number(r.get('estimate'), sign=True)} {interval(r.get('low'), r.get('high'))} "
        f"{visible(r.get('unit') or '')}, {visible(r.get('verdict') or DASH)}"
        for ln in lines
        for s, r in ln.judged
    )
    keys = (
        "probe",
        "stage",
        "dose",
        "match",
        "contrast",
        "unit",
        "estimate",
        "low",
        "high",
        "level",
        "p",
        "p_adjusted",
        "margin",
        "n_seeds",
        "n_items",
        "primary",
        "verdict",
    )
    data = [{"a": ln.pair[0], "c": ln.pair[1]} | {k: r.get(k) for k in keys} for ln in lines for _, r in ln.judged]
    return Drawn(name, svg(frame.figure, name, title, said or "Nothing was judged."), as_csv(data))


def doses(
    points: Sequence[Mapping[str, Any]],
    *,
    name: str,
    title: str,
    unit: str,
    arms: Sequence[str],
    levels: Mapping[str, float] | None = None,
    wide: bool = False,
) -> Drawn:
    """m by dose, one panel a stage: the mean over seeds, with every seed thin (`wide`) or their range shaded.

    `points`: one per stage, arm, who (own, other, bystander), seed and dose: ``{stage, arm, who, seed, dose, value,
    n_items}``; stage ``base`` holds where each arm started.  A stage begins where the one before it ended.  Doses are
    spaced geometrically.  `levels`: arm -> height of a dotted line (the prompted base model).
    """
    from matplotlib.figure import Figure

    stages = [s for s in dict.fromkeys(p["stage"] for p in points) if s != "base"]
    series: dict[tuple[str, str, str], dict[int, dict[int, float]]] = {}
    for p in points:
        if p["value"] is not None and math.isfinite(p["value"]):
            series.setdefault((p["stage"], p["arm"], p["who"]), {}).setdefault(p["dose"], {})[p["seed"]] = p["value"]
    width, height = (1000, 380) if wide else (520, 270)
    left, right, top, bottom = 58, 14, 34, 46
    told: list[str] = []
    with style(name):
        figure = Figure(figsize=(width / 72, height / 72))
        grid = figure.add_gridspec(
            1,
            max(1, len(stages)),
            left=left / width,
            right=1 - right / width,
            top=1 - top / height,
            bottom=bottom / height,
            wspace=0.07,
        )
        first = None
        for n, stage in enumerate(stages):
            axes = figure.add_subplot(grid[0, n], sharey=first)
            before, label = ("base", "base") if n == 0 else (stages[n - 1], "")
            marks = sorted({d for (s, _, _), by in series.items() if s == stage for d in by})
            ends = [d for (s, _, _), by in series.items() if s == before for d in by]
            label = label or f"{visible(before)} {max(ends, default=0)}"
            gap = math.log2(marks[1] / marks[0]) if len(marks) > 1 and marks[0] else 1.0
            start = math.log2(max(marks[0], 1)) - gap if marks else 0.0
            for place, arm in enumerate(arms):
                for who, dash in WHO.items():
                    earlier = series.get((before, arm, who), {})
                    curve = sorted(series.get((stage, arm, who), {}).items())
                    line = [(math.log2(max(d, 1)), v) for d, v in curve]
                    if line and earlier:
                        line.insert(0, (start, earlier[max(earlier)]))
                    if line:
                        _curve(axes, line, tone(arm_tone(place)), dash, ARM_MARKERS[place % 7], wide)
                        ends_at = (fmean(line[0][1].values()), fmean(line[-1][1].values()))
                        told.append(f"{stage}, {arm}, {who}: {number(ends_at[0])} to {number(ends_at[1])}")
                if levels and arm in levels and math.isfinite(levels[arm]):
                    axes.axhline(levels[arm], color=tone(arm_tone(place)), lw=1.2, ls=(0, (1, 2.5)), zorder=1)
            ticks = [start, *(math.log2(max(d, 1)) for d in marks)]
            first = by_dose(axes, stage, ticks, [label, *map(str, marks)], unit, wide=wide, first=first)
    keys = ("stage", "arm", "who", "seed", "dose", "value", "n_items")
    said = visible("; ".join(told[:24])) or "No values."
    data = [{k: p[k] for k in keys} for p in points]
    return Drawn(name, svg(figure, name, title, f"Means over seeds in {visible(unit)}. {said}"), as_csv(data))


def _curve(
    axes: Any, line: Sequence[tuple[float, Mapping[int, float]]], color: str, dash: str, marker: str, thin: bool
) -> None:
    """Mean over the seeds of each dose; around it every seed thin, or the range of the seeds shaded."""
    x = [at for at, _ in line]
    means = [fmean(v.values()) for _, v in line]
    axes.plot(x, means, dash, color=color, lw=2, marker=marker, ms=5 if thin else 4, zorder=3)
    if thin:
        for seed in sorted({s for _, v in line for s in v}):
            own = [(at, v[seed]) for at, v in line if seed in v]
            axes.plot(*zip(*own, strict=True), dash, color=color, lw=0.7, alpha=0.4, zorder=2)
    else:
        low, high = ([f(v.values()) for _, v in line] for f in (min, max))
        axes.fill_between(x, low, high, color=color, alpha=0.13, lw=0, zorder=1)


def effect(frame: Frame, at: float, row: Mapping[str, Any], verdict: str, color: str, paper: str) -> None:
    """Marker and interval of one contrast in margins; beyond the axis an arrow, without a margin a word.

    `paper`: the colour inside a hollow marker.
    """
    values = [row.get(k) for k in ("estimate", "low", "high", "margin")]
    if any(v is None or not math.isfinite(v) for v in values) or not values[3]:
        frame.note(at, "no estimate" if values[0] is None else "no margin")
        return
    axes, edge = frame.axes, EDGE
    value, low, high = (v / abs(values[3]) for v in values[:3])
    if low < edge and high > -edge:
        axes.plot([max(low, -edge), min(high, edge)], [at, at], color=color, lw=2, solid_capstyle="butt", zorder=2)
    for beyond, where, arrow in ((high > edge, edge, ">"), (low < -edge, -edge, "<")):
        if beyond:
            axes.plot(where, at, arrow, color=color, ms=6, mew=0, zorder=3)
    if abs(value) < edge:
        face = paper if verdict in HOLLOW else color
        axes.plot(value, at, MARKERS.get(verdict, "o"), color=color, ms=7, mfc=face, mew=1.8, zorder=4)


def briefly(estimate: float | None, low: float | None, high: float | None) -> str:
    """``−0.22 [−1.10, 0.66]`` in the room that a figure has for it.

    Small numbers of unlike size are long; then all three share their decimals, or a power of ten.
    """
    told = number(estimate, sign=True)
    text = told if told == DASH else f"{told} {interval(low, high)}"
    if len(text) <= ROOM or estimate is None or low is None or high is None:
        return text
    most = max(abs(estimate), abs(low), abs(high))
    power = 0 if 0.01 <= most < 1000 else math.floor(math.log10(most))
    digits = (2 if most < 10 else 1 if most < 100 else 0) if power == 0 else 1
    a, b, c = (f"{value / 10**power:.{digits}f}".replace("-", "−") for value in (estimate, low, high))
    return f"{'+' * (estimate > 0)}{a} [{b}, {c}]" + (f"×10{str(power).translate(RAISED)}" if power else "")


def short(text: str, most: int) -> str:
    """The text, cut with an ellipsis where it is longer."""
    return text if len(text) <= most else text[: most - 1] + "…"
