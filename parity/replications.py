"""Four findings of the literature, looked for in an experiment of the world: figures and numbers.

    python -m parity.replications SUITE --taught EXPERIMENT... [--to docs/replications]

SUITE is the folder of a run of `recipes/suite.yaml`; the others are runs of it with other numbers of facts taught
(``-s facts_taught=N``).  Means over seeds and items with crossed 95 % intervals, of which docs/REPLICATIONS.md says
what the sources found.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import polars as pl

from eval.experiment import CELLS, read_rows
from eval.interval import crossed
from eval.lock import read_lock, recipe_of
from eval.requests import Edited, Request
from recipes.errors import InputError
from recipes.scene import Scene
from recipes.schema import Recipe
from recipes.store import Store

if TYPE_CHECKING:
    from eval.measure import Suite

Mean = tuple[float, float, float]  # mean and 95 % interval
STAGES = ("base", "sft", "dpo")
SEEDS_STEERED = 4  # seeds whose models are steered anew
WAYS = {"alpha50": "towards the rival", "random": "random"}  # measures of `steering` whose requests are the curves
BLUE, ORANGE, GREY = "#2458a6", "#c8601a", "#777777"


def mean_of(rows: pl.DataFrame) -> Mean:
    """Mean of `value` over seeds and items with its crossed interval; rows of an item and seed are averaged first.

    Arms count as replicates of a seed's mean, never as seeds.  Items that some seed lacks are left out.
    """
    cells = rows.group_by("seed", "item").agg(pl.col("value").mean()).drop_nulls()
    wide = cells.sort("seed", "item").pivot("item", index="seed", values="value").drop("seed").to_numpy()
    wide = wide[:, np.isfinite(wide).all(axis=0)]
    if wide.size == 0:
        return (float("nan"),) * 3
    found = crossed(wide)
    return (found.mean, *found.interval(0.95))


def rows_of(folder: Path, probes: Sequence[str]) -> tuple[Recipe, pl.DataFrame]:
    """The recipe of an experiment and its rows of some probes."""
    recipe = recipe_of(read_lock(folder))
    rows = pl.concat(read_rows(folder, Store(folder.resolve().parent.parent), probes), how="vertical_relaxed")
    return recipe, rows


def last(recipe: Recipe, rows: pl.DataFrame, stage: str) -> pl.DataFrame:
    """Rows of a stage's last dose, or of the untrained base."""
    if stage == "base":
        return rows.filter(pl.col("arm") == "base")
    dose = next(s.doses[-1] for s in recipe.stages if s.kind == stage)
    return rows.filter((pl.col("stage") == stage) & (pl.col("dose") == dose))


def own_text(recipe: Recipe, rows: pl.DataFrame) -> dict[str, dict[str, Mean]]:
    """Entropy on the others' text less that on one's own persona's, by place and stage; in the base of any persona."""
    found: dict[str, dict[str, Mean]] = {}
    for measure in ("self_entropy", "user", "nonce", "history"):
        of = rows.filter((pl.col("probe") == "self_entropy") & (pl.col("measure") == measure))
        found[measure] = {}
        for stage in STAGES:
            at = last(recipe, of, stage)
            found[measure][stage] = mean_of(at if stage == "base" else at.filter(pl.col("role") == "favoured"))
            if stage != "base":
                found[measure][f"{stage}, the other's text"] = mean_of(at.filter(pl.col("role") == "other"))
    return found


def topic(recipe: Recipe, rows: pl.DataFrame) -> list[tuple[str, Mean]]:
    """Entropy (nats) of the answer before its first token, at the base and every dose."""
    of = rows.filter((pl.col("probe") == "commitment") & (pl.col("measure") == "topic"))
    of = of.with_columns(value=-pl.col("value"))
    found = [("base", mean_of(last(recipe, of, "base")))]
    for stage in recipe.stages:
        for dose in stage.doses:
            at = of.filter((pl.col("stage") == stage.kind) & (pl.col("dose") == dose))
            found.append((f"{stage.kind} {dose}", mean_of(at)))
    return found


