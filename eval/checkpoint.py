"""The report of one checkpoint: a page that is a function of its rows, its texts and what it was."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from eval import describe, svg, texts
from eval.pages import csv_link, environment
from eval.probe import Probe
from eval.wording import visible

if TYPE_CHECKING:
    import polars as pl


def render(
    *,
    name: str,
    facts: Sequence[tuple[str, Any]],
    warnings: Sequence[str],
    probes: Sequence[Probe],
    lines: Sequence[Mapping[str, Any]],
    outcomes: Mapping[str, Mapping[str, Mapping[str, int]]],
    said: pl.DataFrame,
) -> str:
    """The page as HTML text; the same input gives the same bytes.

    `lines` as `describe.describe` makes them, `outcomes` as `describe.outcome_counts`, `said`: texts (see
    `eval.texts`).  Everything in them may be hostile.
    """

    columns = describe.heads(lines)
    told = [
        {
            "headline": line["headline"],
            "label": line["label"],
            "unit": line["unit"],
            "persona": line["persona"],
            "cells": describe.cells(line, columns),
            "n_items": line["checkpoint"]["n_items"] if line["checkpoint"] else None,
            "no_value": describe.no_value(line),
        }
        for line in lines
    ]
    groups = [("Headline measures", [r for r in told if r["headline"]]),
              ("Other measures of the probes", [r for r in told if not r["headline"]])]  # fmt: skip
    return (
        environment()
        .get_template("checkpoint.html")
        .render(
            name=name,
            caption=describe.CAPTION,
            facts=facts,
            warnings=warnings,
            based=any(key == "base" for key, _ in columns),
            groups=[group for group in groups if group[1]],
            columns=[(key, head.replace("\n", " ")) for key, head in columns],
            link=csv_link(svg.as_csv([_flat(line) for line in lines])),
            outcomes=[
                (arm, probe, ", ".join(f"{visible(kind)} {n}" for kind, n in kinds.items()))
                for arm, of in outcomes.items()
                for probe, kinds in of.items()
            ],
            glossary=[(p.name, f"{p.question} {_measures(p)}; source: {p.source}.") for p in probes],
            texts=texts.browser(said, []),
            script_hash=texts.script_hash(),
            words=(),
            tokens=svg.TOKENS,
        )
    )


def _measures(probe: Probe) -> str:
    return ", ".join(f"{m.name} in {m.unit}" for m in probe.measures)


def _flat(line: Mapping[str, Any]) -> dict[str, Any]:
    """A line as one level of columns."""
    found: dict[str, Any] = {key: line[key] for key in ("probe", "measure", "unit", "persona", "n_rows")}
    for key in ("checkpoint", "base", "gain", "lead", "prompted"):
        for part in ("mean", "low", "high", "n_items"):
            found[f"{key}_{part}"] = line[key][part] if line[key] else None
    return found | {"no_value": sum(line["outcomes"].values())}
