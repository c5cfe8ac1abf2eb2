"""Training: this lab's lockstep against TRL's trainer, one run after the other; each side in one process.

Every round begins in a fresh folder that holds the base (and, for a later stage, the stages before it), and ends when
the adapters of all doses are written.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from parity.bench.score import fastest
from parity.bench.timing import OURS, USUAL, Side, alternate, compared
from parity.train import GROUP, Making, make_group, make_inline
from recipes.load import load_recipe
from recipes.schema import Recipe
from recipes.store import Store
from training.cells import Cell, base_cell, stage_cells


def recipe_of(path: Path, runs: int) -> Recipe:
    """The recipe with as many seeds as `runs` runs need."""
    arms = len(load_recipe(path).arms)
    return load_recipe(path, [f"seeds={-(-runs // arms)}", "judge.claim=explore", "launch.backend=lockstep"])


def cells_of(recipe: Recipe, index: int, runs: int) -> list[Cell]:
    """Stage `index` of the first `runs` runs."""
    return [cell for cell in stage_cells(recipe) if cell.stage == index][:runs]


class Work:
    """A stage of some runs, to be made again and again in a folder of its own."""

    def __init__(self, path: Path, kind: str, runs: int, base: Path, scratch: Path) -> None:
        """`base`: the folder of the recipe's base cell."""
        self.path = path
        self.recipe = recipe_of(path, runs)
        index = next(i for i, stage in enumerate(self.recipe.stages) if stage.kind == kind)
        self.cells = cells_of(self.recipe, index, runs)
        self.parents, self.root = scratch / f"{kind}-{runs}-parents", scratch / f"{kind}-{runs}"
        shutil.copytree(base, Store(self.parents).cell(base_cell(self.recipe).hash))
        for before in range(index):
            self.lockstep(cells_of(self.recipe, before, runs), self.parents)

    def fresh(self) -> None:
        """An empty store but for what the stage starts from."""
        shutil.rmtree(self.root, ignore_errors=True)
        shutil.copytree(self.parents, self.root)

    def lockstep(self, cells: Sequence[Cell], root: Path) -> None:
        """This lab's side, group after group.  `parity run` gives the groups of a small base a process a core."""
        for start in range(0, len(cells), GROUP):
            make_group(Making(self.recipe, root, self.path), cells[start : start + GROUP], lambda steps: None)

    def one_by_one(self, cells: Sequence[Cell], root: Path) -> None:
        """The usual side: TRL's trainer for each."""
        for cell in cells:
            make_inline(self.recipe, cell, Store(root))

    def side(self, usual: bool, threads: int) -> Side:
        """A side whose result is the folder that it fills, kept until the next round of either."""
        work = self.one_by_one if usual else self.lockstep
        return Side(lambda: work(self.cells, self.root), threads, self.fresh)

    def threads(self, usual: bool) -> int:
        """With how many threads a side is fastest here, by a trial: of one run, or of a group of them."""
        import torch

        def trial() -> None:
            self.fresh()
            if usual:
                self.one_by_one(self.cells[:1], self.root)
            else:
                self.lockstep(self.cells[:GROUP], self.root)

        best, _ = fastest({(t,): trial for t in sorted({1, torch.get_num_threads()})})
        return best[0]

    def adapters(self) -> list[dict[str, Any]]:
        """The last adapter of every run in the folder as it is now."""
        from safetensors.torch import load_file

        folders = [Store(self.root).cell(c.hash) / f"dose-{c.spec['doses'][-1]}" for c in self.cells]
        return [load_file(folder / "adapter_model.safetensors") for folder in folders]


def compare(
    path: Path, kind: str, runs: int, base: Path, repeats: int, tick: Callable[[], None] = lambda: None
) -> dict[str, Any]:
    """Both sides on one stage of `runs` runs, with the largest difference between their adapters' weights."""
    with scratch_folder() as scratch:
        work = Work(path, kind, runs, base, scratch)
        sides = {name: work.side(usual, work.threads(usual)) for name, usual in ((OURS, False), (USUAL, True))}
        adapters: dict[str, list[dict[str, Any]]] = {}
        for name, side in sides.items():
            side.after = lambda name=name: adapters.update({name: work.adapters()})  # type: ignore[misc]
        alternate(sides, repeats, tick)
        pairs = zip(adapters[OURS], adapters[USUAL], strict=True)
        gap = max(float((a[key] - b[key]).abs().max()) for a, b in pairs for key in a)
    return compared(sides) | {"runs": runs, "steps": work.cells[0].spec["steps"][-1], "largest_difference": gap}


@contextmanager
def scratch_folder() -> Iterator[Path]:
    """A folder for the rounds, removed afterwards."""
    with TemporaryDirectory(prefix="parity-bench-") as folder:
        yield Path(folder)
