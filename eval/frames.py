"""The frame that figures of effects share: a line per probe with its labels on the left, an axis, columns of words."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

from eval.svg import tone
from eval.wording import visible

T = TypeVar("T")
REACH = 4.0  # margins; an axis of effects ends here, and what lies beyond is drawn as an arrow
EDGE = REACH * 0.985
TOP, BOTTOM, STEP, WIDTH, LEFT, SPAN = 44, 46, 21, 1000, 200, 400  # pixels


@dataclass(frozen=True)
class Placed(Generic[T]):
    """Headings and members by the line that they stand on, and how many lines there are in all."""

    heads: list[tuple[float, str]]
    members: list[tuple[float, T]]
    lines: float


def place(groups: Sequence[tuple[str, Sequence[T]]]) -> Placed[T]:
    """Members one below the other, two lines each, under the headings of the groups that have any."""
    heads: list[tuple[float, str]] = []
    members: list[tuple[float, T]] = []
    y = 0.0
    for head, of in groups:
        if of:
            heads.append((y, head))
            y += 1.15
            for one in of:
                members.append((y, one))
                y += 2.35
            y += 0.25
    return Placed(heads, members, y)


class Frame(Generic[T]):
    """A figure with its axis; `write` puts text at a pixel across and a line down.  To be made inside `svg.style`.

    `label`: name and what stands below it of a member; `sides`: words left and right of the axis's middle, above it;
    `columns`: pixel and head of each column of words; `scale` dresses the axis.
    """

    def __init__(
        self, of: Placed[T], label: Callable[[T], tuple[str, str]], sides: tuple[str, str],
        columns: Sequence[tuple[int, str]], scale: Callable[[Any], None],
    ) -> None:  # fmt: skip
        from matplotlib.figure import Figure

        height = int(TOP + BOTTOM + STEP * of.lines)
        self.figure = Figure(figsize=(WIDTH / 72, height / 72))
        self.axes = self.figure.add_axes((LEFT / WIDTH, BOTTOM / height, SPAN / WIDTH, 1 - (TOP + BOTTOM) / height))
        scale(self.axes)
        self.axes.set_ylim(of.lines - 0.5, -0.7)
        self.write(LEFT + SPAN / 2 - 8, -1.3, sides[0], "soft", ha="right")
        self.write(LEFT + SPAN / 2 + 8, -1.3, sides[1], "soft")
        for pixel, text in columns:
            self.write(pixel, -1.3, text, "soft")
        for at, head in of.heads:
            self.write(0, at, head, "soft", style="italic", fontsize=12)
        for at, one in of.members:
            name, below = label(one)
            self.write(0, at, name, weight="bold")
            self.write(0, at + 1, below, "soft")

    def write(self, pixel: float, at: float, text: str, token: str = "ink", **how: Any) -> None:
        """Text in a colour token, its left edge (or what `ha` says) at that pixel of the figure's width."""
        how = {"fontsize": 11, **how} if token == "soft" else how
        how = {"transform": self.axes.get_yaxis_transform(), "va": "center_baseline", "color": tone(token), **how}
        self.axes.text((pixel - LEFT) / SPAN, at, text, **how)

    def note(self, at: float, text: str) -> None:
        """Words in place of a mark, at the middle of the axis, uncrossed by its zero line."""
        over = {"facecolor": tone("band"), "linewidth": 0, "pad": 1}
        self.axes.text(0, at, text, ha="center", va="center_baseline", color=tone("soft"), fontsize=11, bbox=over)


def margins(axes: Any) -> None:
    """An axis in units of the margin, what is too small to matter shaded."""
    scaled(axes, "effect ÷ margin (shaded: too small to matter)")


def scaled(axes: Any, label: str) -> None:
    """An axis from -REACH to REACH with a band of one unit around 0."""
    axes.set_xlim(-REACH, REACH)
    axes.axvspan(-1, 1, color=tone("band"), lw=0, zorder=0)
    axes.axvline(0, color=tone("soft"), lw=1, zorder=1)
    bare(axes)
    axes.set_yticks([])
    axes.set_xticks(range(-4, 5), ["−4", "−3", "−2", "−1", "0", "+1", "+2", "+3", "+4"])
    axes.set_xlabel(label, color=tone("soft"))


def bare(axes: Any) -> None:
    """Leave an axis its lower spine and its labels."""
    for side in ("top", "left", "right"):
        axes.spines[side].set_visible(False)
    axes.spines["bottom"].set_color(tone("line"))
    axes.tick_params(colors=tone("soft"), length=0, labelsize=11)


def by_dose(
    axes: Any, stage: str, at: Sequence[float], labels: Sequence[str], unit: str, *, wide: bool, first: Any
) -> Any:
    """Dress one stage's axes of a figure by dose; `at`: where the stage starts, then its doses, with their labels.

    `first`: the axes that have the labels of the shared scale, which is returned; None for those themselves.
    """
    axes.axvline(at[0], color=tone("line"), lw=1, zorder=0)
    axes.set_xticks(list(at), list(labels))
    axes.set_xlabel("dose (optimiser steps)" if wide else "dose", color=tone("soft"))
    axes.set_title(visible(stage), loc="left", weight="bold", color=tone("ink"))
    axes.grid(axis="y", color=tone("line"), lw=0.6)
    bare(axes)
    if first is not None:
        axes.tick_params(labelleft=False)
        return first
    axes.set_ylabel(visible(unit), color=tone("soft"))
    return axes
