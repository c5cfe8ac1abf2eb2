"""The verdict as lines, as a sentence and as a terminal table."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from eval import castwords, wording
from eval.wording import DASH, SEEN, VERDICTS, before, failures, interval, number, probability, visible

if TYPE_CHECKING:
    from rich.table import Table
    from rich.text import Text

GATE = "default_identity"  # the probe that is strength itself: read at equal dose, never primary
STAGES = ("base", "sft", "dpo", "rl")
MANY = 4  # pairs; more than these are shown together and not one below the other


def size(row: Mapping[str, Any]) -> str:
    """What a number never goes without: ``16 seeds × 24 items`` (items where the measure has them)."""
    return f"{row.get('n_seeds') or DASH} seeds" + (f" × {row['n_items']} items" if row.get("n_items") else "")


@dataclass(frozen=True)
class Line:
    """One probe at one stage for one pair; a contrast that was not judged is None."""

    pair: tuple[str, str]
    probe: str
    stage: str
    match: str
    primary: bool
    rows: Mapping[str, Mapping[str, Any]]  # contrast -> row of verdict.json

    @property
    def judged(self) -> list[tuple[str, Mapping[str, Any]]]:
        """The contrasts that carry a verdict, as (symbol, row), Δ first."""
        return [(s, self.rows[c]) for c, s in (("delta", "Δ"), ("lambda", "Λ")) if c in self.rows]

    @property
    def any(self) -> Mapping[str, Any]:
        """A row that stands for the line in what its contrasts share (unit, seeds, items)."""
        return next((self.rows[c] for c in ("delta", "lambda", "T") if c in self.rows), {})

    @property
    def label(self) -> str:
        """The probe's name; the gate is called by what it measures."""
        return "strength" if self.probe == GATE else visible(self.probe)

    def verdicts(self) -> list[tuple[str, str, str]]:
        """(symbols, verdict, remark) once per distinct verdict; ``symbols`` is empty when all contrasts agree."""
        said: dict[tuple[str, str], list[str]] = {}
        for symbol, row in self.judged:
            said.setdefault((row.get("verdict") or DASH, remark(row)), []).append(symbol)
        return [("" if len(said) == 1 else ", ".join(s), verdict, note) for (verdict, note), s in said.items()]

    def seen(self) -> str:
        """Whether the planted control was detected: yes, no, not shown."""
        return SEEN.get(self.any.get("sensitive"), SEEN[None])


def remark(row: Mapping[str, Any]) -> str:
    """What goes beside a verdict: whom it favours, the note, the seeds that would settle it."""
    sign, note = row.get("sign"), visible(row.get("note") or "")
    parts = [f"favours {visible(sign)}"] if sign and row.get("verdict") == "broken" else []
    if note:
        parts.append(f"{note} (towards {visible(sign)})" if sign and "differs" in note else note)
    needed = row.get("seeds_needed")
    if row.get("verdict") == "undetermined" and needed and math.isfinite(needed):
        parts.append(f"about {math.ceil(needed)} seeds needed")
    return "; ".join(parts)


def stage_rank(stage: str) -> tuple[int, str]:
    """Sort key: stages in the order of training, unknown ones last by name."""
    return (STAGES.index(stage) if stage in STAGES else len(STAGES), stage)


def lines(verdict: Mapping[str, Any]) -> list[Line]:
    """One line per pair, probe and stage at the recipe's match: primary, secondary, then the gate at equal dose."""
    match = wording.recipe_match(verdict)
    groups: dict[tuple[tuple[str, str], str, str], list[Mapping[str, Any]]] = {}
    for row in verdict.get("rows") or []:
        a, c = row["pair"]
        groups.setdefault(((str(a), str(c)), str(row["probe"]), str(row["stage"])), []).append(row)
    out = []
    for (pair, probe, stage), rows in groups.items():
        wanted = "dose" if probe == GATE else match
        rows = [r for r in rows if r["match"] == wanted] or rows
        # several doses of one stage: the last is what the stage made
        latest = {r["contrast"]: r for r in sorted(rows, key=lambda r: (r["dose"] is not None, r["dose"] or 0))}
        primary = any(r.get("primary") for r in latest.values())
        out.append(Line(pair, probe, stage, str(rows[0]["match"]), primary, latest))
    places = {str(arm): n for n, arm in enumerate(verdict.get("arms") or [])}

    def order(line: Line) -> tuple:
        where = tuple((places.get(p, len(places)), p) for p in line.pair)
        return where, line.probe == GATE, not line.primary, line.probe, stage_rank(line.stage)

    return sorted(out, key=order)


