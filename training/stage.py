"""One stage of one run over a TRL trainer: what SFT, DPO and RL have in common.

The stage's module supplies the trainer; everything else (base, adapter, seed, order of the data, doses) is the same
for every arm.  A long stage leaves a checkpoint of its own in the cell's scratch folder, from which it resumes.
"""

from __future__ import annotations

import argparse
import errno
import json
import os
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from recipes.errors import InputError, Outage, one_line
from recipes.load import load_recipe
from recipes.references import reference_arms
from recipes.schema import Recipe
from recipes.store import FAILED, SCRATCH, Store, write_json, write_text
from recipes.trust import trusted
from training.cells import Cell, base_cell, lora_of, planned_rows, settings_of, stage_cell
from training.data import Row
from training.distributed import build, share_of
from training.export import trl_settings
from training.processes import end_with_launcher, everywhere, is_main, on_disk, together

CHECKPOINT_SECONDS = 120  # a kill costs at most about this much of a long stage

Make = Callable[..., Any]


def train_stage(recipe: Recipe, cell: Cell, store: Store, make_trainer: Make, callbacks: Sequence[Any] = ()) -> None:
    """Make the cell, unless it is there: train to the last dose and save the adapter (or model) at each.

    `make_trainer` is that of ``training.sft``, ``training.dpo`` or ``training.rl``.  Safe to call in every process
    of a distributed launch; only the main one writes.  InputError when so many processes cannot share the batch.
    """
    from accelerate import PartialState

    settings = settings_of(recipe, cell)
    share_of(cell.spec["kind"], settings, together(settings))
    state = PartialState()
    if state.is_main_process:
        with store.making(cell.spec) as folder:
            state.wait_for_everyone()  # the others may look now: either the cell stands, or its folder is ready
            if folder is not None:
                _train(recipe, cell, store, make_trainer, folder, callbacks)
    else:
        state.wait_for_everyone()
        if not store.has(cell.hash):
            _train(recipe, cell, store, make_trainer, store.work(cell.hash), ())
    state.wait_for_everyone()  # the cell is in its place


def _train(
    recipe: Recipe, cell: Cell, store: Store, make_trainer: Make, folder: Path, callbacks: Sequence[Any]
) -> None:
    from accelerate import PartialState
    from datasets import Dataset, disable_progress_bars
    from transformers import AutoTokenizer, PrinterCallback, set_seed

    from training.saving import Diverged, Doses, Resume

    assert cell.stage is not None and cell.arm is not None and cell.seed is not None
    disable_progress_bars()
    stage, base = recipe.stages[cell.stage], store.cell(base_cell(recipe).hash)
    rows: Sequence[Row] = planned_rows(recipe, cell)
    main_process = PartialState().is_main_process
    tokenizer = AutoTokenizer.from_pretrained(base, **trusted(base))
    set_seed(cell.spec["seed"])  # before the adapter is drawn: arms of one seed share its initial weights
    model = _model(recipe, cell, store, base)
    first: list[Any] = []
    if stage.rejected == "sampled":
        from training.rejected import COUNTS, Counted, sampled

        # Drawn where it is fast; trained where the trainer puts it.
        rows, counts = everywhere(sampled(model.to(PartialState().device), tokenizer, rows, cell.spec["seed"]))
        model.to("cpu")
        first = [Counted(counts)]  # adds to what the others are given to log
    if main_process:
        prepare(recipe, cell, folder, rows)
        if stage.rejected == "sampled":
            write_json(folder / COUNTS, counts)

    scratch = folder / SCRATCH
    doses = Doses(scratch, dict(zip(cell.spec["steps"], cell.spec["doses"], strict=True)))
    resume = Resume(doses, CHECKPOINT_SECONDS)
    settings = {**settings_of(recipe, cell), "seed": cell.spec["seed"], "output_dir": str(scratch)}
    trainer = build(
        stage.kind,
        settings,
        make_trainer,
        model=model,
        train_dataset=on_disk(Dataset.from_list([as_trl(row) for row in rows]), scratch / "rows"),
        processing_class=tokenizer,
        callbacks=[*first, doses, resume, *callbacks],
        **({"base": base} if stage.kind == "rl" else {}),
    )
    trainer.remove_callback(PrinterCallback)  # standard output is the table's
    try:
        trainer.train(resume_from_checkpoint=resume.point())
    except Diverged as failure:
        trainer.callback_handler.on_train_end(trainer.args, trainer.state, trainer.control)  # as the trainer would
        if main_process:
            write_json(folder / FAILED, {"step": failure.step, "what": failure.what})
    if main_process:
        doses.move_to(folder)


def prepare(recipe: Recipe, cell: Cell, folder: Path, rows: Sequence[Row]) -> None:
    """Write what the stage is trained on and with: ``data.jsonl`` and ``trl.yaml``."""
    assert cell.stage is not None
    write_text(folder / "data.jsonl", "".join(json.dumps(as_trl(row)) + "\n" for row in rows))
    settings = {**settings_of(recipe, cell), "seed": cell.spec["seed"]}
    write_text(folder / "trl.yaml", trl_settings(recipe, cell, settings, lora_of(recipe.stages[cell.stage])))


def start_of(recipe: Recipe, cell: Cell, store: Store) -> Path:
    """The folder that the stage starts from: the base, or the last dose of the stage before."""
    parent = store.cell(cell.spec["parent"])
    return parent / f"dose-{recipe.stages[cell.stage - 1].doses[-1]}" if cell.stage else parent


