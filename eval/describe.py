"""One checkpoint described: what each measure is for each persona, beside the base model and the prompted one.

A checkpoint has no seeds and no other arm, so nothing is tested here and no verdict is given; items are the only
replication, and where there are enough of them a t interval over items says how far they agree.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from math import fsum, isfinite
from typing import TYPE_CHECKING, Any

from eval.cells import PROMPTED
from eval.interval import crossed
from eval.probe import Probe
from eval.wording import DASH, interval, number, visible

if TYPE_CHECKING:
    import polars as pl
    from rich.table import Table

CHECKPOINT = "checkpoint"  # its arm
LEVEL = 0.95
WIDE = 160  # columns of a terminal that the table needs with its intervals
# Items from which an interval is given: as with seeds, no sign test of fewer can reach .05.
FEWEST_ITEMS = 6
CAPTION = (
    "This describes one checkpoint. It has no seeds and no arm to be compared with, so items are the only "
    "replication: nothing is tested and no verdict is given. Below each number: its 95 % t interval over items, where "
    f"there are at least {FEWEST_ITEMS} that the measure may be averaged over; it says how far these items agree, not "
    "what another training run would give. Answers that gave no number are counted under “no value” and left out."
)
Rows = Sequence[Mapping[str, Any]]
Items = dict[str, float]


def describe(rows: pl.DataFrame, probes: Iterable[Probe], personas: Sequence[str]) -> list[dict[str, Any]]:
    """One dict per measure and persona, headlines first, in the order of probes.

    ``probe, measure, label, unit, level, persona, headline``; ``checkpoint``, ``base`` (None without one) and
    ``prompted`` (the base told to be that persona; None for a measure of the arm) as ``{"mean", "low", "high",
    "n_items"}``; ``gain``: checkpoint less base, over the answers that both gave; ``lead``: this persona less the
    mean of the others in the checkpoint, over the items that all have; ``n_rows`` of the checkpoint and its
    ``outcomes`` other than ok.
    """
    by: dict[tuple[str, str], dict[tuple[str, str | None], list[Mapping[str, Any]]]] = {}
    for row in rows.iter_rows(named=True):
        held = by.setdefault((row["probe"], row["measure"]), {})
        held.setdefault((row["arm"], row["persona"]), []).append(row)
    found: list[dict[str, Any]] = []
    for headline in (True, False):
        for probe in probes:
            for measure in probe.measures[:1] if headline else probe.measures[1:]:
                arms = by.get((probe.name, measure.name), {})
                label = probe.name if headline else f"{probe.name}.{measure.name}"
                same = {"probe": probe.name, "measure": measure.name, "label": label, "unit": measure.unit,
                        "level": measure.level, "headline": headline}  # fmt: skip
                asked = personas if measure.level == "persona" else ()
                who: list[str | None] = [p for p in asked if (CHECKPOINT, p) in arms]
                found += [same | _line(arms, p, personas) for p in who or [None]]
    return found


def _line(arms: Mapping[tuple[str, str | None], Rows], persona: str | None, personas: Sequence[str]) -> dict[str, Any]:
    own = arms.get((CHECKPOINT, persona), ())
    base = arms.get(("base", persona))
    told = arms.get((f"{PROMPTED}{persona}", persona)) if persona else None
    rivals = [arms.get((CHECKPOINT, p), ()) for p in personas if p != persona] if persona else []
    lead = None
    if rivals:
        mine, theirs = _items(own), [_items(r) for r in rivals]
        common = [item for item in mine if all(item in of for of in theirs)]
        lead = _over({item: mine[item] - fsum(of[item] for of in theirs) / len(theirs) for item in common})
    return {
        "persona": persona,
        "checkpoint": _over(_items(own)),
        "base": None if base is None else _over(_items(base)),
        "prompted": None if told is None else _over(_items(told)),
        "gain": None if base is None else _over(_differences(own, base)),
        "lead": lead,
        "n_rows": len(own),
        "outcomes": dict(sorted(Counter(_outcome(r) for r in own if _outcome(r) != "ok").items())),
    }


def _outcome(row: Mapping[str, Any]) -> str:
    fine = row["outcome"] != "ok" or (row["value"] is not None and isfinite(row["value"]))
    return str(row["outcome"] or "missing") if fine else "missing"


def _items(rows: Rows) -> Items:
    """Slots and paraphrases averaged into their item; items without a value are absent."""
    held: dict[str, list[float]] = {}
    for row in rows:
        if _outcome(row) == "ok":
            held.setdefault(row["item"], []).append(row["value"])
    return {item: fsum(values) / len(values) for item, values in held.items()}


def _differences(own: Rows, base: Rows) -> Items:
    """By item the mean difference of the answers that both gave, each paired with its like."""
    before = _numbered(base)
    held: dict[str, list[float]] = {}
    for key, row in _numbered(own).items():
        if key in before and _outcome(row) == "ok" and _outcome(before[key]) == "ok":
            held.setdefault(row["item"], []).append(row["value"] - before[key]["value"])
    return {item: fsum(values) / len(values) for item, values in held.items()}


def _numbered(rows: Rows) -> dict[tuple[str, str, int], Mapping[str, Any]]:
    """Rows by item, slot and how many of these came before: paraphrases are asked in the same order of every model."""
    seen: Counter[tuple[str, str]] = Counter()
    found = {}
    for row in rows:
        at = (row["item"], row["slot"])
        found[(*at, seen[at])] = row
        seen[at] += 1
    return found


def _over(items: Items) -> dict[str, Any] | None:
    """Mean over items with its t interval; None where there is none."""
    import numpy as np

    if not items:
        return None
    values = np.array(list(items.values()))[:, None]
    estimate = crossed(values)  # one column: the t interval over rows
    low, high = estimate.interval(LEVEL) if len(items) >= FEWEST_ITEMS else (None, None)
    return {"mean": estimate.mean, "low": low, "high": high, "n_items": len(items)}


def outcome_counts(rows: pl.DataFrame) -> dict[str, dict[str, dict[str, int]]]:
    """Rows by arm, probe and outcome."""
    found: dict[str, dict[str, Counter[str]]] = {}
    for row in rows.select("arm", "probe", "outcome", "value").iter_rows(named=True):
        found.setdefault(row["arm"], {}).setdefault(row["probe"], Counter())[_outcome(row)] += 1
    return {arm: {p: dict(sorted(n.items())) for p, n in sorted(of.items())} for arm, of in sorted(found.items())}


def heads(lines: Sequence[Mapping[str, Any]]) -> list[tuple[str, str]]:
    """Columns of the table as (key, title): those of the base only where there is one."""
    based = any(line["base"] for line in lines)
    wide = [("base", "base"), ("gain", "checkpoint\n− base")] if based else []
    return [("checkpoint", "checkpoint"), *wide, ("lead", "persona\n− others"), ("prompted", "prompted")]


def no_value(line: Mapping[str, Any]) -> str:
    """``3 of 48: overflow 2, nan 1``, or a dash."""
    lost = line["outcomes"]
    told = ", ".join(f"{visible(kind)} {n}" if len(lost) > 1 else visible(kind) for kind, n in lost.items())
    return f"{sum(lost.values())} of {line['n_rows']}: {told}" if lost else DASH


def cells(line: Mapping[str, Any], columns: Sequence[tuple[str, str]]) -> list[tuple[str, str]]:
    """Each column as (number, interval)."""
    found = []
    for key, _ in columns:
        of = line[key]
        signed = key in ("gain", "lead")
        low, high = (of["low"], of["high"]) if of else (None, None)
        found.append((number(of["mean"] if of else None, sign=signed), interval(low, high) if low is not None else ""))
    return found


def description_table(lines: Sequence[Mapping[str, Any]], title: str, width: int = WIDE) -> Table:
    """The description for a terminal of that many columns; intervals are left out where they would not fit."""
    from rich import box
    from rich.table import Table
    from rich.text import Text

    table = Table(box=box.SIMPLE_HEAD, pad_edge=False, padding=(0, 1, 0, 0))
    table.title, table.title_justify, table.title_style = Text(visible(title)), "left", "bold"
    caption = CAPTION if width >= WIDE else f"{CAPTION} This terminal is too narrow for intervals; the report has them."
    table.caption, table.caption_justify, table.caption_style = Text(caption), "left", "dim"
    columns = heads(lines)
    table.add_column("probe", overflow="fold", min_width=min(26, max((len(str(n["label"])) for n in lines), default=8)))
    table.add_column("persona", overflow="fold", min_width=10)
    for _, head in columns:
        table.add_column(head, no_wrap=True)
    table.add_column("items", no_wrap=True, justify="right")
    table.add_column("no value", overflow="fold", min_width=12)
    before = None
    for line in lines:
        new = line["label"] != before
        name = Text(visible(line["label"]) if new else "")
        if new:
            name.append(f"\n{line['unit']}", style="dim")
        before = line["label"]
        told = [
            Text(value).append(f"\n{over}" if over and width >= WIDE else "", style="dim")
            for value, over in cells(line, columns)
        ]
        items = str(line["checkpoint"]["n_items"]) if line["checkpoint"] else DASH
        who = visible(line["persona"]) if line["persona"] else DASH
        table.add_row(name, Text(who), *told, Text(items), Text(no_value(line)))
    return table