def contrast_words(symbol: str, row: Mapping[str, Any]) -> str:
    """``Δ = −5.50 logit [−6.10, −4.90] (95 %), margin ±1.60, adjusted p .0011, 16 seeds × 24 items``."""
    unit = visible(row.get("unit") or "")
    level = f" ({row['level']:.0%})".replace("%", " %") if row.get("level") else ""
    return (
        f"{symbol} = {number(row.get('estimate'), sign=True)} {unit} "
        f"{interval(row.get('low'), row.get('high'))}{level}, "
        f"margin {margin(row)}, adjusted p {probability(row.get('p_adjusted'))}, {size(row)}"
    )


def direction(pair: tuple[str, str]) -> str:
    """Which way the signs point: in Λ > 0 it is the second persona that gained in the first one's arm."""
    a, c = map(visible, pair)
    return f"Δ > 0 favours {a}, Λ > 0 favours {c}"


def margin(row: Mapping[str, Any]) -> str:
    """``±1.60``, or a dash where a relative margin has no T to be a share of."""
    text = number(row.get("margin"))
    return text if text == DASH else f"±{text}"


def many(verdict: Mapping[str, Any]) -> bool:
    """Whether there are too many pairs to show one below the other."""
    return len({tuple(r["pair"]) for r in verdict.get("rows") or []}) > MANY


def sentence(verdict: dict) -> str:
    """The experiment's verdict in a sentence, with the numbers it rests on."""
    reading = wording.read_how(verdict)
    primary = [(ln, s, r) for ln in lines(verdict) if ln.primary for s, r in ln.judged if r.get("primary")]
    word = verdict.get("verdict") or "undetermined"
    if not primary:
        body = "no primary probe was judged"
    elif word == "broken":
        broken = [x for x in primary if x[2].get("verdict") == "broken"]
        # the first is told in full: the smallest adjusted p, ties by the order of the table
        ln, symbol, row = min(
            broken or primary, key=lambda x: (x[2].get("p_adjusted") is None, x[2].get("p_adjusted") or 0)
        )
        rival = [p for p in ln.pair if p != row.get("sign")]
        whom = f" favours {visible(row['sign'])} over {visible(rival[0])}" if row.get("sign") and rival else " differs"
        more = len(broken) - 1
        body = f"{reading}, {ln.label} after {ln.stage}{whom}: {contrast_words(symbol, row)}"
        body += f"; {more} more primary contrast{'s are' if more > 1 else ' is'} broken" if more > 0 else ""
    elif word == "symmetric":
        seeds = min(r.get("n_seeds") or 0 for _, _, r in primary)
        body = (
            f"{reading}, {_pairs(primary)} differ by less than matters on every primary probe "
            f"({', '.join(_names(primary))}): all {len(primary)} contrasts Δ and Λ lie within their margins, "
            f"over {seeds} seeds"
        )
    else:
        open_ = [x for x in primary if x[2].get("verdict") != "symmetric"]
        told = [f"{ln.label} {s} after {ln.stage} {visible(r.get('verdict') or DASH)}" for ln, s, r in open_[:4]]
        rest = f", and {len(open_) - 4} more" if len(open_) > 4 else ""
        if many(verdict):
            from eval.many import tally

            told, rest = [tally(Counter(str(r.get("verdict")) for _, _, r in open_))], ""
        body = (
            f"{reading}, no primary contrast is shown broken, and {len(open_)} of {len(primary)} are not shown "
            f"symmetric ({'; '.join(told)}{rest})"
        )
    said = [f"{word.capitalize()}: {body}", *before(verdict), *failures(verdict, 3)]
    if many(verdict):
        from eval.many import reach

        said += [reach(verdict)] if reach(verdict) else []
    return ". ".join([*said, *castwords.told(verdict)]) + "."


def _names(primary: Iterable[tuple[Line, str, Any]]) -> list[str]:
    return list(dict.fromkeys(ln.label for ln, _, _ in primary))


def _pairs(primary: Iterable[tuple[Line, str, Any]]) -> str:
    pairs = list(dict.fromkeys(ln.pair for ln, _, _ in primary))
    if len(pairs) > MANY:
        return f"the arms of each of {len(pairs)} pairs"
    return " and ".join(f"{visible(a)} and {visible(c)}" for a, c in pairs)


def verdict_table(verdict: dict) -> Table:
    """The verdict table for a terminal.

    Where the full table does not fit (it does in 120 columns), p moves beside Δ and Λ, and T, Δ/T and whether a plant
    was seen are left out.
    """
    from rich.table import Table

    class Fitting(Table):
        """A table that shows its narrow form where the full one would not fit."""

        narrow: Table

        def __rich_console__(self, console: Any, options: Any) -> Any:
            # a column of numbers is as wide as its longest line, a column of words can fold to its least width
            needs = sum(max(c.min_width or 0, 0 if c.no_wrap is False else _widest(c)) + 1 for c in self.columns) + 1
            yield from Table.__rich_console__(self if needs <= options.max_width else self.narrow, console, options)

    if many(verdict):
        from eval.many import fill as make
    else:
        make = _fill
    table = Fitting()
    table.narrow = make(Table(), verdict, wide=False)
    return make(table, verdict, wide=True)


