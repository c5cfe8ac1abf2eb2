"""Many pairs at once: each probe's contrasts over all of them, and the terminal table made of that."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from math import isfinite
from statistics import median
from typing import TYPE_CHECKING, Any

from eval.table import GATE, Line, lines
from eval.wording import DASH, SEEN, VERDICTS, interval, number, probability, read_how, visible

if TYPE_CHECKING:
    from rich.table import Table
    from rich.text import Text

SYMBOLS = {"T": "T", "delta": "Δ", "lambda": "Λ"}


@dataclass(frozen=True)
class Spread:
    """One contrast of one probe and stage over all pairs."""

    contrast: str
    rows: tuple[Mapping[str, Any], ...]  # one per pair, in the order of the pairs

    @property
    def symbol(self) -> str:
        """T, Δ or Λ."""
        return SYMBOLS[self.contrast]

    @property
    def estimates(self) -> list[float]:
        """The estimates of the pairs that have one."""
        return [r["estimate"] for r in self.rows if _there(r.get("estimate"))]

    @property
    def middle(self) -> float | None:
        """Median of the estimates; pairs that share an arm are not independent, so it gets no interval."""
        return median(self.estimates) if self.estimates else None

    @property
    def ends(self) -> tuple[float | None, float | None]:
        """Lowest and highest estimate."""
        return (min(self.estimates), max(self.estimates)) if self.estimates else (None, None)

    def in_margins(self, key: str = "estimate") -> list[tuple[Mapping[str, Any], float]]:
        """(row, its estimate or an end of its interval in units of its own margin) where both are there."""
        return [(r, r[key] / abs(r["margin"])) for r in self.rows if _there(r.get(key)) and r.get("margin")]

    @property
    def counts(self) -> Counter[str]:
        """How many pairs got each verdict."""
        return Counter(str(r.get("verdict") or DASH) for r in self.rows)

    @property
    def least(self) -> float | None:
        """The smallest adjusted p of any pair."""
        return min((r["p_adjusted"] for r in self.rows if _there(r.get("p_adjusted"))), default=None)

    @property
    def farthest(self) -> Mapping[str, Any] | None:
        """The row whose effect is largest beside its margin; where none has a margin, the largest effect."""
        sizes = self.in_margins() or [(r, r["estimate"]) for r in self.rows if _there(r.get("estimate"))]
        return max(sizes, key=lambda x: abs(x[1]))[0] if sizes else None


@dataclass(frozen=True)
class Group:
    """One probe at one stage over all pairs; `line` is the first pair's and stands for what they share."""

    line: Line
    spreads: Mapping[str, Spread]
    of: tuple[Line, ...]

    @property
    def judged(self) -> list[Spread]:
        """Δ and Λ, where they were judged."""
        return [self.spreads[c] for c in ("delta", "lambda") if c in self.spreads]

    @property
    def kind(self) -> str:
        """Heading under which it stands."""
        if self.line.probe == GATE:
            return "gate"
        return "primary" if self.line.primary else "secondary (exploratory)"

    def size(self) -> str:
        """``5–6 × 24``: seeds and items, which may differ from pair to pair."""
        return self._size("", "")

    def size_told(self) -> str:
        """``5–6 seeds × 24 items``."""
        return self._size(" seeds", " items")

    def _size(self, seeds: str, items: str) -> str:
        counts = [[ln.any.get(key) or 0 for ln in self.of] for key in ("n_seeds", "n_items")]
        return _range(counts[0]) + seeds + (f" × {_range(counts[1])}{items}" if any(counts[1]) else "")

    def seen(self) -> str:
        """Whether the planted control was detected: yes, no, not shown."""
        return SEEN.get(self.line.any.get("sensitive"), SEEN[None])


def groups(of: Iterable[Line]) -> list[Group]:
    """Lines of many pairs gathered by probe and stage, in the order in which they stand in one pair."""
    held: dict[tuple[bool, bool, str, str], list[Line]] = {}
    for line in of:
        held.setdefault((line.probe == GATE, not line.primary, line.probe, line.stage), []).append(line)
    out = []
    for members in held.values():
        spreads = {
            contrast: Spread(contrast, tuple(ln.rows[contrast] for ln in members if contrast in ln.rows))
            for contrast in SYMBOLS
            if any(contrast in ln.rows for ln in members)
        }
        out.append(Group(members[0], spreads, tuple(members)))
    first = {stage: n for n, stage in enumerate(dict.fromkeys(g.line.stage for g in out))}
    rank = ("primary", "secondary (exploratory)", "gate").index
    return sorted(out, key=lambda g: (rank(g.kind), g.line.probe, first[g.line.stage]))


def pair_name(pair: Sequence[Any], pairs: Iterable[Sequence[Any]]) -> str:
    """A pair's name: the second arm alone where all pairs share the first."""
    shared = len({p[0] for p in pairs}) == 1
    return visible(pair[1]) if shared else f"{visible(pair[0])} : {visible(pair[1])}"


def pairs_told(pairs: Sequence[Sequence[Any]]) -> str:
    """``19 pairs, each of one arm with another``."""
    firsts = {str(p[0]) for p in pairs}
    each = f", each of {visible(next(iter(firsts)))} with another arm" if len(firsts) == 1 else ""
    return f"{len(pairs)} pairs{each}"


def tally(counts: Mapping[str, int]) -> str:
    """``2 broken, 17 undetermined``, in the order of the words."""
    words = [w for w in VERDICTS if counts.get(w)]
    return ", ".join(f"{counts[w]} {w}" for w in words) or DASH


