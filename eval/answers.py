"""From what forwards gave to answers: choices and readings, activations, directions, and requests that were refused."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np

from eval.requests import (
    Activated,
    Activation,
    Answer,
    Choice,
    Direction,
    Edited,
    Generated,
    Read,
    Reading,
    Request,
    Retrained,
    Scored,
)

if TYPE_CHECKING:
    from eval.plan import Plan, Seen


def refusal(request: Request, outcome: str, counts: Sequence[int] = ()) -> Answer:
    """Answer to a request that was not computed; `counts`: tokens per option of a choice."""
    if isinstance(request, Edited | Retrained):
        return refusal(request.request, outcome)
    if isinstance(request, Choice):
        counts = tuple(counts) or (0,) * len(request.options)
        return Scored((float("nan"),) * len(counts), counts, outcome)
    if isinstance(request, Reading):
        return Read((), (), outcome)
    if isinstance(request, Activation):
        return Activated(np.zeros(0), float("nan"), 0, outcome)
    return Generated("", 0, outcome, outcome)


def scored(plan: Plan, edges: np.ndarray) -> dict[Request, Answer]:
    """Answers to the plan's choices and readings from the values [E] of one model."""
    n_values = sum(len(counts) for _, _, counts in plan.scored)
    sums = np.bincount(plan.value_of_edge, weights=edges, minlength=n_values)
    finite, values = np.isfinite(sums).tolist(), sums.tolist()
    found: dict[Request, Answer] = {}
    for request, first, counts in plan.scored:
        end = first + len(counts)
        outcome = "ok" if all(finite[first:end]) else "nan"
        if isinstance(request, Choice):
            found[request] = Scored(tuple(values[first:end]), counts, outcome)
        else:
            middle = first + len(counts) // 2
            found[request] = Read(tuple(values[middle:end]), tuple(-v for v in values[first:middle]), outcome)
    return found


def activated(seen: Seen, streams: np.ndarray, lengths: np.ndarray) -> list[dict[Request, Answer]]:
    """Answers by model from the stream [K, E, L, H] at the edges after each of L layers and its lengths [K, E, L]."""
    edges = [np.flatnonzero(seen.request_of_edge == k) for k in range(len(seen.requests))]
    found: list[dict[Request, Answer]] = []
    for stream, length in zip(streams, lengths, strict=True):
        answers: dict[Request, Answer] = {}
        for (request, layer), places in zip(seen.requests, edges, strict=True):
            vector = stream[places, layer].mean(axis=0)
            outcome = "ok" if np.isfinite(vector).all() else "nan"
            answers[request] = Activated(vector, float(length[places, layer].mean()), len(places), outcome)
        found.append(answers)
    return found


def vector_of(direction: Direction, seen: Mapping[Request, Answer]) -> np.ndarray | str:
    """The vector [H] of a direction from its activations, of their tokens' mean length; or why there is none."""
    sides: list[list[Activated]] = [[], []]
    for side, wanted in zip(sides, (direction.plus, direction.minus), strict=True):
        for activation in wanted:
            answer = seen[activation]
            assert isinstance(answer, Activated)
            if answer.outcome != "ok":
                return answer.outcome
            side.append(answer)
    plus, minus = (np.mean([a.vector for a in side], axis=0) for side in sides)
    length = float(np.mean([a.length for side in sides for a in side]))
    vector = plus - minus
    if direction.random is not None:
        vector = np.random.default_rng(direction.random).standard_normal(len(vector))
    size = float(np.linalg.norm(vector))
    return vector * (length / size) if size > 0 else "no direction"
