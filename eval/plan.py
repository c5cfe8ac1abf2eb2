"""What to compute for a set of requests: token ids, prefix sharing and masks.  Independent of the weights.

Choices and readings are scored together in packed tries; activations have tries of their own; what is put around
other requests (edits, courses) has a plan of what it is put around.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from eval.answers import refusal
from eval.batches import ENTROPY, Batch, Limits, make_batches
from eval.encoder import Encoder
from eval.requests import (
    Activation,
    Answer,
    Choice,
    Course,
    Direction,
    Edit,
    Edited,
    Generation,
    Plain,
    Reading,
    Request,
    Retrained,
)
from eval.trie import Trie

KINDS = (Choice, Generation, Reading, Activation, Edited, Retrained)
Layer = Callable[[int | float], int | None]  # a layer as requested -> its number; None where the model has none such


@dataclass(frozen=True)
class Target:
    """What a plan is made for."""

    encoder: Encoder
    limits: Limits
    tree: bool
    dtype: torch.dtype
    device: torch.device
    layer: Layer
    stamp: tuple[Any, ...] = ()  # an engine with another stamp cannot run the plan


@dataclass(frozen=True, eq=False)
class Seen:
    """Activations: batches whose chunks hold the places that are looked at, and per edge which request it is for."""

    batches: tuple[Batch, ...]
    request_of_edge: np.ndarray  # [E]
    layers: tuple[int, ...]  # that are kept in the forward
    requests: tuple[tuple[Activation, int], ...]  # and the index of their layer in `layers`


@dataclass(frozen=True, eq=False)
class Altered:
    """Requests that are made under each of several edits at one layer; `starts`: the first token edited, per edit."""

    edits: tuple[Edit, ...]
    starts: tuple[int, ...]
    layer: int
    asked: tuple[Plain, ...]
    plan: Plan  # of what is asked


@dataclass(frozen=True, eq=False)
class Taught:
    """A course, and after how many of its steps what is asked, with its plan."""

    course: Course
    asked: tuple[tuple[int, tuple[Choice, ...], Plan], ...]


@dataclass(frozen=True, eq=False)
class Plan:
    """Everything about a set of requests that does not depend on weights; `Engine.run` takes it any number of times."""

    stamp: tuple[Any, ...]
    requests: tuple[Request, ...]  # unique, in the order first seen
    batches: tuple[Batch, ...]
    value_of_edge: np.ndarray  # [E] which value each scored edge is added to, in the order of batches and chunks
    scored: tuple[tuple[Choice | Reading, int, tuple[int, ...]], ...]  # request, first value, tokens per value
    refused: tuple[tuple[Request, Answer], ...]
    prompts: tuple[tuple[Generation, tuple[int, ...]], ...]
    seen: Seen | None
    altered: tuple[Altered, ...]
    taught: tuple[Taught, ...]

    @property
    def n_tokens(self) -> int:
        """Tokens in the forwards of one run, padding included, generation and further training excluded."""
        own = (*self.batches, *(self.seen.batches if self.seen else ()))
        inner = sum(len(a.edits) * a.plan.n_tokens for a in self.altered)
        later = sum(plan.n_tokens for t in self.taught for _, _, plan in t.asked)
        return sum(b.input_ids.numel() for b in own) + inner + later

    @property
    def directions(self) -> tuple[Direction, ...]:
        """Every direction that an edit needs."""
        return tuple(dict.fromkeys(edit.direction for a in self.altered for edit in a.edits))


def make_plan(target: Target, requests: Iterable[Request]) -> Plan:
    """Plan a set of requests (duplicates are asked once).  TypeError for a kind of request that nobody answers."""
    unique = tuple(dict.fromkeys(requests))
    if other := {type(r).__name__ for r in unique if not isinstance(r, KINDS)}:
        raise TypeError(f"the engine does not answer {', '.join(sorted(other))}")
    refused: list[tuple[Request, Answer]] = []
    batches, values, scored = _score(target, [r for r in unique if isinstance(r, Choice | Reading)], refused)
    plans: dict[tuple[Plain, ...], Plan] = {}  # what is asked under several edits or courses is planned once

    def inner(asked: Sequence[Plain]) -> Plan:
        key = tuple(asked)
        if key not in plans:
            plans[key] = make_plan(target, key)
        return plans[key]

    return Plan(
        target.stamp,
        unique,
        batches,
        values,
        scored,
        prompts=_prompts(target, [r for r in unique if isinstance(r, Generation)], refused),
        seen=_look(target, [r for r in unique if isinstance(r, Activation)], refused),
        altered=_alter(target, [r for r in unique if isinstance(r, Edited)], inner, refused),
        taught=_teach([r for r in unique if isinstance(r, Retrained)], inner),
        refused=tuple(refused),
    )


def _wrong(target: Target, n_tokens: int, *sequences: tuple[int, ...]) -> str | None:
    """Why sequences cannot be asked of the model; `n_tokens`: how many of its positions they need."""
    if n_tokens > target.limits.positions:
        return "overflow"
    unknown = target.encoder.unknown
    return "unknown word" if unknown is not None and any(unknown in ids for ids in sequences) else None


def _score(
    target: Target, asked: Sequence[Choice | Reading], refused: list[tuple[Request, Answer]]
) -> tuple[tuple[Batch, ...], np.ndarray, tuple[tuple[Choice | Reading, int, tuple[int, ...]], ...]]:
    """Batches for choices and readings; a choice has a value per option, a reading two per token of its text."""
    trie, edges = Trie(), []
    scored: list[tuple[Choice | Reading, int, tuple[int, ...]]] = []
    n_values = longest = 0
    pairs = [(r.context, r.options if isinstance(r, Choice) else (r.text,)) for r in asked]
    for request, (context, options) in zip(asked, target.encoder.choices(pairs), strict=True):
        counts = tuple(map(len, options))
        length = len(context) + max(counts, default=1) - 1  # the last token is scored, never fed
        if outcome := _wrong(target, length, context, *options):
            refused.append((request, refusal(request, outcome, counts)))
            continue
        longest = max(longest, length)
        end = trie.insert(context)[-1]
        if isinstance(request, Reading):
            counts = (1,) * (2 * counts[0])
        scored.append((request, n_values, counts))
        for ids in options:
            nodes = [end, *trie.insert(ids[:-1], end)]
            if isinstance(request, Choice):
                edges += [(node, token, n_values) for node, token in zip(nodes, ids, strict=True)]
                n_values += 1
                continue
            edges += [(node, token, n_values + k) for k, (node, token) in enumerate(zip(nodes, ids, strict=True))]
            edges += [(node, ENTROPY, n_values + len(ids) + k) for k, node in enumerate(nodes)]
            n_values += len(counts)
    batches, order = _batches(target, trie, edges, longest)
    return batches, order, tuple(scored)


def _prompts(
    target: Target, asked: Sequence[Generation], refused: list[tuple[Request, Answer]]
) -> tuple[tuple[Generation, tuple[int, ...]], ...]:
    found = []
    for generation, ids in zip(asked, target.encoder.contexts([g.context for g in asked]), strict=True):
        if outcome := _wrong(target, len(ids) + generation.max_new_tokens, ids):
            refused.append((generation, refusal(generation, outcome)))
        else:
            found.append((generation, ids))
    return tuple(found)


def _look(target: Target, asked: Sequence[Activation], refused: list[tuple[Request, Answer]]) -> Seen | None:
    trie, edges = Trie(), []
    kept: list[tuple[Activation, int]] = []
    layers: dict[int, int] = {}
    longest = 0
    texts = [(r.context, (r.text,) if r.text else ()) for r in asked]
    for request, (context, options) in zip(asked, target.encoder.choices(texts), strict=True):
        layer = target.layer(request.layer)
        ids = options[0] if options else ()
        length = len(context) + len(ids)
        outcome = "no layer" if layer is None else _wrong(target, length, context, ids)
        if outcome or layer is None:
            refused.append((request, refusal(request, outcome or "no layer")))
            continue
        longest = max(longest, length)
        end = trie.insert(context)[-1]
        nodes = trie.insert(ids, end) if ids else [end]
        edges += [(node, 0, len(kept)) for node in nodes]  # 0: any token, only the place counts
        kept.append((request, layers.setdefault(layer, len(layers))))
    if not kept:
        return None
    batches, order = _batches(target, trie, edges, longest)
    return Seen(batches, order, tuple(layers), tuple(kept))


def _alter(
    target: Target,
    asked: Sequence[Edited],
    inner: Callable[[Sequence[Plain]], Plan],
    refused: list[tuple[Request, Answer]],
) -> tuple[Altered, ...]:
    """Edits at one layer under which the same is asked go into the same forwards."""
    by_edit: dict[Edit, list[Plain]] = {}
    for request in asked:
        if target.layer(request.edit.direction.layer) is None:
            refused.append((request, refusal(request, "no layer")))
        else:
            by_edit.setdefault(request.edit, []).append(request.request)
    together: dict[tuple[int, tuple[Plain, ...]], list[Edit]] = {}
    for edit, within in by_edit.items():
        layer = target.layer(edit.direction.layer)
        assert layer is not None
        together.setdefault((layer, tuple(within)), []).append(edit)
    found = []
    for (layer, asks), edits in together.items():
        starts = [len(target.encoder.contexts([e.after])[0]) if e.after else 0 for e in edits]
        found.append(Altered(tuple(edits), tuple(starts), layer, asks, inner(asks)))
    return tuple(found)


def _teach(asked: Sequence[Retrained], inner: Callable[[Sequence[Plain]], Plan]) -> tuple[Taught, ...]:
    courses: dict[Course, dict[int, list[Choice]]] = {}
    for request in asked:
        courses.setdefault(request.course, {}).setdefault(request.steps, []).append(request.request)
    return tuple(
        Taught(course, tuple((n, tuple(by_steps[n]), inner(by_steps[n])) for n in sorted(by_steps)))
        for course, by_steps in courses.items()
    )


def _batches(
    target: Target, trie: Trie, edges: Sequence[tuple[int, int, int]], longest: int
) -> tuple[tuple[Batch, ...], np.ndarray]:
    tree = target.tree and longest <= target.limits.window
    return make_batches(trie, edges, target.limits, tree=tree, dtype=target.dtype, device=target.device)
