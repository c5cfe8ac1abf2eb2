"""All probes as a table: what each measures, from where, what it takes for small, and whether it sees its plant."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Any

from eval.probe import Margin, Probe
from eval.sensitive import Shown
from eval.wording import SEEN, visible

if TYPE_CHECKING:
    from rich.table import Table

HEADS = ("probe", "tier", "unit", "margin", "plant", "sensitive", "source")


def records(probes: Iterable[Probe], shown: Sequence[Shown]) -> list[dict[str, Any]]:
    """Each probe with its measures, the headline first, and what each entry of `shown` says of it."""
    return [
        {
            "name": probe.name,
            "version": probe.version,
            "question": probe.question,
            "tier": probe.tier,
            "source": probe.source,
            "plant": probe.plant,
            "gate": probe.gate,
            "measures": [
                {
                    "name": m.name,
                    "unit": m.unit,
                    "level": m.level,
                    "margin": {"kind": m.margin.kind, "value": m.margin.value, "reason": m.margin.reason},
                }
                for m in probe.measures
            ],
            "sensitive": [
                {"world": dict(one.world) if one.world else None, "base": one.base, **one.probes[probe.name]}
                for one in shown
                if probe.name in one.probes
            ],
        }
        for probe in probes
    ]


def margin(of: Margin, unit: str) -> str:
    """``25 % of T``, or ``0.1 nat`` where it is absolute."""
    return f"{100 * of.value:g} % of T" if of.kind == "relative" else f"{of.value:g} {unit}"


def probe_table(probes: Sequence[Probe], shown: Sequence[Shown]) -> Table:
    """The probes for a terminal, one a row; the caption says what the numbers beside `sensitive` stand for."""
    from rich import box
    from rich.table import Table
    from rich.text import Text

    table = Table(box=box.SIMPLE_HEAD, pad_edge=False, padding=(0, 1, 0, 0))
    for title in HEADS:
        table.add_column(title, no_wrap=title not in ("source", "sensitive"), overflow="fold")
    for probe in probes:
        head = probe.measures[0]
        seen = _seen(probe, shown)
        cells = (probe.name, probe.tier, head.unit, margin(head.margin, head.unit), probe.plant, seen, probe.source)
        table.add_row(*(Text(visible(cell)) for cell in cells))
    told = [f"({n}) {one.where}" for n, one in enumerate(shown, 1)]
    table.caption = Text(
        "Unit and margin are those of the headline measure.  Sensitive: whether the probe saw its planted asymmetry, "
        "shown for exactly these: " + ("; ".join(map(visible, told)) or "none yet") + ".",
        style="dim",
    )
    table.caption_justify = "left"
    return table


def _seen(probe: Probe, shown: Sequence[Shown]) -> str:
    """``yes (1)``; a result of another version of the probe says so."""
    said = []
    for n, one in enumerate(shown, 1):
        if probe.name in one.probes:
            found = one.probes[probe.name]
            old = f", version {found['version']}" if found.get("version", probe.version) != probe.version else ""
            said.append(f"{SEEN[found['detected']]} ({n}{old})")
    return ", ".join(said) or SEEN[None]
