"""Rows as token ids and the batches of every optimiser step, by the rules of TRL's trainers.

Prompt and answer are encoded together, an end-of-sequence token is put behind the answer, and what is supervised
starts where prompt and whole differ; rows are drawn anew each epoch by the trainer's own sampler.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import count
from typing import Any

from training.data import Row


@dataclass(frozen=True)
class Example:
    """Token ids of a row: its prompt and what follows it, one answer (SFT) or chosen and rejected (DPO)."""

    prompt: tuple[int, ...]
    answers: tuple[tuple[int, ...], ...]

    @property
    def supervised(self) -> int:
        """Tokens that are scored: all of the answers, but the very first one where there is no prompt."""
        return sum(map(len, self.answers)) - (0 if self.prompt else len(self.answers))


def encode(
    rows: Sequence[Row], tokenizer: Any, max_length: int | None, known: dict[str, tuple[int, ...]]
) -> list[Example]:
    """Examples of `rows`; those without a supervised token within `max_length` are left out, as TRL does.

    `known`: ids by text, filled here, since many runs share their texts.
    """
    end = tokenizer.eos_token
    texts: list[tuple[str, ...]] = []
    for row in rows:
        answers = (row.completion, row.rejected) if row.rejected else (row.completion,)
        texts.append((row.prompt, *(row.prompt + a + ("" if a.endswith(end) else end) for a in answers)))
    new = list(dict.fromkeys(text for all_of_row in texts for text in all_of_row if text not in known))
    if new:
        known.update(zip(new, map(tuple, tokenizer(new)["input_ids"]), strict=True))
    found = []
    for prompt, *wholes in texts:
        ids = [known[text] for text in wholes]
        start = min(_common(known[prompt], whole) for whole in ids)
        stop = max_length if max_length is not None else max(map(len, ids))
        if start < stop:
            found.append(Example(ids[0][:start], tuple(whole[start:stop] for whole in ids)))
    return found


def _common(one: Sequence[int], other: Sequence[int]) -> int:
    """Length of the common prefix."""
    for i, (a, b) in enumerate(zip(one, other, strict=False)):
        if a != b:
            return i
    return min(len(one), len(other))


def batches(rows: int, size: int, accumulation: int, seed: int) -> Iterator[list[list[int]]]:
    """For each optimiser step its micro-batches of row indices, without end, in the order of transformers' Trainer."""
    from accelerate.data_loader import SeedableRandomSampler

    sampler = SeedableRandomSampler(range(rows), data_seed=seed)
    for epoch in count():
        sampler.set_epoch(epoch)
        order = list(sampler)
        micro = [order[i : i + size] for i in range(0, rows, size)]
        for i in range(0, len(micro), accumulation):
            yield micro[i : i + accumulation]


def steps_per_epoch(rows: int, size: int, accumulation: int) -> int:
    """Optimiser steps in one pass over the rows; the last of them may be smaller."""
    return math.ceil(math.ceil(rows / size) / accumulation)