def unreachable(verdict: Mapping[str, Any]) -> float | None:
    """The smallest adjusted p that a pair could have had, where that is too large for any to be called broken."""
    from eval.signflip import smallest_p

    seeds = verdict.get("seeds") or []
    n = seeds if isinstance(seeds, int) else len(seeds)
    pairs = len({tuple(r["pair"]) for r in verdict.get("rows") or []})
    least = min(smallest_p(n) * max(pairs, 1), 1.0)
    return least if least >= (verdict.get("alpha") or 0.05) else None


def reach(verdict: Mapping[str, Any]) -> str:
    """A sentence on what the seeds and pairs could not have shown; empty where they could."""
    least = unreachable(verdict)
    if least is None:
        return ""
    pairs = len({tuple(r["pair"]) for r in verdict.get("rows") or []})
    return (
        f"No pair could have been called broken: with these seeds and {pairs} pairs the smallest adjusted p is "
        f"{probability(least)}"
    )


def fill(table: Table, verdict: Mapping[str, Any], wide: bool) -> Table:
    """The terminal table of many pairs: a line per contrast, with the pairs' median, range and verdicts."""
    from rich import box
    from rich.text import Text

    told = lines(verdict)
    pairs = list(dict.fromkeys(ln.pair for ln in told))
    table.box, table.pad_edge, table.padding = box.SIMPLE_HEAD, False, 0
    title = f"{visible(verdict.get('experiment') or 'experiment')}: {verdict.get('verdict') or DASH}"
    table.title, table.title_justify, table.title_style = Text(title), "left", "bold"
    table.caption, table.caption_justify, table.caption_style = Text(_caption(verdict, pairs)), "left", "dim"
    glyphs = [VERDICTS[w][0] for w in ("broken", "symmetric", "undetermined")]
    heads = ["probe", "", "median", "lowest, highest\nof the pairs", *glyphs, "other", "least\np adj.", "farthest pair"]
    table.add_column(heads[0], no_wrap=False, overflow="fold", min_width=16)
    for head in heads[1:] if wide else heads[1:8]:
        right = head in glyphs
        table.add_column(head, no_wrap=True, overflow="fold", justify="right" if right else "left")
    before = None
    for group in groups(told):
        if group.kind != before:
            if before:
                table.add_section()
            table.add_row(Text(group.kind, style="italic dim"))
            before = group.kind
        unit = f"{visible(group.line.any.get('unit') or DASH)}, {group.size()}".replace(" × ", "\u00a0×\u00a0")
        names = [Text(f"{group.line.label}, {visible(group.line.stage)}"), Text(unit, style="dim")]
        shown = [s for s in (group.spreads.get("T") if wide else None, *group.judged) if s]
        for n in range(max(2, len(shown))):
            spread = shown[n] if n < len(shown) else None
            name = names[n] if n < 2 else Text("")
            table.add_row(name, *(_cells(spread, pairs, wide) if spread else [""] * (len(table.columns) - 1)))
    return table


def _cells(spread: Spread, pairs: Sequence[Sequence[Any]], wide: bool) -> list[Text]:
    from rich.text import Text

    counts = spread.counts
    cells = [Text(spread.symbol), Text(number(spread.middle, sign=True)), Text(interval(*spread.ends), style="dim")]
    main = ("broken", "symmetric", "undetermined")
    if spread.contrast == "T":
        cells += [Text("")] * 4
    else:
        cells += [Text(str(counts[w] or "·"), style=VERDICTS[w][1] if counts[w] else "dim") for w in main]
        other = " ".join(f"{VERDICTS[w][0]}{n}" for w, n in sorted(counts.items()) if w not in main and w in VERDICTS)
        cells.append(Text(other))
    if wide:
        cells += [Text(probability(spread.least) if spread.contrast != "T" else ""), Text(_farthest(spread, pairs))]
    return cells


def _farthest(spread: Spread, pairs: Sequence[Sequence[Any]]) -> str:
    row = spread.farthest
    if row is None or spread.contrast == "T":
        return ""
    size = f" {number(row['estimate'] / abs(row['margin']), sign=True)} margins" if row.get("margin") else ""
    return f"{pair_name(row['pair'], pairs)}{size}"


def _caption(verdict: Mapping[str, Any], pairs: Sequence[Sequence[Any]]) -> str:
    other = {w for r in verdict.get("rows") or [] for w in [r.get("verdict")] if w}
    key = ", ".join(
        f"{VERDICTS[w][0]} {w}" for w in VERDICTS if w in other or w in ("broken", "symmetric", "undetermined")
    )
    said = [
        f"{pairs_told(pairs)}; Δ > 0 favours the first of a pair, Λ > 0 the second.",
        f"Counts are pairs (those that share an arm are not independent): {key}.",
        f"Read {read_how(verdict)} (strength itself at equal dose). Under a probe: unit, seeds × items.",
        "Every pair, its interval and its margin: report.html and `parity show --json`.",
    ]
    failed = verdict.get("failed") or []
    if failed:
        said.append(f"{len(failed)} run{'s' * (len(failed) > 1)} failed; their pairs have a seed less.")
    return "\n".join(said)


def _range(values: Sequence[int]) -> str:
    values = [v for v in values if v] or [0]
    low, high = min(values), max(values)
    return f"{low or DASH}" if low == high else f"{low}–{high}"


def _there(value: Any) -> bool:
    return value is not None and isfinite(value)
