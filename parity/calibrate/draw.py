"""Figures of a calibration: shares with their exact intervals, each with its numbers as CSV."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from eval.frames import bare
from eval.svg import Drawn, as_csv, style, svg, tone
from eval.wording import visible

Hit = Mapping[str, Any]
MARKERS = "os^Dv"


def dots(
    groups: Sequence[tuple[str, Sequence[tuple[str, Hit]]]], *, name: str, title: str, line: float, left: float = 0.0
) -> Drawn:
    """Shares as dots on one axis from `left`, a row each and a colour per group; `line`: what they are held against."""
    from matplotlib.figure import Figure

    labels = list(dict.fromkeys(label for _, of in groups for label, _ in of))
    count, step = len(groups), 0.8 / max(1, len(groups))
    with style(name):
        figure = Figure(figsize=(10, 1.1 + 0.34 * len(labels)))
        axes = figure.add_axes((0.36, 0.55 / figure.get_figheight(), 0.6, 1 - 1.0 / figure.get_figheight()))
        axes.axvline(line, color=tone("soft"), lw=1, ls="--", zorder=0)
        for n, (group, of) in enumerate(groups):
            colour = tone(f"arm{n % 6}")
            for label, hit in of:
                if hit["share"] is None:
                    continue
                y = labels.index(label) + (n - (count - 1) / 2) * step
                axes.plot([hit["low"], hit["high"]], [y, y], color=colour, lw=1.5)
                axes.plot(hit["share"], y, MARKERS[n % len(MARKERS)], color=colour, ms=5)
            axes.plot([], [], MARKERS[n % len(MARKERS)], color=colour, label=visible(group))
        bare(axes)
        axes.set_yticks(range(len(labels)), [visible(label) for label in labels])
        axes.set_ylim(len(labels) - 0.4, -0.6)
        axes.set_xlim(left=left)
        axes.legend(
            loc="lower center", bbox_to_anchor=(0.3, 1), ncols=count, frameon=False, fontsize=11, labelcolor=tone("ink")
        )
    rows = [{"group": group, "what": label, **hit} for group, of in groups for label, hit in of]
    return Drawn(name, svg(figure, name, title, f"{len(rows)} shares; the line stands at {line:g}"), as_csv(rows))


def power(curves: Sequence[tuple[str, Sequence[tuple[float, Hit]]]], *, name: str, title: str, axis: str) -> Drawn:
    """Shares by size, one curve a name, with exact intervals."""
    from matplotlib.figure import Figure

    with style(name):
        figure = Figure(figsize=(6, 3.6))
        axes = figure.add_axes((0.11, 0.15, 0.86, 0.68))
        for n, (label, points) in enumerate(curves):
            whole = [(x, hit) for x, hit in points if hit["share"] is not None]
            if not whole:
                continue
            colour, x = tone(f"arm{n % 6}"), [x for x, _ in whole]
            share = [hit["share"] for _, hit in whole]
            error = [[hit["share"] - hit["low"] for _, hit in whole], [hit["high"] - hit["share"] for _, hit in whole]]
            axes.errorbar(x, share, error, color=colour, marker=MARKERS[n % len(MARKERS)], lw=1.5, label=visible(label))
        bare(axes)
        axes.set_ylim(-0.03, 1.03)
        axes.set_xlabel(axis, color=tone("soft"))
        axes.legend(
            loc="lower center", bbox_to_anchor=(0.5, 1), ncols=3, frameon=False, fontsize=11, labelcolor=tone("ink")
        )
    rows = [{"curve": label, "size": x, **hit} for label, points in curves for x, hit in points]
    return Drawn(name, svg(figure, name, title, f"{len(rows)} shares"), as_csv(rows))
