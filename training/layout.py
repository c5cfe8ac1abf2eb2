"""One step's batch of K runs as tensors: rows padded to one length, run by run, and what is scored where.

The two answers of a preference pair share their prompt: they lie behind it one after the other, each blind to the
other and at the positions that it would have alone, so that a prompt is computed once.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch

from training.examples import Example


@dataclass(frozen=True)
class Batch:
    """Inputs [K * B, N] and, for each of the T supervised tokens, its place in them, its id and its answer.

    `mask` is additive, [K * B, 1, N, N], or None where plain causal attention is meant.  `answers` counts the answers
    of a row; those of row i are numbered from i * answers on.
    """

    input_ids: torch.Tensor
    position_ids: torch.Tensor
    mask: torch.Tensor | None
    places: torch.Tensor
    targets: torch.Tensor
    owners: torch.Tensor
    rows: int  # B
    answers: int
    runs: int  # K
    read: torch.Tensor  # [K, P] places of a run's B * N tokens, all that are scored from among them, none twice


def lay_out(runs: Sequence[Sequence[Example]], dtype: torch.dtype, device: torch.device) -> Batch:
    """Lay out the batches of some runs; one with fewer rows than the others is filled up with rows not supervised.

    The last token of an answer is scored and never fed.
    """
    rows = max(map(len, runs))
    answers = len(next(example for run in runs for example in run).answers)
    width = max(len(e.prompt) + sum(len(a) - 1 for a in e.answers) for run in runs for e in run)
    ids = np.zeros((len(runs) * rows, width), dtype=np.int64)
    positions = np.zeros_like(ids)
    first = np.full(len(ids), width)  # where the first answer begins and ends, for the mask
    end = np.full(len(ids), width)
    places: list[np.ndarray] = []
    targets: list[int] = []
    owners: list[np.ndarray] = []
    for k, run in enumerate(runs):
        for i, example in enumerate(run, k * rows):
            at = start = len(example.prompt)
            ids[i, :start] = example.prompt
            positions[i, :start] = np.arange(start)
            for j, answer in enumerate(example.answers):
                fed = len(answer) - 1
                ids[i, at : at + fed] = answer[:-1]
                positions[i, at : at + fed] = np.arange(start, start + fed)
                if j == 0:
                    first[i], end[i] = at, at + fed
                # The first token of an answer is scored at the end of the prompt, unless there is none.
                where = np.arange(at - 1, at + fed)
                where[0] = start - 1
                skip = 0 if start else 1
                places.append(i * width + where[skip:])
                targets += answer[skip:]
                owners.append(np.full(len(answer) - skip, i * answers + j))
                at += fed
    mask = None
    if answers > 1:
        query, key = np.arange(width)[:, None], np.arange(width)[None, :]
        blind = query >= end[:, None, None]
        blind = blind & (key >= first[:, None, None]) & (key < end[:, None, None])
        hidden = torch.from_numpy(blind | (key > query))[:, None]
        mask = torch.zeros(hidden.shape, dtype=dtype).masked_fill_(hidden, torch.finfo(dtype).min).to(device)

    size = rows * width
    scored = np.zeros((len(runs), size), dtype=bool)
    scored.ravel()[np.concatenate(places)] = True
    # Stable: what is scored comes first, then places that nobody reads fill up to the largest number of any run.
    read = np.argsort(~scored, axis=1, kind="stable")[:, : scored.sum(axis=1).max()]

    def moved(array: np.ndarray) -> torch.Tensor:
        return torch.from_numpy(array).to(device)

    return Batch(
        moved(ids), moved(positions), mask, moved(np.concatenate(places)), torch.tensor(targets, device=device),
        moved(np.concatenate(owners)), rows, answers, len(runs), moved(read),
    )  # fmt: skip
