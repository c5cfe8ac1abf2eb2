"""A calibration as a page of figures and as Markdown; both are functions of its JSON."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from eval.pages import csv_link, environment
from eval.svg import TOKENS, Drawn
from eval.wording import plain
from parity.calibrate import draw
from parity.calibrate.checks import label
from parity.calibrate.tables import tables

LEAST_COVERED = 0.7  # where the axis of coverage begins: below, an interval is useless anyway
LEAD = (
    "How often the judge errs where nothing differs, what it finds of asymmetries that were planted, and how often "
    "its intervals hold the truth, in worlds where the truth is known. Same code as an experiment; shares with exact "
    "95 % intervals (Clopper–Pearson)."
)


def facts(result: Mapping[str, Any]) -> list[tuple[str, str]]:
    """What the figures were made with."""
    commit = str(result["commit"] or "unknown")[:12] + (" with uncommitted changes" if result["dirty"] else "")
    experiments = ", ".join(f"{n} {name}" for name, n in result["experiments"].items())
    return [
        ("Recipe", f"{result['recipe']['name']} {result['recipe_hash'][:12]}"),
        ("Size", "quick: figures are coarse" if result["quick"] else "full"),
        ("Experiments", experiments),
        ("Seeds", ", ".join(map(str, result["seeds"]))),
        ("Runs that diverged", str(result["failed"])),
        ("World", plain(result["recipe"]["base"]["world"])),
        ("Probes", ", ".join(f"{name} {version}" for name, version in result["probes"].items())),
        ("Analysis, engine", f"{result['analysis']}, {result['engine']}"),
        ("Commit", commit),
    ]


def figures(result: Mapping[str, Any]) -> Iterator[tuple[Drawn, str]]:
    """Figures with their captions."""
    alpha = result["alpha"]
    if null := result.get("null"):
        groups = []
        for n, of in null.items():
            rows = [(label(r), r["significant"]) for r in of["rows"] if r["primary"]]
            groups.append((f"{n} seeds", [("any primary, adjusted", of["significant"]), *rows]))
        caption = f"False positives at {alpha:g} where nothing differs"
        yield draw.dots(groups, name="null", title=caption, line=alpha), caption
    if power := result.get("power"):
        probes = list(dict.fromkeys(row["probe"] for row in power))
        curves = [(p, [(row["margins"], row["broken"]) for row in power if row["probe"] == p]) for p in probes]
        caption = f"Called broken by size of a known difference, {power[0]['seeds']} seeds"
        yield draw.power(curves, name="known", title=caption, axis="difference in margins"), caption
    for kind in dict.fromkeys(e["plant"] for e in result.get("planted") or []):
        of = [e for e in result["planted"] if e["plant"] == kind]
        curves = [
            (f"{n} seeds", [(e["size"], e["significant"]) for e in of if e["seeds"] == n]) for n in result["seeds"]
        ]
        caption = f"Planted {kind}: some primary contrast significant, by size"
        yield draw.power(curves, name=f"planted-{kind}", title=caption, axis=f"size of the {kind} plant"), caption
    if confounds := result.get("confounds"):
        groups = []
        for n in result["seeds"]:
            rows = [
                (f"{e['plant']} {e['size']:g}, equal {e['match']}" + ("" if e["adjusted"] else ", base left in"),
                 e["significant"]) for e in confounds if e["seeds"] == n
            ]  # fmt: skip
            groups.append((f"{n} seeds", rows))
        caption = "Confounds: some primary contrast significant, before and after adjustment"
        yield draw.dots(groups, name="confounds", title=caption, line=alpha), caption
    if coverage := result.get("coverage"):
        groups = [
            (f"{n} seeds", [(label(r), r["covered"]) for r in coverage if r["seeds"] == n and "." not in r["probe"]])
            for n in result["seeds"]
        ]
        caption = f"How often the {1 - alpha:.0%} interval holds the truth".replace("%", " %")
        yield draw.dots(groups, name="coverage", title=caption, line=1 - alpha, left=LEAST_COVERED), caption


def page(result: Mapping[str, Any]) -> str:
    """The page as HTML text, figures inside; the same result gives the same bytes."""
    from markupsafe import Markup

    shown = [
        {"svg": Markup(drawn.svg), "name": drawn.name, "caption": caption, "link": csv_link(drawn.csv)}
        for drawn, caption in figures(result)
    ]
    curves = [f for f in shown if str(f["name"]).startswith(("known", "planted"))]  # narrow: side by side
    return environment(Path(__file__).parent).get_template("page.html").render(
        lead=LEAD, facts=facts(result), figures=[f for f in shown if f not in curves], curves=curves,
        tables=list(tables(result)), tokens=TOKENS, words=(),
        failed=[c for c in result["checks"] if not c["holds"]], checks=len(result["checks"]),
    )  # fmt: skip


def markdown(result: Mapping[str, Any]) -> str:
    """The tables as Markdown."""
    lines = ["# Calibration", "", LEAD, ""]
    lines += ["Written by `parity calibrate` from calibration.json, beside which calibration.html has the figures.", ""]
    lines += [f"- **{name}**: {value}" for name, value in facts(result)]
    for table in tables(result):
        lines += ["", f"## {table.title}", "", table.note, ""]
        lines += [_row(table.head), _row(["---"] * len(table.head)), *(_row(row) for row in table.rows)]
    return "\n".join(lines) + "\n"


def _row(cells: Any) -> str:
    return "| " + " | ".join(str(cell).replace("|", "\\|") for cell in cells) + " |"
