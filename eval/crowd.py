"""Figures of many pairs or many arms: all pairs on one line, every pair as a ladder, one arm among the others."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from statistics import fmean
from typing import Any

from eval.figures import arm_tone, briefly, short
from eval.frames import EDGE, Frame, by_dose, margins, place
from eval.many import Group, Spread, pair_name
from eval.svg import Drawn, as_csv, style, svg, tone
from eval.wording import VERDICTS, number, visible

KEYS = (
    "probe", "stage", "dose", "match", "contrast", "unit", "estimate", "low", "high", "level", "p", "p_adjusted",
    "margin", "n_seeds", "n_items", "primary", "verdict",
)  # fmt: skip


def strip(groups: Sequence[Group], *, name: str, title: str) -> Drawn:
    """Δ and Λ of all pairs at one stage in units of their margins: a dot per pair, a line per contrast."""
    of = place(
        [
            ("Primary", [g for g in groups if g.line.primary]),
            ("Secondary, exploratory", [g for g in groups if not g.line.primary]),
        ]
    )
    sides = ("← favours the other", "Δ favours the first →")
    columns = [(624, "median of the pairs [lowest, highest], unit"), (874, "pairs")]
    with style(name):
        frame = Frame(of, lambda g: (short(g.line.label, 24), g.size_told()), sides, columns, margins)
        for at, group in of.members:
            for n, spread in enumerate(group.judged):
                frame.write(180, at + n, spread.symbol)
                frame.write(624, at + n, briefly(spread.middle, *spread.ends))
                frame.write(780, at + n, short(visible(group.line.any.get("unit") or ""), 8), "soft")
                for x, word in _columns(spread):
                    told = f"{VERDICTS[word][0]} {spread.counts[word]}"
                    frame.write(x, at + n, told, f"v-{word}", weight="bold")
                _dots(frame, at + n, spread)
    said = "; ".join(
        f"{g.line.label} {s.symbol} median {number(s.middle, sign=True)}, {number(s.ends[0])} to {number(s.ends[1])} "
        f"{visible(g.line.any.get('unit') or '')}, "
        + ", ".join(f"{n} {visible(word)}" for word, n in sorted(s.counts.items()))
        for g in groups
        for s in g.judged
    )
    return Drawn(name, svg(frame.figure, name, title, said or "Nothing was judged."), _csv(groups))


def ladder(group: Group, *, name: str, title: str) -> Drawn:
    """One probe at one stage: a line per pair in order of Δ, with the interval of Δ on the left and of Λ beside it."""
    from matplotlib.figure import Figure

    pairs = [ln.pair for ln in group.of]
    places = {pair: n for n, pair in enumerate(sorted(pairs, key=lambda p: _rank(group, p)))}
    width, top, bottom, step, left, span, gap = 1000, 40, 46, 15, 190, 385, 25
    height = top + bottom + step * len(pairs)
    with style(name):
        figure = Figure(figsize=(width / 72, height / 72))
        for n, spread in enumerate(group.judged):
            at = (left + n * (span + gap)) / width
            axes = figure.add_axes((at, bottom / height, span / width, step * len(pairs) / height))
            margins(axes)
            axes.set_ylim(len(pairs) - 0.5, -0.5)
            axes.set_title(spread.symbol, loc="left", weight="bold", color=tone("ink"))
            if n == 0:
                names = [short(pair_name(pair, pairs), 22) for pair in places]
                axes.set_yticks(range(len(pairs)), names, fontsize=10, color=tone("ink"))
            _intervals(axes, spread, places)
    said = "; ".join(
        f"{pair_name(r['pair'], pairs)} {s.symbol} {number(r.get('estimate'), sign=True)}, {r.get('verdict')}"
        for s in group.judged
        for r in sorted(s.rows, key=lambda r: places[tuple(r["pair"])])[:12]
    )
    return Drawn(name, svg(figure, name, title, said or "Nothing was judged."), _csv([group]))


def cloud(
    points: Sequence[Mapping[str, Any]], *, name: str, title: str, unit: str, arms: Sequence[str],
    level: float | None = None, wide: bool = False,
) -> Drawn:  # fmt: skip
    """m(X, X) by dose of the first arm in colour among all others in grey: means over seeds, one panel a stage.

    `points` as in `figures.doses`; `level`: height of a dotted line (the base model prompted to be the first arm).
    """
    from matplotlib.figure import Figure

    held: dict[tuple[str, str, int], list[tuple[float, int]]] = {}
    for p in points:
        if p["who"] == "own" and p["value"] is not None and math.isfinite(p["value"]):
            held.setdefault((p["stage"], p["arm"], p["dose"]), []).append((p["value"], p["n_items"]))
    stages = [s for s in dict.fromkeys(p["stage"] for p in points) if s != "base"]
    width, height = (1000, 380) if wide else (520, 270)
    left, right, top, bottom = 58, 14, 34, 46
    shape = {"left": left / width, "right": 1 - right / width, "top": 1 - top / height, "bottom": bottom / height}
    told: list[str] = []
    with style(name):
        figure = Figure(figsize=(width / 72, height / 72))
        grid = figure.add_gridspec(1, max(1, len(stages)), wspace=0.07, **shape)
        first = None
        for n, stage in enumerate(stages):
            axes = figure.add_subplot(grid[0, n], sharey=first)
            before = "base" if n == 0 else stages[n - 1]
            marks = sorted({d for s, _, d in held if s == stage})
            last = max((d for s, _, d in held if s == before), default=0)
            at = [math.log2(max(d, 1)) for d in marks]
            start = at[0] - (at[1] - at[0] if len(at) > 1 else 1.0) if at else 0.0
            for arm in [*arms[1:], *arms[:1]]:  # the first arm on top
                line = [(start, held.get((before, arm, last)))]
                line += [(x, held.get((stage, arm, d))) for x, d in zip(at, marks, strict=True)]
                there = [(x, fmean(v for v, _ in of)) for x, of in line if of]
                if not there:
                    continue
                x, y = zip(*there, strict=True)
                if arm == arms[0]:
                    axes.plot(x, y, color=tone(arm_tone(0)), lw=2.4, marker="o", ms=5, zorder=3)
                else:
                    axes.plot(x, y, color=tone("soft"), lw=0.8, alpha=0.55, zorder=2)
                told.append(f"{stage}, {arm}: {number(y[0])} to {number(y[-1])}")
            if level is not None and math.isfinite(level):
                axes.axhline(level, color=tone(arm_tone(0)), lw=1.2, ls=(0, (1, 2.5)), zorder=1)
            label = "base" if n == 0 else f"{visible(before)} {last}"
            ticks = [start, *at]
            first = by_dose(axes, stage, ticks, [label, *map(str, marks)], unit, wide=wide, first=first)
    data = [
        {"stage": s, "arm": a, "dose": d, "value": fmean(v for v, _ in of), "n_seeds": len(of), "n_items": of[0][1]}
        for (s, a, d), of in held.items()
    ]
    said = visible("; ".join(told[-24:])) or "No values."
    return Drawn(name, svg(figure, name, title, f"Means over seeds in {visible(unit)}. {said}"), as_csv(data))


def _columns(spread: Spread) -> list[tuple[float, str]]:
    """Where the count of each verdict is written: the usual three in columns of their own, others where room is."""
    usual = ["broken", "symmetric", "undetermined"]
    free = [n for n, word in enumerate(usual) if not spread.counts.get(word)]
    rare = [word for word in VERDICTS if spread.counts.get(word) and word not in usual]
    placed = [(n, word) for n, word in enumerate(usual) if spread.counts.get(word)] + list(
        zip(free, rare, strict=False)
    )
    return [(874.0 + 42 * n, word) for n, word in placed]


def _dots(frame: Frame, at: float, spread: Spread) -> None:
    """A dot per pair in its verdict's colour, at the edge an arrow; the median as an upright stroke."""
    sizes = spread.in_margins()
    if not sizes:
        frame.note(at, "no margin" if spread.estimates else "no estimate")
        return
    axes = frame.axes
    for word in dict.fromkeys([*VERDICTS, *spread.counts]):
        color = tone(f"v-{word}" if word in VERDICTS else "soft")
        of = [x for r, x in sizes if r.get("verdict") == word]
        for marker, kept in (
            ("o", [x for x in of if abs(x) < EDGE]),
            (">", [EDGE for x in of if x >= EDGE]),
            ("<", [-EDGE for x in of if x <= -EDGE]),
        ):
            if kept:
                axes.plot(kept, [at] * len(kept), marker, color=color, ms=6, mew=0, alpha=0.5, zorder=3)
    ordered = sorted(x for _, x in sizes)
    middle = (ordered[(len(ordered) - 1) // 2] + ordered[len(ordered) // 2]) / 2
    if abs(middle) < EDGE:
        axes.plot([middle, middle], [at - 0.38, at + 0.38], color=tone("ink"), lw=2, zorder=4)


def _intervals(axes: Any, spread: Spread, places: Mapping[tuple[str, str], int]) -> None:
    """Estimate and interval of each pair; one path per verdict, so that sixty pairs stay small."""
    ends = [dict((id(r), x) for r, x in spread.in_margins(key)) for key in ("low", "high")]
    for word in dict.fromkeys([*VERDICTS, *spread.counts]):
        color = tone(f"v-{word}" if word in VERDICTS else "soft")
        x: list[float] = []
        y: list[float] = []
        dots: dict[str, tuple[list[float], list[float]]] = {}
        for row, value in spread.in_margins():
            if row.get("verdict") != word or id(row) not in ends[0] or id(row) not in ends[1]:
                continue
            at = places[(row["pair"][0], row["pair"][1])]
            low, high = max(ends[0][id(row)], -EDGE), min(ends[1][id(row)], EDGE)
            if low < high:
                x += [low, high, math.nan]
                y += [at, at, math.nan]
            marker = "o" if abs(value) < EDGE else ">" if value > 0 else "<"
            of = dots.setdefault(marker, ([], []))
            of[0].append(max(-EDGE, min(EDGE, value)))
            of[1].append(at)
        if x:
            axes.plot(x, y, color=color, lw=1.6, solid_capstyle="butt", zorder=2)
        for marker, (across, down) in dots.items():
            axes.plot(across, down, marker, color=color, ms=5, mew=0, zorder=3)


def _rank(group: Group, pair: tuple[str, str]) -> tuple[bool, float, tuple[str, str]]:
    row = next((ln for ln in group.of if ln.pair == pair), group.line).rows.get("delta", {})
    value, margin = row.get("estimate"), row.get("margin")
    if value is None or not math.isfinite(value):
        return True, 0.0, pair
    return False, value / abs(margin) if margin else value, pair


def _csv(groups: Sequence[Group]) -> str:
    rows = [r for g in groups for s in g.judged for r in s.rows]
    return as_csv([{"a": r["pair"][0], "c": r["pair"][1]} | {k: r.get(k) for k in KEYS} for r in rows])