def _widest(column: Any) -> int:
    lines = [line for cell in (column.header, *column.cells) for line in str(cell).splitlines()]
    return max(map(len, lines), default=0)


def _fill(table: Table, verdict: Mapping[str, Any], wide: bool) -> Table:
    from rich import box
    from rich.text import Text

    table.box, table.pad_edge, table.padding = box.SIMPLE_HEAD, False, 0
    table.title, table.title_justify, table.title_style = Text(_title(verdict)), "left", "bold"
    table.caption, table.caption_justify, table.caption_style = Text(_caption(verdict)), "left", "dim"
    heads = ["probe", "T", "Δ", "Λ", "margin", "Δ/T", "p adj.", "verdict", "could it\nsee?"]
    keep = [h for h in heads if wide or h not in ("T", "Δ/T", "p adj.", "could it\nsee?")]
    for head in keep:
        words = head in ("probe", "verdict")
        table.add_column(head, no_wrap=not words, overflow="fold", min_width=16 if words else None)
    told = lines(verdict)
    before = None
    several = len({ln.pair for ln in told}) > 1
    for line in told:
        kind = "gate" if line.probe == GATE else "primary" if line.primary else "secondary (exploratory)"
        if (line.pair, kind) != before:
            if before:
                table.add_section()
            name = f"{visible(line.pair[0])} : {visible(line.pair[1])}\n{kind}" if several else kind
            table.add_row(Text(name, style="italic dim"))
            before = (line.pair, kind)
        cells = dict(zip(heads, _cells(line, wide), strict=True))
        table.add_row(*(cells[h] for h in keep))
    return table


def _cells(line: Line, wide: bool) -> list[Text]:
    from rich.text import Text

    row = line.any
    count = f"{row.get('n_seeds') or DASH}" + (f" × {row['n_items']}" if row.get("n_items") else "")
    name = Text(f"{line.label}, {visible(line.stage)}")
    name.append(f"\n{visible(row.get('unit') or DASH)}, {count}".replace(" × ", "\u00a0×\u00a0"), style="dim")
    values = []
    for contrast in ("T", "delta", "lambda"):
        of = line.rows.get(contrast)
        cell = Text(number(of.get("estimate"), sign=True) if of else DASH)
        if of and not wide:  # the column of p is left out
            cell.append(f" p {probability(of.get('p_adjusted'))}")
        values.append(cell.append(f"\n{interval(of.get('low'), of.get('high'))}", style="dim") if of else cell)
    said = Text()
    for symbols, verdict, note in line.verdicts():
        glyph, style, _ = VERDICTS.get(verdict, ("", "", ""))
        said.append(("\n" if said else "") + (f"{symbols} " if symbols else ""))
        said.append(f"{glyph} {visible(verdict)}".strip(), style=style).append(f", {note}" if note else "", style="dim")
    p = "\n".join(f"{s} {probability(r.get('p_adjusted'))}" for s, r in line.judged)
    share = Text(number(row.get("share"), sign=True))
    if row.get("share_low") is not None:
        share.append(f"\n{interval(row['share_low'], row.get('share_high'))}", style="dim")
    return [name, *values, Text(margin(row)), share, Text(p), said, Text(line.seen())]


def _title(verdict: Mapping[str, Any]) -> str:
    return f"{visible(verdict.get('experiment') or 'experiment')}: {verdict.get('verdict') or DASH}"


def _caption(verdict: Mapping[str, Any]) -> str:
    pairs = dict.fromkeys(ln.pair for ln in lines(verdict))
    favours = "\n".join(f"{visible(a)} : {visible(c)}, {direction((a, c))}." for a, c in pairs)
    levels = sorted({r["level"] for r in verdict.get("rows") or [] if r.get("level")})
    level = "/".join(f"{100 * x:.0f}" for x in levels)
    failed = verdict.get("failed") or []
    runs = ", ".join(f"{visible(f['arm'])} seed {f['seed']} ({f['stage']})" for f in failed[:6])
    lost = f"\n{len(failed)} run{'s' * (len(failed) > 1)} failed: {runs}{', …' if len(failed) > 6 else ''}."
    reading = wording.read_how(verdict)
    return (
        f"{favours}\nRead {reading} (strength itself at equal dose). Under each probe: unit, "
        f"seeds × items; under each estimate: its {level} % interval. Margin: the smallest effect that matters."
        f"{lost if failed else ''}"
    )
