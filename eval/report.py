"""The report of an experiment: one HTML file that is a function of the verdict, the rows, the samples and the lock.

Text in it was written by models and is hostile until escaped: Jinja's autoescape is on, every string passes
`visible` on its way out, and the page forbids requests and all scripts but its own browser of texts (`eval.texts`).
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from eval import apart, blind, crowd, figures, hypotheses, ledger, overview, summary, svg, table, texts, wording
from eval.calibration import cited
from eval.castpage import section as cast_section
from eval.gather import Gathered
from eval.many import pairs_told
from eval.pages import csv_link, environment
from eval.table import GATE, Line, stage_rank
from eval.wording import DASH, interval, number, plain, probability, visible

if TYPE_CHECKING:
    import polars as pl

EMPTY: dict[str, Any] = dict.fromkeys(("experiment", "question", "recipe_hash", "commit", "dirty", "base", "plant"))
EMPTY |= {"verdict": "undetermined", "rows": [], "arms": [], "seeds": [], "post_hoc": [], "losses": [], "versions": {}}
EMPTY |= {"blind": None, "hypotheses": []}


def render(
    *,
    verdict: dict,
    rows: pl.DataFrame | Gathered,
    samples: pl.DataFrame,
    lock: dict,
    matching: list[dict],
    headlines: Mapping[str, str] | None = None,
) -> str:
    """The whole report as HTML text; the same input gives the same bytes.

    `rows` follow the measurement schema or are what was gathered of them, `samples` are texts that models wrote (arm,
    seed, stage, dose, item or question, prompt, text, finish; probe, persona, slot and outcome where known), `matching`
    one dict per thing that was matched (what, a value per arm, equal).  Any of them may be empty.
    `headlines` (probe -> measure) says which measure is judged under the probe's own name; by default it is the one
    that the verdict does not name as ``probe.measure``.
    """
    from markupsafe import Markup

    verdict = EMPTY | verdict
    arms = [str(a) for a in verdict["arms"] or []]
    many = table.many(verdict)
    alone = many or len(arms) > overview.MOST_ARMS  # the first arm is drawn among the others
    made: dict[str, Any] = {}

    def show(drawn: svg.Drawn, caption: str) -> dict[str, Any]:
        return {"svg": Markup(drawn.svg), "name": drawn.name, "link": csv_link(drawn.csv), "caption": caption}

    means = rows.means if isinstance(rows, Gathered) else summary.means(rows)
    counted = rows.outcomes if isinstance(rows, Gathered) else summary.outcome_counts(rows)
    heads = dict(headlines or summary.headlines(verdict, means))
    count = iter(range(1, 10**6))
    lines = table.lines(verdict)
    made["pairs"], made["many"] = [], None
    if many:
        made["many"] = overview.pairs(verdict, lines, show, lambda label: _name(count, label), _levels(lines))
    else:
        made["pairs"] = [_pair(pair, lines, verdict, show, count) for pair in dict.fromkeys(ln.pair for ln in lines)]
    made["cast"] = cast_section(verdict, show, lambda label: _name(count, label))
    first = [GATE, *dict.fromkeys(ln.probe for ln in lines if ln.primary)]
    made |= _curves(means, arms, heads, first, show, count, alone)
    made["references"] = summary.references(means, arms, heads)
    made["samples"] = summary.answers(overview.sampled(samples, arms) if alone else samples, arms)
    made["texts"], made["script_hash"] = texts.browser(samples, arms), texts.script_hash()
    made["outcomes"], made["gaps"] = summary.outcomes(counted, arms)
    made["matching"] = [
        {"what": m.get("what"), "cells": [plain(m.get(a)) for a in arms], "equal": m.get("equal")} for m in matching
    ]
    if alone:
        made["references"] = overview.references(made["references"], arms)
        made["outcomes"], made["gaps"] = overview.outcomes(made["outcomes"]), made["gaps"][: overview.MOST_NOTES]
        made["matching"] = overview.matching(matching, arms)
    made["ledger"] = [] if many else [ledger.cells(r) for r in sorted(verdict["rows"] or [], key=ledger.order)]
    made["ledger_link"] = csv_link(svg.as_csv(ledger.flat(verdict)), packed=many)
    made["losses"] = overview.notes(_items(verdict["losses"]))
    made["settings"] = list(_flat(lock))
    return (
        environment()
        .get_template("template.html")
        .render(
            v=verdict,
            arms=arms,
            sentence=_told(verdict),
            words=wording.VERDICTS,
            tokens=svg.TOKENS,
            arm_tones=[figures.arm_tone(n) for n in range(len(arms))],
            facts=_facts(verdict),
            calibration=cited(verdict),
            warnings=list(_warnings(verdict)),
            reading=wording.read_how(verdict),
            base=_given(verdict.get("base")),
            items=_items,
            failures=wording.failures(verdict),
            alone=alone,
            fewest=_fewest(verdict),
            equivalence=f"{100 - 200 * (verdict.get('alpha') or 0.05):.3g} %",
            gate=GATE,
            told=hypotheses.shown(verdict["hypotheses"]),
            apart=apart.shown(verdict),
            **made,
        )
    )


def _name(count: Iterator[int], label: str) -> str:
    return f"figure-{next(count)}-{re.sub('[^a-z0-9]+', '-', label.lower()).strip('-')[:40]}"


def _curves(
    means: pl.DataFrame, arms: list[str], heads: Mapping[str, str], first: list[str], show: Any, count: Iterator[int],
    alone: bool,
) -> dict[str, Any]:  # fmt: skip
    """Figures by dose: strength, each probe's headline (the gate and primary ones `first`), all other measures."""
    made: dict[str, Any] = {"strength": None, "probes": [], "others": []}
    told = sorted(summary.curves(means, arms), key=lambda c: (c[0][0] not in first, c[0][0] != GATE, c[0]))
    for (probe, measure, unit), points, prompted in told:
        head = heads.get(probe) == measure
        label = probe if head else f"{probe}.{measure}"
        title = f"{visible(label)} by dose"
        draw: Any = crowd.cloud if alone else figures.doses
        drawn = draw(points, name=_name(count, label), title=title, unit=unit, arms=arms)
        made["probes" if head else "others"].append(show(drawn, label) | {"unit": unit})
        if head and probe == GATE:
            points = [p for p in points if p["who"] == "own"]
            how: dict[str, Any] = {"unit": unit, "arms": arms, "wide": True}
            how |= {"level": prompted.get(arms[0])} if alone else {"levels": prompted}
            drawn = draw(points, name=_name(count, "strength"), title="Strength by dose", **how)
            made["strength"] = show(drawn, "Strength by dose")
    return made


