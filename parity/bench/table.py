"""The benchmark as terminal tables."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from rich.table import Table

DASH = "–"


def tables(found: Mapping[str, Any]) -> Iterator[Table | str]:
    """Ratios, growth, then lines about the machine and what was left out."""
    from rich.table import Table

    rows = list(_rows(found))
    if rows:
        table = Table(title=f"this lab and the usual route, {found['repeats']} repeats, seconds: median [least, most]")
        for name in ("part", "this lab", "usual route", "times as fast", "memory", "difference", "of the limit"):
            table.add_column(name, justify="left" if name == "part" else "right")
        for row in rows:
            table.add_row(*row)
        yield table
    for key, what in (("requests", "requests"), ("arms", "runs")):
        if points := found.get("growth", {}).get(key):
            table = Table(title=f"growth with the number of {what}")
            for name in (what, "this lab", "usual route", "times as fast", "memory"):
                table.add_column(name, justify="right")
            for number, entry in points.items():
                table.add_row(number, *_sides(entry))
            yield table
    machine = found["machine"]
    rates = ", ".join(
        f"{rate / 1e9:.0f} GFLOP/s with {threads} threads"
        for threads, rate in machine["matmul_flops_per_second"].items()
    )
    yield f"{machine['processor']}, {machine['cores']} cores, {machine['device']}; float32 matrix product {rates}"
    for left in found["left_out"]:
        yield f"left out: {left['part']} ({left['why']})"


def _rows(found: Mapping[str, Any]) -> Iterator[tuple[str, ...]]:
    for model, entry in found.get("score", {}).items():
        limit = f"{entry['limit']['times']:.1f}x"
        yield f"score {model}", *_sides(entry), _gap(entry, "nats"), limit
    for stage in ("sft", "dpo"):
        for runs, entry in found.get(stage, {}).get("runs", {}).items():
            yield f"{stage} {runs} runs", *_sides(entry), _gap(entry, "weights"), DASH
    if "verdict" in found:
        entry = found["verdict"]
        yield f"verdict {entry['runs']} runs", *_sides(entry), DASH, DASH


def _sides(entry: Mapping[str, Any]) -> tuple[str, str, str, str]:
    ours, usual = entry["ours"], entry.get("usual")
    ratio = f"{entry['ratio']:.2f} [{entry['ratio_low']:.2f}, {entry['ratio_high']:.2f}]" if usual else DASH
    memory = " / ".join(_megabytes(side) for side in (ours, usual) if side)
    return _seconds(ours), _seconds(usual) if usual else DASH, ratio, memory


def _gap(entry: Mapping[str, Any], unit: str) -> str:
    gap = entry["largest_difference"]
    return "not a number" if gap is None else f"{gap:.1e} {unit}"


def _seconds(side: Mapping[str, Any]) -> str:
    return f"{side['median']:.3g} [{side['low']:.3g}, {side['high']:.3g}]"


def _megabytes(side: Mapping[str, Any]) -> str:
    return f"{side['peak_bytes'] / 2**20:.0f} MiB" if "peak_bytes" in side else DASH
