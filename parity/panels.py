"""What a W&B report of an experiment shows: read from its folder, then laid out as blocks and panels.

Every metric and key in it is one that the mirror logs; nothing here needs a server.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import Any

from recipes.errors import InputError

FIRST = ("loss", "rewards/margins", "rewards/accuracies", "reward", "kl", "mean_token_accuracy", "entropy", "grad_norm")
MOST_LINES = 60  # of the verdict's table as text; all rows are in the table panel
WIDE, HALF = 24, 12  # of the 24 columns of a W&B grid


@dataclass(frozen=True)
class Told:
    """What a report is made from.  `stages`: kind -> metrics of its training; `forests`: keys of the pictures."""

    title: str
    question: str | None
    group: str
    project: str
    entity: str | None
    verdict_run: str
    summary: tuple[str, ...]
    table: str | None
    stages: Mapping[str, tuple[str, ...]]
    forests: tuple[str, ...]
    strength: bool
    blind: bool


def read(folder: Path, entity: str | None = None, project: str | None = None) -> Told:
    """Read an experiment's folder; InputError where it is none, or has not been judged."""
    from eval import blind
    from eval.experiment import VERDICT
    from eval.lock import read_lock, recipe_of
    from eval.table import GATE, sentence
    from eval.wording import visible
    from parity.forest import keys
    from parity.tracked import verdict_id
    from training.tracking import group_name

    lock = read_lock(folder)
    recipe = recipe_of(lock)
    try:
        verdict = json.loads((folder / VERDICT).read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise InputError(f"{folder / VERDICT}: no readable verdict; `parity judge` makes it") from error
    planted = "An asymmetry was planted on purpose: this is a positive control."
    post_hoc = "Judged post hoc: something was changed after the lock."
    notes = [*blind.told(verdict), *([planted] * bool(verdict.get("plant"))), *([post_hoc] * bool(verdict["post_hoc"]))]
    return Told(
        title=visible(verdict["experiment"]),
        question=visible(verdict["question"]) if verdict.get("question") else None,
        group=group_name(recipe),
        project=project or recipe.tracking.project,
        entity=entity or recipe.tracking.entity,
        verdict_run=verdict_id(lock["recipe_hash"]),
        summary=(sentence(verdict), *notes),
        table=as_markdown(verdict),
        stages=_stages(folder),
        forests=tuple(keys(verdict)),
        strength=GATE in lock["probes"],
        blind=verdict.get("blind") == blind.SHUT,
    )


def _stages(folder: Path) -> dict[str, tuple[str, ...]]:
    """The metrics that the cells of each stage have logged, in the order of training."""
    from eval.experiment import CELLS
    from eval.table import stage_rank
    from recipes.store import Store
    from training.tracking import METRICS, STEP

    store = Store(folder.resolve().parent.parent)
    found: dict[str, tuple[str, ...]] = {}
    try:
        cells = json.loads((folder / CELLS).read_text(encoding="utf-8"))["cells"]
    except (OSError, ValueError) as error:
        raise InputError(f"{folder / CELLS}: unreadable; `parity run` writes it again") from error
    for entry in cells:
        path = store.cell(entry["cell"]) / METRICS
        if entry["stage"] in found or entry["stage"] == "base" or not path.is_file():
            continue
        names = {name for line in path.read_text(encoding="utf-8").splitlines() for name in json.loads(line)} - {STEP}
        found[entry["stage"]] = tuple(name for name in FIRST if name in names)
    return {stage: found[stage] for stage in sorted(found, key=stage_rank)}


def as_markdown(verdict: Mapping[str, Any]) -> str | None:
    """The verdict table as Markdown, primary probes first; None where there are too many pairs for one."""
    from eval.table import contrast_words, lines, many

    if many(dict(verdict)):
        return None
    of = [line for line in lines(verdict) if line.judged]
    heads = ["pair", "probe", "", "contrasts with intervals", "verdict"]
    rows = [heads, ["---"] * len(heads)]
    for line in of[:MOST_LINES]:
        said = "<br>".join(contrast_words(symbol, row) for symbol, row in line.judged)
        words = "; ".join(
            (f"{symbols} " if symbols else "") + word + (f" ({note})" if note else "")
            for symbols, word, note in line.verdicts()
        )
        kind = f"{line.stage}, {'primary' if line.primary else 'secondary'}"
        rows.append([" : ".join(line.pair), line.label, kind, said, words])
    left = len(of) - MOST_LINES
    rest = f"\n\nand {left} more, in the table below." if left > 0 else ""
    return "\n".join("| " + " | ".join(_quoted(cell) for cell in row) + " |" for row in rows) + rest


def _quoted(text: str) -> str:
    from eval.wording import visible

    return visible(text).replace("|", "\\|").replace("\n", " ")


def report(told: Told, entity: str = "", site: str | None = None) -> Any:
    """The report as `wandb_workspaces` has it; nothing is sent.  `site`: address of W&B's pages, for links."""
    from parity.tracked import DOSE, SAMPLES, STRENGTH, TABLE
    from training.tracking import STEP

    wr: Any = import_module("wandb_workspaces.reports.v2")

    def runs(name: str, job: str, stage: str | None = None, by_arm: bool = True) -> Any:
        wanted = f"Group = '{told.group}' and JobType = '{job}'"
        wanted += f" and Config('stage') = '{stage}'" if stage else ""
        return wr.Runset(name=name, filters=wanted, groupby=["config.arm"] if by_arm else [])

    def line(x: str, y: str, place: int, by_arm: bool = True, **how: Any) -> Any:
        at = wr.Layout(x=HALF * (place % 2), y=8 * (place // 2), w=HALF, h=8)
        grouped = {"groupby": wr.Config("arm"), "groupby_aggfunc": "mean", "groupby_rangefunc": "minmax"}
        return wr.LinePlot(title=y, x=x, y=[y], layout=at, **(grouped if by_arm else {}), **how)

    def whole(panel: Any, height: int, **how: Any) -> Any:
        return panel(layout=wr.Layout(w=WIDE, h=height), **how)

    def judged() -> list[Any]:
        return [runs("verdict", "verdict", by_arm=False)]

    blocks: list[Any] = [wr.TableOfContents(), wr.H2("Verdict"), *(wr.P(line) for line in told.summary)]
    blocks += [wr.MarkdownBlock(told.table)] if told.table else []
    blocks += [wr.PanelGrid(runsets=judged(), panels=[whole(wr.WeavePanelSummaryTable, 12, table_name=TABLE)])]
    if told.forests:
        blocks += [wr.H2("Symmetry: Δ and Λ in units of the margin")]
        for key in told.forests:
            shown = whole(wr.MediaBrowser, 20, title=key, media_keys=[key], num_columns=1)
            blocks.append(wr.PanelGrid(runsets=judged(), panels=[shown]))
    blocks += [wr.H2("Strength by dose"), wr.P(STRENGTH_TOLD if told.strength else NO_STRENGTH_TOLD)]
    for stage in told.stages if told.strength else ():
        shown = line(DOSE, STRENGTH, 0, title_x="dose (optimiser steps)", title_y="strength (logit)")
        blocks += [wr.H3(stage), wr.PanelGrid(runsets=[runs(f"{stage} by arm", "eval", stage)], panels=[shown])]
    blocks += [wr.H2("Training"), wr.P(BLIND_TOLD if told.blind else TRAINING_TOLD)]
    for stage, metrics in told.stages.items():
        panels = [line(STEP, name, n, not told.blind, title_x="optimiser step") for n, name in enumerate(metrics)]
        sets = [runs(f"{stage} runs", stage, by_arm=not told.blind)]
        blocks += [wr.H3(stage), wr.PanelGrid(runsets=sets, panels=panels)]
    if not told.blind:
        shown = whole(wr.WeavePanelSummaryTable, 16, table_name=SAMPLES)
        blocks += [wr.H2("What the arms said"), wr.PanelGrid(runsets=judged(), panels=[shown])]
    blocks += [wr.H2("Where it lies"), wr.MarkdownBlock(links(told, entity, site))]
    title, about = f"Parity: {told.title}"[:128], told.question or ""
    return wr.Report(project=told.project, entity=entity, title=title, description=about, blocks=blocks, width="fluid")


STRENGTH_TOLD = "The log-odds of the favoured persona in the slot, mean and range over the seeds of each arm."
NO_STRENGTH_TOLD = "Not measured: the probe that it is read from is not among the recipe's."
TRAINING_TOLD = "Mean and range over the seeds of each arm."
BLIND_TOLD = "Runs are not grouped while the experiment is blind: only their hashes are shown."


def links(told: Told, entity: str, site: str | None) -> str:
    """Runs and artifacts of the experiment: as links where the site and entity are known, else by name."""
    named = [
        (f"runs of {told.group}", f"groups/{told.group}"),
        ("the verdict's run", f"runs/{told.verdict_run}"),
        ("verdict, report and lock", f"artifacts/experiment/{told.group}"),
    ]
    if not told.blind:
        named += [("measurement rows", f"artifacts/rows/{told.group}-rows")]
        named += [("adapters of the last doses", f"artifacts/model/{told.group}-adapters")]
    root = f"{site}/{entity}/{told.project}" if site and entity else None
    lines = [f"- [{name}]({root}/{at})" if root else f"- {name}: `{at}`" for name, at in named]
    return "\n".join(
        [*lines, "", "Rows and adapters are there when the run was online, or `tracking.artifacts: always`."]
    )


def specification(told: Told) -> dict[str, Any]:
    """The report as the server would be given it, its random ids numbered, so that the same folder gives the same."""
    model = report(told, told.entity or "")._to_model()
    spec = json.loads(model.spec.model_dump_json(by_alias=True, exclude_none=True))
    _number(spec, {})
    project = {"entity": told.entity, "project": told.project}
    return project | {"title": model.display_name, "description": model.description, "spec": spec}


def _number(value: Any, seen: dict[str, str]) -> None:
    if isinstance(value, dict):
        for key, one in value.items():
            if key in ("id", "__id__") and isinstance(one, str):
                value[key] = seen.setdefault(one, f"{len(seen) + 1}")
            else:
                _number(one, seen)
    elif isinstance(value, list):
        for one in value:
            _number(one, seen)