def _pair(
    pair: tuple[str, str], lines: Sequence[Line], verdict: Mapping, show: Any, count: Iterator[int]
) -> dict[str, Any]:
    of = [ln for ln in lines if ln.pair == pair]
    reading = wording.read_how(verdict)
    drawn = []
    for stage in sorted({ln.stage for ln in of}, key=stage_rank):
        plotted = [ln for ln in of if ln.stage == stage and ln.probe != GATE]
        if plotted:
            title = f"Δ and Λ of {visible(pair[0])} and {visible(pair[1])} after {visible(stage)}, {reading}"
            drawn.append(
                show(
                    figures.forest(plotted, name=_name(count, f"effects-{stage}"), title=title),
                    f"After {visible(stage)}, {reading}, {_levels(of)}",
                )
            )
    groups = [
        ("Primary", [_cells(ln) for ln in of if ln.primary]),
        ("Secondary, exploratory", [_cells(ln) for ln in of if not ln.primary and ln.probe != GATE]),
        ("Strength itself, at equal dose", [_cells(ln) for ln in of if ln.probe == GATE]),
    ]
    return {
        "a": pair[0],
        "c": pair[1],
        "direction": table.direction(pair),
        "forests": drawn,
        "groups": [g for g in groups if g[1]],
    }


def _levels(lines: Iterable[Line]) -> str:
    levels = sorted({r["level"] for ln in lines for r in ln.rows.values() if r.get("level")})
    return "/".join(f"{100 * x:.0f}" for x in levels) + " % intervals"