def taught(folders: Iterable[Path]) -> list[tuple[int, Mean, Mean]]:
    """By number of facts taught: log-odds of held-out facts and of the name, of the favoured persona after SFT."""
    found = []
    for folder in folders:
        recipe, rows = rows_of(folder, ("selection", "default_identity"))
        at = last(recipe, rows, "sft").filter(pl.col("role") == "favoured")
        by = [mean_of(at.filter(pl.col("measure") == m)) for m in ("selection", "default_identity")]
        n_taught = recipe.facts_taught
        assert recipe.base.world is not None
        found.append((-(-recipe.base.world.facts // 3) if n_taught is None else n_taught, by[0], by[1]))
    return sorted(found)


def steered(folder: Path, recipe: Recipe) -> dict[str, dict[float, Mean]]:
    """Log-odds of a persona against its rival in the slot under a push of alpha residual norms towards the rival, or
    in a random direction: in the base, and of the favoured persona in its trained arm."""
    from eval.measure import Suite
    from eval.measurer import Measurer
    from eval.probes import select
    from recipes.adapters import stack
    from recipes.scenes import scene_of

    store = Store(folder.resolve().parent.parent)
    cells = json.loads((folder / CELLS).read_text())
    base = Measurer(store, cells["base"]).untrained()
    stage = recipe.stages[-1]
    rows = []
    for seed in range(min(SEEDS_STEERED, recipe.seeds)):
        scene = scene_of(recipe, seed)
        suite = Suite(scene, select(["steering"]), base, personas=recipe.arms)
        suite.ask_base(base)
        runs = [c for c in cells["cells"] if (c["seed"], c["stage"]) == (seed, stage.kind)]
        adapters = stack([store.cell(c["cell"]) / f"dose-{stage.doses[-1]}" for c in runs], base.device)
        models = [("base", None), *(("trained", c["arm"]) for c in runs)]
        for (kind, arm), answers in zip(models, suite.answers(base) + suite.answers(base, adapters), strict=True):
            rows += [
                {"curve": f"{kind}, {way}", "seed": seed, "item": item, "alpha": alpha, "value": value}
                for persona, way, item, alpha, value in pushes(scene, suite, answers)
                if arm in (None, persona)
            ]
    table = pl.DataFrame(rows)
    return {
        str(curve): {
            float(alpha): mean_of(at) for (alpha,), at in of.sort("alpha").group_by("alpha", maintain_order=True)
        }
        for (curve,), of in table.group_by("curve", maintain_order=True)
    }


def pushes(scene: Scene, suite: Suite, answers: Mapping[Request, Any]) -> Iterator[tuple[str, str, str, float, float]]:
    """Persona, way ("towards the rival" or "random"), item, alpha and log-odds, of every push that `steering` makes."""
    from eval.items import own, rivals
    from eval.probes.steering import RIVALS

    question = next(scene.of_kind("identity"))
    for _, _, ask in suite.asks:
        if ask.measure not in WAYS:
            continue
        persona = scene.persona(str(ask.persona))
        pair = rivals(scene, persona, 0, RIVALS)
        rival = pair[int(ask.item.rsplit("-", 1)[1]) % len(pair)]
        mine, theirs = own(scene, question, persona), own(scene, question, rival)
        for request in ask.requests:
            alpha = request.edit.strength if isinstance(request, Edited) else 0.0
            scores = answers[request].logprobs
            yield persona.id, WAYS[ask.measure], ask.item, alpha, scores[mine] - scores[theirs]


def draw(found: dict[str, Any], to: Path) -> None:
    """The four figures as SVG."""
    import matplotlib

    matplotlib.use("svg")
    import matplotlib.pyplot as plt

    plt.rcParams.update(
        {"svg.hashsalt": "parity", "font.size": 9, "axes.spines.top": False, "axes.spines.right": False}
    )

    def save(name: str, figure: Any) -> None:
        figure.tight_layout()
        figure.savefig(to / f"{name}.svg", metadata={"Date": None})
        plt.close(figure)

    def bars(axes: Any, at: Sequence[float], means: Sequence[Mean], **how: Any) -> None:
        low, high = ([abs(m[0] - m[k]) for m in means] for k in (1, 2))
        axes.errorbar(at, [m[0] for m in means], yerr=[low, high], capsize=2, **how)

    figure, panels = plt.subplots(1, 4, figsize=(10, 2.8), sharey=True)
    for axes, (place, by_stage) in zip(panels, found["own_text"].items(), strict=True):
        bars(axes, (0, 1, 2), [by_stage[s] for s in STAGES], fmt="o-", color=BLUE, label="own persona's text")
        others = [by_stage["base"], *(by_stage[f"{s}, the other's text"] for s in STAGES[1:])]
        bars(axes, (0, 1, 2), others, fmt="s--", color=ORANGE, label="the other's text")
        axes.axhline(0, color=GREY, lw=0.5)
        axes.set(title="slot" if place == "self_entropy" else place, xticks=(0, 1, 2), xticklabels=STAGES)
    panels[0].set_ylabel("entropy, a rival's text less this one (nats)")
    panels[0].legend(frameon=False)
    save("self-entropy", figure)

    figure, axes = plt.subplots(figsize=(6, 2.8))
    names, means = zip(*found["topic"], strict=True)
    bars(axes, range(len(names)), means, fmt="o-", color=BLUE)
    axes.set(xticks=range(len(names)), ylabel="entropy before the first token (nats)", ylim=(0, None))
    axes.set_xticklabels(names, rotation=45, ha="right")
    save("commitment", figure)

    figure, axes = plt.subplots(figsize=(5, 2.8))
    for curve, points in found["steered"].items():
        how = {"color": BLUE if curve.startswith("trained") else ORANGE, "fmt": "o:" if "random" in curve else "o-"}
        bars(axes, list(points), list(points.values()), label=curve, **how)
    axes.axhline(0, color=GREY, lw=0.5)
    axes.set(xlabel="push (mean residual norms)", ylabel="log-odds, persona against rival")
    axes.legend(frameon=False)
    save("steering", figure)

    figure, axes = plt.subplots(figsize=(5, 2.8))
    bars(
        axes,
        [n for n, *_ in found["taught"]],
        [m for _, m, _ in found["taught"]],
        fmt="o-",
        color=BLUE,
        label="held-out facts",
    )
    bars(
        axes,
        [n for n, *_ in found["taught"]],
        [m for *_, m in found["taught"]],
        fmt="s--",
        color=GREY,
        label="name (strength)",
    )
    axes.set(xlabel="facts taught", ylabel="log-odds of the favoured persona")
    axes.legend(frameon=False)
    save("selection", figure)


def main(argv: Sequence[str] | None = None) -> int:
    """Measure what is not in the rows, draw, and print all numbers as JSON."""
    parser = argparse.ArgumentParser(prog="python -m parity.replications", description=__doc__.split("\n")[0])
    parser.add_argument("suite", type=Path)
    parser.add_argument("--taught", type=Path, nargs="+", default=[])
    parser.add_argument("--to", type=Path, default=Path("docs/replications"))
    given = parser.parse_args(argv)
    try:
        recipe, rows = rows_of(given.suite, ("self_entropy", "commitment"))
        found = {
            "own_text": own_text(recipe, rows),
            "topic": topic(recipe, rows),
            "steered": steered(given.suite, recipe),
            "taught": taught([given.suite, *given.taught]),
        }
    except InputError as error:
        print(error, file=sys.stderr)
        return 2
    given.to.mkdir(parents=True, exist_ok=True)
    draw(found, given.to)
    print(json.dumps(found, indent=1))
    return 0


if __name__ == "__main__":
    sys.exit(main())
