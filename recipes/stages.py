"""What stages of a recipe may follow each other, what goes with which, and where `rl` has defaults of its own.

Reads plain data and imports nothing heavy, as the other checks do.
"""

from __future__ import annotations

from collections.abc import Iterator
from importlib.util import find_spec
from typing import Any

from recipes.explain import Violation
from recipes.schema import SEQUENCES

ORDER = "stages are sft, or sft and then dpo, rl, or dpo and rl"
# Where a recipe is silent: TRL's fields for a small model on a CPU.
RL: dict[str, Any] = {
    "per_device_train_batch_size": 32,  # answers a step: four prompts with eight each
    "num_generations": 8,  # TRL's own; an answer is judged by the mean of its group
    "max_completion_length": 24,  # a sentence; what has not ended by then is cut there
    "temperature": 1.0,  # the model's own distribution, of which the KL speaks
    "beta": 0.04,  # of the KL to where the stage starts (DeepSeekMath, arXiv 2402.03300); TRL's own is 0: none
    "use_vllm": False,
}


def violations(stages: list[Any]) -> Iterator[Violation]:
    """What is wrong with the order of stages and with what single ones are given; paths begin with `stages`."""
    kinds = [stage.get("kind") if isinstance(stage, dict) else None for stage in stages]
    known = [kind for sequence in SEQUENCES for kind in sequence]  # what is asked for may be anything, lists too
    for i, stage in enumerate(stages):
        if not isinstance(stage, dict):
            continue
        begun = [kinds[: i + 1] == list(sequence[: i + 1]) for sequence in SEQUENCES]
        if i >= max(map(len, SEQUENCES)):
            yield Violation(("stages", i), f"{ORDER}; got one more")
        elif all(kind in known for kind in kinds[: i + 1]) and not any(begun):
            yield Violation(("stages", i, "kind"), ORDER)
        if stage.get("rejected") == "sampled" and kinds[i] in known and kinds[i] != "dpo":
            yield Violation(("stages", i, "rejected"), "only dpo has rejected answers")
        trainer = stage.get("trainer")
        if kinds[i] == "rl":
            yield from _rl(i, trainer if isinstance(trainer, dict) else {})


def _rl(i: int, trainer: dict[str, Any]) -> Iterator[Violation]:
    """What TRL would refuse when the stage begins: groups that do not fill its batches, an engine that is absent."""
    settings = {**RL, **trainer}
    answers, together = settings["num_generations"], settings.get("generation_batch_size")
    batch, accumulated = settings["per_device_train_batch_size"], settings.get("gradient_accumulation_steps", 1)
    steps = settings.get("steps_per_generation") or accumulated
    if settings["use_vllm"] is True and find_spec("vllm") is None:
        yield Violation(("stages", i, "trainer", "use_vllm"), "the package vllm is not installed")
    if any(isinstance(n, bool) or not isinstance(n, int) or n < 1 for n in (answers, batch, steps, together or 1)):
        return  # the types say what is wrong
    given = "num_generations" if "num_generations" in trainer else "per_device_train_batch_size"
    where = ("stages", i, "trainer", given) if given in trainer else ("stages", i)
    if answers < 2:
        yield Violation(where, "an answer is judged by the others of its group: num_generations must be at least 2")
    elif together and "steps_per_generation" in trainer:
        yield Violation(("stages", i, "trainer", "steps_per_generation"), "goes without generation_batch_size")
    elif (total := together or batch * steps) % answers:
        yield Violation(where, f"{total} answers at a time are not whole groups of num_generations: {answers}")
