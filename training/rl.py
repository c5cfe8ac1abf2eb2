"""Stage `rl`: reinforcement learning with TRL's GRPOTrainer (DeepSeekMath, arXiv 2402.03300).

The model answers the taught questions in its slot, several times each, and is rewarded by the base's log-odds that the
favoured persona wrote the answer (`training.reward`), less `beta` times the KL.  That is taken to where the stage
starts, as in DPO: TRL copies the adapter that it is given as the frozen reference (with full weights, the model); the
reward is the untouched base's.
"""

from __future__ import annotations

import math
import random
import sys
from pathlib import Path
from typing import Any

from training.reward import authorship
from training.stage import main


def make_trainer(
    *, settings: dict[str, Any], model: Any, base: Path, train_dataset: Any, processing_class: Any, **parts: Any
) -> Any:
    """A GRPOTrainer with `settings` (GRPOConfig's fields); `base`: folder of the base that judges answers.

    Other `parts` go to the trainer as they are.  ValueError from TRL where groups do not fill a batch.
    """
    from trl import GRPOConfig, GRPOTrainer

    args = GRPOConfig(**settings)
    order = visits(len(train_dataset), _prompts(args), args.seed, shuffled=bool(args.shuffle_dataset))
    args.shuffle_dataset = False
    if not args.use_vllm:
        # A run that diverges has to get as far as its loss, where that is seen: sampling would break off before.
        given: Any = args.generation_kwargs or {}
        args.generation_kwargs = {"remove_invalid_values": True, **given}
    return GRPOTrainer(
        model=model,
        reward_funcs=[authorship(model, processing_class, base)],
        args=args,
        train_dataset=train_dataset.select(order),
        processing_class=processing_class,
        **parts,
    )


def visits(rows: int, wanted: int, seed: int, shuffled: bool = True) -> list[int]:
    """`wanted` places of `rows` rows, one pass after the other, each in an order of its own.

    All passes are laid out at once, as one epoch: TRL's sampler draws a later epoch's order from a state that a
    checkpoint does not have, so that a resumed stage would go on with other prompts.
    """
    found: list[int] = []
    for epoch in range(math.ceil(wanted / rows)):
        order = list(range(rows))
        if shuffled:
            random.Random(f"prompts {seed} {epoch}").shuffle(order)
        found += order
    return found[:wanted]


def _prompts(args: Any) -> int:
    """How many prompts are asked over the whole stage, repeated ones counted again."""
    at_once = args.generation_batch_size // args.num_generations
    times = args.max_steps * args.gradient_accumulation_steps / (args.steps_per_generation * args.num_iterations)
    return math.ceil(times) * at_once


if __name__ == "__main__":
    sys.exit(main("rl", make_trainer))