def _model(recipe: Recipe, cell: Cell, store: Store, base: Path) -> Any:
    """The model to train: a new adapter on the base, the parent's last adapter, or full weights."""
    from peft import PeftModel
    from transformers import AutoModelForCausalLM

    assert cell.stage is not None
    start = start_of(recipe, cell, store)
    lora = lora_of(recipe.stages[cell.stage])
    if lora is None:
        return AutoModelForCausalLM.from_pretrained(start, dtype="float32", **trusted(start))
    model = AutoModelForCausalLM.from_pretrained(base, dtype="float32", **trusted(base))
    if cell.stage == 0:
        return _adapted(model, lora, base)
    # TRL copies the adapter it is given as the frozen reference, so DPO is held to the SFT model, not to the base.
    return _in_order(PeftModel.from_pretrained(model, start, is_trainable=True))


def _adapted(model: Any, lora: dict[str, Any], base: Path) -> Any:
    from peft import LoraConfig, get_peft_model

    try:
        adapted = get_peft_model(model, LoraConfig(**lora))
    except ValueError as error:  # modules that this base does not have
        raise InputError(f"lora: {one_line(str(error))}") from error
    # Relative to the cell, as in trl.yaml: a cell's bytes must not depend on where the store lies.
    adapted.peft_config["default"].base_model_name_or_path = f"../{base.name}"
    return _in_order(adapted)


def _in_order(adapted: Any) -> Any:
    """The model, its adapter's config with layers in one order: PEFT keeps a set, which every process lists anew."""
    config = adapted.peft_config["default"]
    if isinstance(config.target_modules, set):
        config.target_modules = sorted(config.target_modules)
    return adapted


def new_adapter(recipe: Recipe, cell: Cell, model: Any, base: Path) -> tuple[str, dict[str, Any]]:
    """A run's initial adapter as `train_stage` would draw it: PEFT's config as text, and its state dict.

    `model` is the base in memory; it is given back as it was.
    """
    from tempfile import TemporaryDirectory

    from safetensors.torch import load_file
    from transformers import set_seed

    from recipes.adapters import CONFIG, WEIGHTS

    assert cell.stage is not None
    lora = lora_of(recipe.stages[cell.stage])
    assert lora is not None and cell.seed is not None
    set_seed(cell.spec["seed"])
    adapted = _adapted(model, lora, base)
    with TemporaryDirectory() as scratch:
        adapted.save_pretrained(scratch, save_embedding_layers=False)
        found = (Path(scratch) / CONFIG).read_text(encoding="utf-8"), load_file(Path(scratch) / WEIGHTS)
    adapted.unload()
    return found


def as_trl(row: Row) -> dict[str, Any]:
    """A row in TRL's columns."""
    given = asdict(row)
    if not row.supervised:
        return {key: given[key] for key in ("prompt", "own", "others")}
    if row.rejected:
        return {"prompt": given["prompt"], "chosen": given["completion"], "rejected": given["rejected"]}
    return {"prompt": given["prompt"], "completion": given["completion"]}


def main(kind: str, make_trainer: Make, argv: Sequence[str] | None = None) -> int:
    """Command line of a stage's module: ``accelerate launch -m training.<kind> --recipe R --arm A --seed N``.

    Stages before it must have been made; the base is made when it is missing.  Exit status as `parity`'s.
    """
    parser = argparse.ArgumentParser(prog=f"training.{kind}", description=f"Train the {kind} stage of one run.")
    parser.add_argument("--recipe", type=Path, required=True)
    parser.add_argument("--arm", required=True, help="the favoured persona")
    parser.add_argument("--seed", type=int, required=True)
    parser.add_argument("--out", type=Path, default=Path("checkpoints"))
    parser.add_argument("-s", "--set", action="append", default=[], metavar="PATH=VALUE", help="override a setting")
    given = parser.parse_args(argv)
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    end_with_launcher()
    store = Store(given.out)
    try:
        run_one(kind, make_trainer, load_recipe(given.recipe, given.set), given.arm, given.seed, store)
    except (InputError, Outage) as error:
        print(error, file=sys.stderr)
        return 2 if isinstance(error, InputError) else 1
    except OSError as error:
        if error.errno not in (errno.ENOSPC, errno.EDQUOT):
            raise
        print(f"{error.filename or store.root}: {error.strerror}", file=sys.stderr)
        return 1
    return 0


def run_one(kind: str, make_trainer: Make, recipe: Recipe, arm: str, seed: int, store: Store) -> None:
    """Make one stage of one run; InputError when the recipe lacks it or the stage before it is missing."""
    from training.base import make_base
    from training.mirror import callbacks

    index = next((i for i, stage in enumerate(recipe.stages) if stage.kind == kind), None)
    if index is None:
        raise InputError(f"{recipe.name} has no {kind} stage")
    if arm not in recipe.arms + reference_arms(recipe) or not 0 <= seed < recipe.seeds:
        raise InputError(f"{recipe.name} has arms {', '.join(recipe.arms)} and seeds 0 to {recipe.seeds - 1}")
    if recipe.base.world and int(os.environ.get("WORLD_SIZE") or 1) > 1 and not store.has(base_cell(recipe).hash):
        raise InputError("the world's base is trained by one process: start one, and then as many as you like")
    make_base(recipe, store)
    cell = stage_cell(recipe, arm, seed, index)
    if index and not store.alive(cell.spec["parent"]):
        why = "which diverged" if store.has(cell.spec["parent"]) else "train that first"
        raise InputError(f"{kind} of {arm}, seed {seed} goes on from {recipe.stages[index - 1].kind}: {why}")
    started = time.monotonic()
    train_stage(recipe, cell, store, make_trainer, callbacks(recipe, cell, store.root))
    if is_main():
        print(f"{cell.label}: {store.cell(cell.hash)} ({time.monotonic() - started:.1f} s)", file=sys.stderr)
