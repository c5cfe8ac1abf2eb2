"""The benchmark: which parts, on what, and what came out, as one JSON value."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import recipes
from parity.bench.parts import PACKAGES, missing
from parity.plan import make_plan
from parity.progress import Progress, say
from recipes.load import load_recipe
from recipes.schema import Recipe
from recipes.store import write_json

SCHEMA = 1
KEPT = "bench.json"
RECIPES = Path(recipes.__file__).parent
SUITE = "large"  # the tier that holds every probe


@dataclass(frozen=True)
class Options:
    """What to measure and how often."""

    parts: tuple[str, ...]
    repeats: int = 5
    runs: tuple[int, ...] = (16, 32)
    seeds: int = 4  # of the whole verdict
    every: int = 5  # of real bases, each N-th choice: all of them would take the usual route half an hour a round
    out: Path = Path("checkpoints")  # where bases are kept
    world: Path = RECIPES / "quickstart.yaml"
    cards: Path = RECIPES / "gemma.yaml"  # whose scene is asked of real bases
    gemma: Path | None = None  # a folder with the model, instead of the package


def bench(options: Options) -> dict[str, Any]:
    """Measure the parts one after the other; what lacks a package is left out and said.

    What is known is also written to ``bench.json`` in `options.out` after every part, since all take most of an hour.
    """
    # Whatever is wrong with a recipe is said before anything heavy is imported.
    asked = {part: recipe_for(options, part) for part in options.parts}

    import torch

    from parity.bench.machine import describe, matmul_rate
    from parity.train import quiet

    quiet()
    machine = describe()
    threads = sorted({1, machine["default_threads"]})
    machine["matmul_flops_per_second"] = {str(t): matmul_rate(t) for t in threads}
    found: dict[str, Any] = {"schema": SCHEMA, "machine": machine, "repeats": options.repeats, "left_out": []}
    for part in options.parts:
        torch.set_num_threads(machine["default_threads"])
        why = missing(part, ["gemma"] if options.gemma else [])
        if why:
            say(f"{part} is left out: {why}")
            found["left_out"].append({"part": part, "why": why})
            continue
        head, _, rest = part.partition(".")
        entry = _measure(options, part, asked[part])
        if rest:
            found.setdefault(head, {})[rest] = entry
        else:
            found[head] = entry
        write_json(options.out / KEPT, found)
    return found


def _measure(options: Options, part: str, recipe: Recipe) -> dict[str, Any]:
    head, _, rest = part.partition(".")
    base = _base(recipe, options)
    if head == "score":
        from parity.bench.score import choices_of, score
        from recipes.scenes import scene_of

        small, scene = rest == "world", scene_of(recipe, 0)
        every = 1 if small else options.every
        with Progress(part, 2 * options.repeats) as progress:
            entry = score(base, choices_of(recipe, scene, every), options.repeats, small=small, tick=_ticks(progress))
            return entry | {"every": every}
    if head in ("sft", "dpo"):
        from parity.bench.training import compare

        by_runs = {}
        for runs in options.runs:
            with Progress(f"{part} of {runs} runs", 2 * options.repeats) as progress:
                by_runs[str(runs)] = compare(options.world, head, runs, base, options.repeats, _ticks(progress))
        return {"ratio": by_runs[str(options.runs[-1])]["ratio"], "runs": by_runs}
    if head == "verdict":
        from parity.bench import verdict

        with Progress(part, 2 * options.repeats) as progress:
            return verdict.compare(options.world, options.seeds, base, options.repeats, _ticks(progress))
    from parity.bench import growth

    sizes, grow = (growth.REQUESTS, growth.requests) if rest == "requests" else (growth.RUNS, growth.arms)
    with Progress(part, 2 * options.repeats * len(sizes)) as progress:
        return grow(options.world, base, options.repeats, _ticks(progress))


def recipe_for(options: Options, part: str) -> Recipe:
    """The recipe whose base a part measures; real bases are asked the whole suite about the same cards."""
    model = part.removeprefix("score.")
    if model not in PACKAGES:
        return load_recipe(options.world)
    base = (
        f"{{path: {options.gemma}}}" if model == "gemma" and options.gemma else f'{{gguf: "package:{PACKAGES[model]}"}}'
    )
    return load_recipe(options.cards, [f"base={base}", f"probes={SUITE}"])


def _base(recipe: Recipe, options: Options) -> Path:
    """The folder of the recipe's base, made in the store unless it is there."""
    import torch

    from parity.train import train

    plan = make_plan(recipe, options.out)
    threads = torch.get_num_threads()
    train(plan, [plan.base], options.world)
    torch.set_num_threads(threads)  # making a world takes one thread and leaves it so
    return plan.store.cell(plan.base.hash)


def _ticks(progress: Progress) -> Callable[[], None]:
    return lambda: progress.advance(1)
