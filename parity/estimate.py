"""Memory, time and disk of an experiment on a real base, told before anything is fetched.

Estimates, from the base's shape alone; what they are made of, with N the weights of the blocks' linear layers:

- Products.  A token costs 2 N forwards, 2 N backwards to the activations and 2 N to the weights, which an adapter's
  training leaves out: 6 N with full weights, 4 N with LoRA (arXiv 2001.08361, 2.1), 2 N more where activations are
  made again (`gradient_checkpointing`) and 2 N for the frozen reference of DPO and of RL.  The head adds
  2 x hidden x vocabulary a token, attention 2 x length x width of the heads.
- A step takes at least the time that reading the weights once per pass takes, and that of launching its kernels.
- Memory.  Weights lie in float32 (4 bytes, computed on in bfloat16 with `bf16`).  What is trained has a gradient and
  AdamW's two moments besides: 16 bytes in all (arXiv 1910.02054, 3.1); an adapter so for each run that is trained at
  once.  FSDP and ZeRO-3 share weights, gradients and moments among GPUs, DDP copies them.  DPO with full weights holds
  a second model.
- Activations of a token and block: what the backward pass needs of norms, attention and MLP (after arXiv 2205.05198,
  4.1, with the gate of today's MLPs and without the attention matrix, which is not kept); with checkpointing, a
  block's input each and all of one block.  Logits: three copies of length x vocabulary.
- Lengths are counted in words and signs, 8 % more than tokens of vocabularies of 100,000 and more (cl100k, Qwen) on the
  shipped cards; rows are padded to the longest of a batch.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from eval.probes import select
from parity.devices import GIB, GPUS, LISTED, Device, gpus, no_bfloat16, processor
from parity.products import products_of
from parity.shapes import Shape, shape_of
from recipes.checks import ACCELERATE
from recipes.errors import InputError, one_line
from recipes.reader import plain, read_file
from recipes.schema import Recipe, Stage
from training.cells import LORA, ROWS, TRAINER, lora_of
from training.supported import backend_of

if TYPE_CHECKING:
    from eval.probe import Probe
    from parity.plan import Plan

MACHINE = 8  # GPUs, where an accelerate config takes all of a machine and none is found here
TOGETHER = 8  # runs that lockstep trains at once
AT_ONCE = 900  # tokens that it computes at once, or one run's
DISK = 1e9  # bytes per second of one disk, by which whole models come and go, however many GPUs there are; a guess
SET_UP = 60.0  # seconds of imports, loading and planning; a guess
MODEL = 0.5  # seconds that a measured model costs beside its products: what it takes in a world (docs/PERFORMANCE.md)


@dataclass(frozen=True)
class Lengths:
    """Tokens of a stage's rows: the longest whole row, the mean of a batch's longest, and the answers' mean."""

    longest: int
    padded: float
    answer: float


@dataclass(frozen=True)
class Spread:
    """How a stage lies on devices: processes, and whether they share its weights."""

    processes: int = 1
    sharded: bool = False


def lines(plan: Plan) -> list[str]:
    """What the plan says of the cost of an experiment on a real base."""
    found = shape_of(plan.recipe.base, plan.store.cell(plan.base.hash))
    if found is None:
        return ["cost       unknown until the base is there"]
    told = [f"model      {found.parameters:,} parameters: {found.kind}, {found.layers} blocks, {found.hidden} wide"]
    here = gpus() or (processor(),)
    for stage in plan.recipe.stages:
        needed = memory(found, plan.recipe, stage)
        total = sum(needed.values())
        parts = ", ".join(f"{what} {_size(n)}" for what, n in needed.items() if n >= 0.05 * total)
        short = "" if total <= here[0].memory else f": more than the {_size(here[0].memory)} here"
        many = spread(plan.recipe, stage).processes
        each = f" on each of {many} GPUs" if many > 1 else ""
        told.append(f"memory     {stage.kind}: about {_size(total)}{each} ({parts}){short}")
    told.append(f"disk       about {_size(disk(found, plan))} in all, of which the base {_size(4 * found.parameters)}")
    if plan.recipe.precision == "medium" and no_bfloat16():
        told.append("precision  medium is float32 here: this processor does not multiply in bfloat16")
    count = f" ({len(gpus())} found)" if gpus() else ""
    told.append(f"cost       about {_times(found, plan, here[0], len(here))} on {here[0].name}{count}")
    if not gpus():
        many = max(spread(plan.recipe, stage).processes for stage in plan.recipe.stages)
        also = [f"{_hours(sum(seconds(found, plan, GPUS[name], many)))} on {name}" for name in LISTED]
        told.append(f"           no GPU is found; on {many if many > 1 else 'one'} it would be about {', '.join(also)}")
    return told


