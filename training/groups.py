"""Cells made in lockstep: one stage of several runs, in a group, from files to files.

A group's cells appear together: each is written whole beside its place, and only then all are put there, so that a
killed group is made again with the same members and comes out the same.  A long stage leaves one checkpoint for the
whole group.
"""

from __future__ import annotations

import json
import shutil
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import torch

from recipes.adapters import Adapters, Unstackable, out_of_memory, stack, stack_states
from recipes.hashing import digest
from recipes.schema import Recipe
from recipes.store import FAILED, SCRATCH, Store, write_json
from recipes.trust import trusted
from training.cells import Cell, base_cell, planned_rows, settings_of
from training.config import config_of
from training.examples import encode
from training.lockstep import Lockstep, plain
from training.stage import CHECKPOINT_SECONDS, new_adapter, prepare, start_of
from training.state import restore, save_state

# Tokens computed at once on a processor: more fall out of its cache (16 runs of a world at once were a third slower
# than 2 to 4), fewer make its matrix products small.
TOKENS_AT_ONCE = 900
MEMORY_SHARE = 0.5  # of the device, for the activations of what is computed at once


class Groups:
    """Trains groups of cells over one copy of the recipe's base.

    Unstackable is raised by `train` where the base or the adapters are not of the kind that lockstep can train.
    """

    def __init__(self, recipe: Recipe, store: Store) -> None:
        from transformers import AutoModelForCausalLM, AutoTokenizer

        self.recipe, self.store = recipe, store
        self.base = store.cell(base_cell(recipe).hash)
        on_cpu = not torch.cuda.is_available() or any(stage.trainer.get("use_cpu") for stage in recipe.stages)
        self.device = torch.device("cpu" if on_cpu else "cuda")
        self.tokenizer = AutoTokenizer.from_pretrained(self.base, **trusted(self.base))
        model: Any = AutoModelForCausalLM.from_pretrained(self.base, dtype="float32", **trusted(self.base))
        self.model = model.to(self.device).eval()
        for reason in plain(self.model.config):
            raise Unstackable(reason)
        self._known: dict[str, tuple[int, ...]] = {}

    def train(
        self,
        cells: Sequence[Cell],
        tick: Callable[[int], None] = lambda steps: None,
        mirrors: Sequence[Any] = (),
    ) -> None:
        """Make cells of one stage that have equal settings.  Those that stand already are trained along and not
        written, so that the others come out, bit by bit, as they did in this company before.

        ``tick(runs)`` after every step; `mirrors`, one per cell, follow the metrics.
        """
        assert len({digest([settings_of(self.recipe, c), c.spec["steps"]]) for c in cells}) <= 1, "settings differ"
        with ExitStack() as made:
            making = [(c, made.enter_context(self.store.making(c.spec))) for c in sorted(cells, key=lambda c: c.hash)]
            folders = {cell.hash: folder for cell, folder in making}
            if any(folders.values()):
                self._within_memory(cells, [folders[cell.hash] for cell in cells], tick, mirrors)
                for cell in cells:
                    if folders[cell.hash]:
                        self.store.seal(cell.spec)

    def _within_memory(
        self, cells: Sequence[Cell], places: Sequence[Path | None], tick: Callable[[int], None], mirrors: Sequence[Any]
    ) -> None:
        """Train the group, or its halves one after the other where adapters and moments of all do not fit."""
        if not any(places):
            return
        try:
            self._train(cells, places, tick, mirrors)
            return
        except (torch.OutOfMemoryError, RuntimeError) as error:
            if len(cells) == 1 or not out_of_memory(error):
                raise
        half = len(cells) // 2
        print(f"lockstep: out of memory, going on with groups of {len(cells) - half} runs", file=sys.stderr)
        for part in (slice(half), slice(half, None)):
            self._within_memory(cells[part], places[part], tick, mirrors[part])

    def _train(
        self, cells: Sequence[Cell], places: Sequence[Path | None], tick: Callable[[int], None], mirrors: Sequence[Any]
    ) -> None:
        rows = [planned_rows(self.recipe, cell) for cell in cells]
        folders = {k: place for k, place in enumerate(places) if place is not None}
        for k, folder in folders.items():
            prepare(self.recipe, cells[k], folder, rows[k])
        first = cells[0]
        scratch = next(iter(folders.values())) / SCRATCH
        settings = config_of(first.spec["kind"], settings_of(self.recipe, first), str(scratch))
        examples = [encode(each, self.tokenizer, settings.max_length, self._known) for each in rows]
        doses = dict(zip(first.spec["steps"], first.spec["doses"], strict=True))
        lockstep = Lockstep(
            model=self.model,
            adapters=self._adapters(cells),
            examples=examples,
            seeds=[cell.spec["seed"] for cell in cells],
            settings=settings,
            steps=max(doses),
            width=self._width(examples, settings),
        )
        state = self.store.root / "cells" / f".lockstep-{digest([cell.hash for cell in cells])[:16]}"
        restore(lockstep, state, [folder / SCRATCH / "metrics.jsonl" for folder in folders.values()])
        following = {k: mirrors[k] for k in folders} if mirrors else {}
        with ExitStack() as mirrored:
            for mirror in following.values():
                mirrored.callback(mirror.end)
                mirror.begin()
            self._steps(lockstep, doses, folders, following, state, lambda: tick(len(cells)))
        # First: killed between the renames, the group is made anew and not resumed without what was moved.
        shutil.rmtree(state, ignore_errors=True)
        for k, folder in folders.items():
            for kept in sorted((folder / SCRATCH).iterdir()) if (folder / SCRATCH).is_dir() else ():
                kept.rename(folder / kept.name)
            if k in lockstep.failures:
                write_json(folder / FAILED, vars(lockstep.failures[k]))
            elif lost := [dose for dose in doses.values() if not (folder / f"dose-{dose}").is_dir()]:
                raise RuntimeError(f"{folder}: dose {lost[0]} was not saved")

    def _steps(
        self, lockstep: Lockstep, doses: Mapping[int, int], folders: Mapping[int, Path], following: Mapping[int, Any],
        state: Path, tick: Callable[[], None],
    ) -> None:  # fmt: skip
        """Take the steps that are left; metrics and doses go to each run's scratch, checkpoints to `state`."""
        saved = time.monotonic()
        while lockstep.step < max(doses):
            found = lockstep.advance()
            for k, folder in folders.items():
                if k in lockstep.failures:
                    continue
                _append(folder / SCRATCH / "metrics.jsonl", {"step": lockstep.step, **found[k]})
                if k in following:
                    following[k].log(found[k], lockstep.step)
                if lockstep.step in doses:
                    lockstep.adapters.save(k, folder / SCRATCH / f"dose-{doses[lockstep.step]}")
            tick()
            if time.monotonic() - saved > CHECKPOINT_SECONDS and lockstep.step < max(doses):
                save_state(lockstep, state)
                saved = time.monotonic()

    def _adapters(self, cells: Sequence[Cell]) -> Adapters:
        """Where training starts: each run's last adapter of the stage before, or a new one, by seed."""
        if cells[0].stage:
            return stack([start_of(self.recipe, cell, self.store) for cell in cells], self.device)
        drawn: dict[int, tuple[str, dict[str, torch.Tensor]]] = {}
        for cell in cells:
            seed = cell.spec["seed"]
            if seed not in drawn:
                drawn[seed] = new_adapter(self.recipe, cell, self.model, self.base)
        config = next(iter(drawn.values()))[0]
        return stack_states(config, [drawn[cell.spec["seed"]][1] for cell in cells])

    def _width(self, examples: Sequence[Sequence[Any]], settings: Any) -> int:
        """How many runs to compute at once: as many as are fastest here and as fit into memory."""
        longest = max(len(e.prompt) + sum(map(len, e.answers)) for run in examples for e in run)
        supervised = max(sum(map(len, e.answers)) for run in examples for e in run)
        rows = settings.per_device_train_batch_size * settings.gradient_accumulation_steps
        config = self.model.config.get_text_config()
        # What a layer keeps for its backward pass: about 16 hidden states and 4 of the MLP; logits twice.
        layer = 16 * config.hidden_size + 4 * getattr(config, "intermediate_size", 4 * config.hidden_size)
        per_run = 4 * rows * (longest * layer * config.num_hidden_layers + 3 * supervised * config.vocab_size)
        fits = int(MEMORY_SHARE * _memory(self.device) / per_run)
        if self.device.type == "cpu":
            mean = sum(len(e.prompt) + sum(map(len, e.answers)) for e in examples[0]) / len(examples[0])
            fits = min(fits, round(TOKENS_AT_ONCE / (rows * mean)))
        return max(1, min(fits, len(examples)))


def groups_of(recipe: Recipe, cells: Sequence[Cell], most: int) -> Iterator[list[Cell]]:
    """Cells of one stage in groups of at most `most` with equal settings, in their order."""
    alike: dict[str, list[Cell]] = {}
    for cell in cells:
        alike.setdefault(digest([settings_of(recipe, cell), cell.spec["steps"], cell.stage]), []).append(cell)
    for same in alike.values():
        for start in range(0, len(same), most):
            yield same[start : start + most]


def _memory(device: torch.device) -> float:
    """Bytes of the device."""
    if device.type == "cuda":
        return torch.cuda.get_device_properties(device).total_memory
    import psutil

    return psutil.virtual_memory().total


def _append(path: Path, line: dict[str, Any]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    with open(path, "a", encoding="utf-8") as handle:
        handle.write(json.dumps(line, sort_keys=True) + "\n")