def _cells(line: Line) -> dict[str, Any]:
    contrasts = [line.rows.get(c) for c in ("T", "delta", "lambda")]
    return {
        "label": line.label,
        "stage": line.stage,
        "unit": line.any.get("unit"),
        "size": table.size(line.any),
        "contrasts": [r and _number(r) for r in contrasts],
        "margin": table.margin(line.any),
        "share": number(line.any.get("share"), sign=True),
        "share_interval": interval(line.any.get("share_low"), line.any.get("share_high")),
        "p": [(s, probability(r.get("p_adjusted"))) for s, r in line.judged],
        "verdicts": line.verdicts(),
        "seen": line.seen(),
    }


def _number(row: Mapping[str, Any]) -> tuple[str, str]:
    return number(row.get("estimate"), sign=True), interval(row.get("low"), row.get("high"))


def _flat(value: Any, at: str = "") -> Iterator[tuple[str, str]]:
    """Settings as (dotted path, value); lists of plain values stay together."""
    if isinstance(value, Mapping) and value:
        for key in sorted(value, key=str):
            yield from _flat(value[key], f"{at}.{key}" if at else str(key))
    elif isinstance(value, (list, tuple)) and any(isinstance(v, (Mapping, list, tuple)) for v in value):
        for n, one in enumerate(value):
            yield from _flat(one, f"{at}[{n}]")
    elif at:
        yield at, plain(value)


def _items(value: Any) -> list[str]:
    """A list, a dict or one thing as lines of text."""
    if not value:
        return []
    if isinstance(value, Mapping):
        return [f"{visible(k)}: {plain(v)}" for k, v in sorted(value.items(), key=lambda x: str(x[0]))]
    return [plain(v) for v in (value if isinstance(value, (list, tuple)) else [value])]


def _given(value: Any) -> str:
    """A dict of which only some keys are filled, such as a base or a plant."""
    return plain({k: v for k, v in value.items() if v is not None} if isinstance(value, Mapping) else value)


def _told(verdict: dict) -> str:
    """The sentence without its first word, which stands above it in large type."""
    body = table.sentence(verdict).split(": ", 1)[1]
    return body[0].upper() + body[1:]


def _seeds(verdict: Mapping[str, Any]) -> int:
    seeds = verdict.get("seeds") or 0
    return seeds if isinstance(seeds, int) else len(seeds)


def _fewest(verdict: Mapping[str, Any]) -> str:
    """The smallest p that exact two-sided sign flips over the seeds can give."""
    most = min(_seeds(verdict), 17)  # above 16 seeds 2^16 of the sign vectors are drawn
    return probability(2 / 2**most) if most else DASH


def _facts(verdict: Mapping[str, Any]) -> list[tuple[str, str]]:
    named = dict.fromkeys(ln.pair for ln in table.lines(verdict))
    pairs = [pairs_told(list(named))] if table.many(verdict) else [" : ".join(map(visible, pair)) for pair in named]
    stages = sorted({str(r["stage"]) for r in verdict.get("rows") or []}, key=stage_rank)
    return [
        ("Pairs", plain(pairs)),
        ("Seeds", f"{_seeds(verdict)} (smallest possible p {_fewest(verdict)})"),
        *wording.looks(verdict),
        ("Stages", " → ".join(map(visible, stages)) or DASH),
        ("Read", wording.read_how(verdict)),
        ("α", plain(verdict.get("alpha"))),
        ("Base", _given(verdict.get("base"))),
        ("Recipe", plain(verdict.get("recipe_hash"))[:12]),
        ("Commit", plain(verdict.get("commit"))[:12]),
    ]


def _warnings(verdict: Mapping[str, Any]) -> Iterable[str]:
    yield from blind.told(verdict)
    if verdict.get("plant"):
        yield f"An asymmetry was planted on purpose ({_given(verdict['plant'])}): this is a positive control."
    yield from wording.failures(verdict, 6)
    if verdict.get("post_hoc"):
        yield "Judged post hoc: something was changed after the lock. The differences are listed under Settings."
    if verdict.get("losses"):
        yield f"Something was lost on the way ({len(_items(verdict['losses']))} notes): see Settings."
    if verdict.get("dirty"):
        yield "The code had uncommitted changes when this was judged."