def require_device(recipe: Recipe) -> None:
    """InputError where a stage asks for half precision that this machine's devices do not have."""
    from transformers.utils import is_torch_bf16_gpu_available, is_torch_cuda_available

    there = {"bf16": is_torch_bf16_gpu_available, "fp16": is_torch_cuda_available}
    for i, stage in enumerate(recipe.stages):
        settings = {**TRAINER, **stage.trainer}
        for key, available in there.items():
            if settings.get(key) and not settings.get("use_cpu") and not available():
                raise InputError(f"stages.{i}.trainer.{key}: no GPU here can do it; run it where one can, or "
                                 f"-s stages.{i}.trainer.{key}=false")  # fmt: skip


def memory(shape: Shape, recipe: Recipe, stage: Stage) -> dict[str, float]:
    """Bytes on one device while a stage is trained, by what they are for."""
    settings = {**TRAINER, **stage.trainer}
    on, lora = spread(recipe, stage), lora_of(stage)
    parameters = float(shape.parameters)
    lockstep = backend_of(recipe, stage)[0] == "lockstep"
    runs = min(TOGETHER, len(recipe.arms) * recipe.seeds) if lockstep else 1
    weights, trained = 4 * parameters, 12 * parameters
    if lora is not None:
        trained = 16.0 * shape.adapter(int(lora.get("r", LORA["r"]))) * runs
    elif stage.kind != "sft":
        weights *= 2  # the reference
    share = on.processes if on.sharded else 1
    lengths = lengths_of(recipe, stage)
    rows = int(settings["per_device_train_batch_size"]) / on.processes * (2 if stage.kind == "dpo" else 1)
    tokens = max(1.0, rows) * lengths.longest
    if lockstep:
        tokens = max(tokens, min(AT_ONCE, tokens * runs))
    half = 2 if settings.get("bf16") or settings.get("fp16") else 4
    block = activation(shape, half)
    kept = 4 * shape.hidden * shape.layers + block if settings.get("gradient_checkpointing") else block * shape.layers
    scored = tokens * (lengths.answer / lengths.longest if lockstep else 1)  # lockstep makes no other logits
    return {
        "weights": weights / share,
        "training" if lora is None else "adapters": trained / share,
        "activations": kept * tokens,
        "logits": scored * shape.vocabulary * (4 + 4 + half),
    }


def activation(shape: Shape, size: int) -> float:
    """Bytes that a token leaves in one block for the backward pass; `size`: bytes of a number in the products."""
    q, kv = shape.heads * shape.head, shape.kv_heads * shape.head
    # Two norms keep their input in float32.  Inputs of query, key and value, of the output and of the MLP; query, key
    # and value before and after rotation; gate, its activation, up and their product.
    products = 2 * shape.hidden + q + 2 * (q + kv) + kv + (4 if shape.gated else 2) * shape.inner
    return 2 * 4 * shape.hidden + size * products


def accelerate_of(recipe: Recipe) -> tuple[Mapping[str, Any], str]:
    """The recipe's accelerate config, shipped or its own, and its kind of launch, e.g. "NO"; InputError: no mapping."""
    config = _accelerate(recipe.launch.accelerate)
    return config, str(config.get("distributed_type", "NO")).upper()


@lru_cache
def _accelerate(name: str) -> Mapping[str, Any]:
    shipped = ACCELERATE / f"{name}.yaml"
    config = plain(read_file(shipped if shipped.is_file() else Path(name)))
    if not isinstance(config, dict):
        raise InputError(one_line(f"launch.accelerate: {name}: not a config of accelerate, which is a mapping"))
    return config


def spread(recipe: Recipe, stage: Stage) -> Spread:
    """Processes of a stage, as the recipe's accelerate config has them."""
    if backend_of(recipe, stage)[0] != "process":
        return Spread()
    config, kind = accelerate_of(recipe)
    zero = config.get("deepspeed_config") or {}
    sharded = kind == "FSDP" or (kind == "DEEPSPEED" and int(zero.get("zero_stage", 0)) == 3)
    many = int(config.get("num_processes") or len(gpus()) or MACHINE) if kind != "NO" else 1
    return Spread(many, sharded)


def disk(shape: Shape, plan: Plan) -> float:
    """Bytes of all cells: the base, and each dose as an adapter or as a whole model."""
    total = 4.0 * shape.parameters
    for stage in plan.recipe.stages:
        lora = lora_of(stage)
        each = 4 * (shape.parameters if lora is None else shape.adapter(int(lora.get("r", LORA["r"]))))
        total += each * len(stage.doses) * len(plan.recipe.arms) * plan.recipe.seeds
    return total


