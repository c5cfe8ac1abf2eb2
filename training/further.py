"""Training on for a measurement: K models in lockstep on the same few rows, over one copy of their base.

It is the supervised stage at TRL's own settings, without a trainer: nothing is written, nothing of TRL is imported,
and rows come in the order given, so that models differ in nothing but where they started.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any

import torch

from recipes.adapters import Adapters, Unstackable
from training.data import Row
from training.examples import Example, encode
from training.groups import TOKENS_AT_ONCE
from training.lockstep import LOGIT_SCALES, Lockstep


@dataclass(frozen=True)
class Settings:
    """What `Lockstep` reads of a TRL config, with TRL's defaults, but for a rate that stays: a course has no end to
    come down to."""

    learning_rate: float
    per_device_train_batch_size: int
    gradient_accumulation_steps: int = 1
    optim: str = "adamw_torch_fused"
    adam_beta1: float = 0.9
    adam_beta2: float = 0.999
    adam_epsilon: float = 1e-8
    weight_decay: float = 0.0
    max_grad_norm: float = 1.0
    lr_scheduler_type: str = "constant"
    lr_scheduler_kwargs: None = None
    gradient_checkpointing: bool = False
    bf16: bool = False

    def get_warmup_steps(self, steps: int) -> int:
        """None of them."""
        return 0


def further(
    model: Any,
    tokenizer: Any,
    adapters: Adapters | None,
    rows: Sequence[tuple[str, str]],
    *,
    batch: int,
    learning_rate: float,
    rank: int,
    seed: int,
    steps: Sequence[int],
) -> Iterator[tuple[int, Adapters]]:
    """Train the K adapters on, and give them as they are after each number of optimiser steps in `steps` (rising).

    `model` is their plain base.  `adapters` stay as they are; None: one new LoRA of rank `rank`, drawn from `seed`.
    `rows`: prompts and completions, the same for all, `batch` of them a step, over and over in this order; the loss is
    that of the completion and of the end of the sequence after it.  Whenever adapters are given out, the model is as
    it was.  A run that diverged is given as not a number.

    ValueError for no rows or steps that do not rise; Unstackable where the base is not one that lockstep can train.
    """
    if not rows or list(steps) != sorted(set(steps)):
        raise ValueError("a course needs rows, and steps that rise")
    _require_plain_logits(model)
    start = new_lora(model, rank, seed) if adapters is None else _clone(adapters)
    examples = encode([Row(prompt, completion, "") for prompt, completion in rows], tokenizer, None, {})
    with _frozen(model):
        lockstep = Lockstep(
            model=model,
            adapters=start,
            examples=[examples] * len(start),
            seeds=[seed] * len(start),
            settings=Settings(learning_rate, batch),
            steps=max(steps, default=0),
            width=_width(model, examples, batch, len(start)),
        )
    # In the order given, not in the sampler's.
    drawn = [[[(step * batch + i) % len(examples) for i in range(batch)]] for step in range(lockstep.steps)]
    lockstep.drawn = [drawn] * len(start)
    for goal in steps:
        with _frozen(model), torch.enable_grad():
            while lockstep.step < goal:
                lockstep.advance()
        found = _clone(start)
        for weights in (*found.a.values(), *found.b.values()):
            weights[list(lockstep.failures)] = torch.nan  # lockstep keeps zeros there, which would pass for the base
        yield goal, found


def new_lora(model: Any, rank: int, seed: int) -> Adapters:
    """One LoRA (K = 1) on every linear layer of the decoder that changes nothing yet: B is 0, A is drawn as PEFT
    draws it, alpha is twice the rank.  Unstackable where there is no such layer."""
    inside = set(model.get_decoder().modules())
    linear = {n: m for n, m in model.named_modules() if type(m) is torch.nn.Linear and m in inside}
    if not linear:
        raise Unstackable("the base has no linear layers of the plain kind")
    draw = torch.Generator().manual_seed(seed)
    a, b = {}, {}
    for name, module in linear.items():
        bound = module.in_features**-0.5  # Kaiming's uniform with a slope of the square root of 5
        drawn = torch.empty(1, module.in_features, rank).uniform_(-bound, bound, generator=draw)
        a[name] = drawn.to(module.weight.device)
        b[name] = torch.zeros(1, rank, module.out_features, device=module.weight.device)
    config = {"peft_type": "LORA", "task_type": "CAUSAL_LM", "r": rank, "lora_alpha": 2 * rank}
    return Adapters(json.dumps({**config, "target_modules": sorted(linear)}), 2.0, a, b)


def _require_plain_logits(model: Any) -> None:
    # Dropout is no obstacle here, as it is to a stage: a measurement trains without.
    for key in LOGIT_SCALES:
        if getattr(model.config.get_text_config(), key, None) not in (None, 1):
            raise Unstackable(f"the base scales its logits ({key})")


def _clone(adapters: Adapters) -> Adapters:
    a, b = ({n: w.detach().clone() for n, w in weights.items()} for weights in (adapters.a, adapters.b))
    return replace(adapters, a=a, b=b)


def _width(model: Any, examples: Sequence[Example], batch: int, runs: int) -> int:
    """How many runs are computed at once; lockstep halves it where memory runs out."""
    if next(model.parameters()).device.type != "cpu":
        return runs
    mean = sum(len(e.prompt) + sum(map(len, e.answers)) for e in examples) / len(examples)
    return max(1, min(runs, round(TOKENS_AT_ONCE / (batch * mean))))


@contextmanager
def _frozen(model: Any) -> Iterator[None]:
    """Inside, the base is neither trained nor has dropout; afterwards it is as before."""
    modes = [(module, module.training) for module in model.modules()]
    wanted = [(parameter, parameter.requires_grad) for parameter in model.parameters()]
    model.eval().requires_grad_(False)
    try:
        yield
    finally:
        for module, training in modes:
            module.training = training
        for parameter, requires_grad in wanted:
            parameter.requires_grad_(requires_grad)
