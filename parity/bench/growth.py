"""How both sides grow: with the number of runs that are trained, and of requests that are asked."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from eval.requests import Choice
from parity.bench.score import choices_of, score
from parity.bench.timing import OURS, USUAL, alternate, compared
from parity.bench.training import Work, scratch_folder
from recipes.load import load_recipe
from recipes.scenes import scene_of

REQUESTS = (64, 128, 256, 512, 1024, 2048, 4096, 8192)
RUNS = (1, 2, 4, 8, 16, 32, 64)
USUAL_RUNS = 4  # beyond, one by one takes as many times longer as there are more runs
SEEDS = 64  # of scenes that are looked through for distinct requests


def requests(
    path: Path, base: Path, repeats: int, tick: Callable[[], None] = lambda: None, sizes: tuple[int, ...] = REQUESTS
) -> dict[str, Any]:
    """Choices of the world's scenes, seed after seed, on its base: both sides by number of requests."""
    asked = distinct(path, max(sizes))
    return {str(n): score(base, asked[:n], repeats, small=True, tick=tick) for n in sizes if n <= len(asked)}


def distinct(path: Path, number: int) -> list[Choice]:
    """At most `number` distinct choices of the recipe's scenes."""
    recipe = load_recipe(path, [f"seeds={SEEDS}", "judge.claim=explore"])
    asked: dict[Choice, None] = {}
    for seed in range(SEEDS):
        if len(asked) >= number:
            break
        asked.update(dict.fromkeys(choices_of(recipe, scene_of(recipe, seed))))
    return list(asked)[:number]


def arms(
    path: Path, base: Path, repeats: int, tick: Callable[[], None] = lambda: None, sizes: tuple[int, ...] = RUNS
) -> dict[str, Any]:
    """The first stage of K runs in lockstep, and by TRL's trainer one by one up to `USUAL_RUNS`."""
    kind = load_recipe(path).stages[0].kind
    found = {}
    threads: dict[str, int] = {}
    for k in sizes:
        with scratch_folder() as scratch:
            work = Work(path, kind, k, base, scratch)
            threads = threads or {OURS: work.threads(False), USUAL: work.threads(True)}
            sides = {OURS: work.side(False, threads[OURS])}
            if k <= USUAL_RUNS:
                sides[USUAL] = work.side(True, threads[USUAL])
            alternate(sides, repeats, tick)
            found[str(k)] = compared(sides) if USUAL in sides else {OURS: sides[OURS].summary()}
    return found