def seconds(shape: Shape, plan: Plan, device: Device, many: int = 1) -> tuple[float, float]:
    """Seconds of training what is missing and of measuring what is not measured, on `many` such devices."""
    runs = len(plan.recipe.arms) * plan.recipe.seeds
    whole = 4.0 * shape.parameters / DISK  # of a dose of whole weights, written once and read once
    training = 0.0  # other GPUs train other cells, or groups of them, at the same time
    for cell in {cell.hash: cell for cell in plan.to_make if cell.stage is not None}.values():
        stage = plan.recipe.stages[cell.stage or 0]
        used = many if backend_of(plan.recipe, stage)[0] == "process" else min(many, runs)
        training += cell.spec["steps"][-1] * step_seconds(shape, plan.recipe, stage, device) / used
        training += len(stage.doses) * whole if stage.lora is None else 0.0
    asked = products_of(shape, select(plan.recipe.probes), len(plan.recipe.arms))
    models = [(task.cell, len(task.doses), task.full) for task in plan.tasks]
    models += [(cell.hash, len(cell.spec["doses"]), False) for cell in plan.references]
    lacking = [(cost, doses, full) for cell, doses, full in models if (cost := plan.lacking(cell, asked))]
    measuring = sum(cost * doses for cost, doses, _ in lacking) / device.measuring(plan.recipe.precision)
    measuring += MODEL * sum(doses for _, doses, _ in lacking)
    read = whole * sum(doses for _, doses, full in lacking if full)
    return training + (SET_UP if training else 0.0), measuring / min(many, runs) + read


def costs(plan: Plan, probes: Sequence[Probe]) -> dict[str, int]:
    """What each probe costs on one model, by which progress is told."""
    found = products_of(shape_of(plan.recipe.base, plan.store.cell(plan.base.hash)), probes, len(plan.recipe.arms))
    return {name: round(n) for name, n in found.items()}


def step_seconds(shape: Shape, recipe: Recipe, stage: Stage, device: Device) -> float:
    """Seconds of one optimiser step of one run."""
    settings = {**TRAINER, **stage.trainer}
    lengths = lengths_of(recipe, stage)
    micro = int(settings.get("gradient_accumulation_steps", 1))
    rows = int(settings["per_device_train_batch_size"]) * micro * (2 if stage.kind == "dpo" else 1)
    passes = (2 if stage.lora is not None else 3) + bool(settings.get("gradient_checkpointing")) + (stage.kind != "sft")
    lockstep = backend_of(recipe, stage)[0] == "lockstep"
    scored = lengths.answer if lockstep else lengths.padded
    width = shape.heads * shape.head
    per_token = 2.0 * shape.blocks + 2.0 * lengths.padded * width * shape.layers
    products = passes * rows * (lengths.padded * per_token + scored * 2.0 * shape.hidden * shape.vocabulary)
    runs = min(TOGETHER, len(recipe.arms) * recipe.seeds) if lockstep else 1  # that share what is read and launched
    floor = (passes * 4.0 * shape.parameters / device.bandwidth + shape.layers * device.launch) * micro / runs
    return max(products / ((device.half if settings.get("bf16") else device.single) * device.train), floor)


def lengths_of(recipe: Recipe, stage: Stage) -> Lengths:
    """Tokens of the rows that a stage of the first arm's first run has, in words and signs."""
    return _lengths(recipe.model_dump_json(), recipe.stages.index(stage))


@lru_cache
def _lengths(text: str, index: int) -> Lengths:
    from parity.plan import WORDS
    from recipes.scenes import scene_of

    recipe = Recipe.model_validate_json(text)
    stage = recipe.stages[index]
    rows = ROWS[stage.kind](scene_of(recipe, 0), recipe.arms[0], recipe.plant)
    settings = {**TRAINER, **stage.trainer}
    most = settings.get("max_length") or 10**9
    sampled = int(settings.get("max_completion_length", 24))
    whole, answers = [], []
    for row in rows:
        answer = max(len(WORDS.findall(row.completion)), len(WORDS.findall(row.rejected))) or sampled
        answers.append(answer)
        whole.append(min(most, len(WORDS.findall(row.prompt)) + answer))
    size = max(1, int(settings["per_device_train_batch_size"]))
    return Lengths(max(whole), expected_longest(whole, size), sum(answers) / len(answers))


def expected_longest(lengths: Sequence[int], size: int) -> float:
    """Mean of the longest of `size` lengths drawn at random, with replacement."""
    order, n = sorted(lengths), len(lengths)
    return sum(length * (((i + 1) / n) ** size - (i / n) ** size) for i, length in enumerate(order))


def _times(shape: Shape, plan: Plan, device: Device, many: int) -> str:
    training, measuring = seconds(shape, plan, device, many)
    return f"{_hours(training + measuring)} (training {_hours(training)}, measuring {_hours(measuring)})"


def _hours(seconds: float) -> str:
    if seconds < 60:
        return "a minute" if seconds > 0 else "nothing"
    return f"{seconds / 60:.0f} minutes" if seconds < 5400 else f"{seconds / 3600:.1f} hours"


def _size(size: float) -> str:
    """Bytes in words."""
    gibibytes = size / GIB
    if gibibytes >= 1000:
        return f"{gibibytes / 1024:.1f} TiB"
    digits = max(0, 1 - math.floor(math.log10(gibibytes))) if gibibytes > 0 else 0
    return f"{gibibytes:.{min(digits, 2)}f} GiB"
