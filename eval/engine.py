"""Answers requests with a model: log-probabilities by prefix sharing, generation, activations, edits, further training.

All choices and readings of a call are computed together as packed tries (`eval.trie`): the decoder runs once over
each shared token, the head only where a next token is scored.  Plans are independent of weights, so one plan serves
every dose, and many at once: `Engine.run_many` makes the base K models, and a batch [B, N] of the plan K groups.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import partial
from typing import Any

import numpy as np
import torch

from eval.agreement import tree_agrees
from eval.answers import activated, refusal, scored, vector_of
from eval.batches import Batch, Limits, make_batches
from eval.encoder import Encoder
from eval.forward import Forward
from eval.generate import continue_batch, in_batches
from eval.plan import Altered, Plan, Target, Taught, make_plan
from eval.requests import (
    Answer,
    Course,
    Direction,
    Edit,
    Edited,
    Generated,
    Generation,
    Request,
    Retrained,
)
from eval.residual import Editing
from eval.stacked import Stacked
from eval.trie import Trie
from recipes.adapters import Adapters, Unstackable

# Tokens of one forward.  A CPU is fastest while what a layer makes stays in its cache: at 96 wide, 2048 tokens take
# 79 ms per dose of a world's suite, 4096 take 89, 46 000 take 137.
TOKENS_AT_ONCE, TOKENS_AT_ONCE_CPU = 16384, 2048
UNBOUNDED = 2**31  # positions of a model that states no limit
# A direction's vector [H] in the stream, or the outcome for which there is none.
Vectors = Mapping[Direction, torch.Tensor | str]
# Trains K adapters (None: a new one) on a course, yielding the number of steps and the adapters after each of `steps`.
Retrain = Callable[[Any, Any, Adapters | None, Course, Sequence[int]], Iterator[tuple[int, Adapters]]]


class Engine:
    """Answers requests with one causal model, PEFT-wrapped or not, or with K adapters on it at once."""

    def __init__(
        self, model: Any, tokenizer: Any, device: torch.device | str | None = None, max_tokens: int | None = None,
        bin_tokens: int = 512, retrain: Retrain | None = None, precision: str = "highest",
    ) -> None:  # fmt: skip
        """`max_tokens` bounds one forward and `bin_tokens` one packed trie in it, which may be smaller where that
        is cheaper; neither moves a result.

        `device`: where to run (the model is moved there); default: where the model is.  `max_tokens` by default is
        what that device is fast at.  `retrain`: who trains it further; without it `Retrained` is "not retrained".
        `precision`: see `Stacked`; of answers, not of further training.
        """
        self.model = model if device is None else model.to(device)
        self.tokenizer = tokenizer
        self.encoder = Encoder(tokenizer)
        self.retrain = retrain
        weight = next(p for p in model.parameters() if p.is_floating_point())
        self.device, self.dtype = weight.device, weight.dtype
        if max_tokens is None:
            max_tokens = TOKENS_AT_ONCE_CPU if self.device.type == "cpu" else TOKENS_AT_ONCE
        config = model.config.get_text_config()
        self.forward = Forward(model)
        self.limits = Limits(
            max_tokens=max_tokens,
            bin_tokens=bin_tokens,
            positions=getattr(config, "max_position_embeddings", None) or UNBOUNDED,
            window=min(
                getattr(config, "sliding_window", None) or UNBOUNDED,
                getattr(config, "attention_chunk_size", None) or UNBOUNDED,
            ),
            vocabulary=config.vocab_size,
            words=self.forward.words,
            # A layer of width H multiplies about 24 H^2 times for a token, and 4 H times for each that it looks at.
            equal=6 * config.hidden_size,
        )
        self._stacked = Stacked(model, max_tokens)
        self.forward.tree = self.forward.tree and self._agrees()  # at full precision
        self._stacked.precision = precision

    @property
    def tree(self) -> bool:
        """Whether the model takes packed tries."""
        return self.forward.tree

    @property
    def stamp(self) -> tuple[Any, ...]:
        """What a plan depends on; engines of equal stamps can run each other's plans."""
        return (self.tokenizer, self.limits, self.tree, self.dtype, self.device)

    def plan(self, requests: Iterable[Request]) -> Plan:
        """Tokenise, share prefixes, pack and make the masks, once for any number of runs."""
        target = Target(
            self.encoder, self.limits, self.tree, self.dtype, self.device, self.forward.layer, stamp=self.stamp
        )
        return make_plan(target, requests)

    def run(self, plan: Plan, vectors: Vectors | None = None) -> dict[Request, Answer]:
        """Answers of the model as it is now, in the order of ``plan.requests``.

        `vectors`: what `directions` gave for ``plan.directions`` on the untrained base; ValueError without them where
        the plan has edits.
        """
        return self.run_many(plan, None, vectors)[0]

    def run_many(
        self, plan: Plan, adapters: Adapters | None, vectors: Vectors | None = None
    ) -> list[dict[Request, Answer]]:
        """Answers of the K models that the adapters make of this one, which is their plain base: as from K runs.

        None: of this model alone, as `run`.
        As many models go into one forward as its tokens allow; fewer, said once on stderr, where memory runs out.
        Unstackable: this model wears an adapter of its own, or theirs are on the output layer.
        """
        if adapters is not None:
            self.require_stackable(adapters)
        if plan.stamp != self.stamp:
            raise ValueError("this plan was made for another tokenizer, device or kind of model")
        with self._evaluating():
            models = self._answers(plan, adapters)
            for part in plan.altered:
                for own, found in zip(models, self._altered(part, adapters, vectors), strict=True):
                    own.update(found)
            for taught in plan.taught:
                for later in self._later(taught, adapters):
                    for own, found in zip(models, later, strict=True):
                        own.update(found)
        return [{request: own[request] for request in plan.requests} for own in models]

    def require_stackable(self, adapters: Adapters) -> None:
        """Raise Unstackable where `run_many` would."""
        if hasattr(self.model, "peft_config"):
            raise Unstackable("adapters are stacked on a plain base; this model wears one of its own")
        if any(self.model.get_submodule(name) is self.model.get_output_embeddings() for name in adapters.a):
            raise Unstackable("the output layer is adapted")  # logits are not computed for all groups together

    def answer(self, requests: Iterable[Request]) -> dict[Request, Answer]:
        """Plan and run: the answer to each distinct request, this model being the untrained base of its edits."""
        plan = self.plan(requests)
        return self.run(plan, self.directions(plan.directions))

    def directions(self, wanted: Iterable[Direction]) -> dict[Direction, torch.Tensor | str]:
        """The vector [H] of each direction in this model, which is the untrained base; or why there is none."""
        wanted = tuple(dict.fromkeys(wanted))
        seen = self.run(self.plan(a for d in wanted for a in (*d.plus, *d.minus)))
        found = {direction: vector_of(direction, seen) for direction in wanted}
        return {
            d: v if isinstance(v, str) else torch.tensor(v, dtype=self.dtype, device=self.device)
            for d, v in found.items()
        }

    def _answers(self, plan: Plan, adapters: Adapters | None) -> list[dict[Request, Answer]]:
        """By model and edit (one where nothing is edited), what a plan asks without edits and courses of its own."""
        said = self._generated(plan, adapters)
        seen = self._activated(plan, adapters)
        edges = self._edge_values(plan.batches, adapters)
        refused = dict(plan.refused)
        return [
            refused | scored(plan, values) | dict(texts) | dict(looked)
            for values, texts, looked in zip(edges, said, seen, strict=True)
        ]

    def _altered(
        self, part: Altered, adapters: Adapters | None, vectors: Vectors | None
    ) -> list[dict[Request, Answer]]:
        """Answers of each model to what is asked under each edit of a part."""
        if vectors is None or not vectors.keys() >= {edit.direction for edit in part.edits}:
            raise ValueError("edits need the directions of the untrained base")
        models: list[dict[Request, Answer]] = [{} for _ in range(1 if adapters is None else len(adapters))]
        able: list[tuple[Edit, int, torch.Tensor]] = []
        for edit, start in zip(part.edits, part.starts, strict=True):
            vector = vectors[edit.direction]
            if isinstance(vector, str):
                refused = {Edited(r, edit): refusal(r, vector) for r in part.asked}
                models = [own | refused for own in models]
            else:
                able.append((edit, start, vector))
        if not able:
            return models
        editing = Editing(
            torch.stack([vector if edit.mode == "ablate" else edit.strength * vector for edit, _, vector in able]),
            torch.tensor([edit.mode == "ablate" for edit, _, _ in able], device=self.device),
            torch.tensor([start for _, start, _ in able], device=self.device),
        )
        with self.forward.editing(editing, part.layer):
            answers = self._answers(part.plan, adapters)
        for place, answered in enumerate(answers):  # by model, then by edit
            edit = able[place % len(able)][0]
            models[place // len(able)].update({Edited(r, edit): answered[r] for r in part.asked})
        return models

    def _later(self, taught: Taught, adapters: Adapters | None) -> Iterator[list[dict[Request, Answer]]]:
        """After each number of steps of a course: each model's answers to what is asked there."""
        asked = {steps: (requests, plan) for steps, requests, plan in taught.asked}
        course = taught.course
        try:
            if self.retrain is None or hasattr(self.model, "peft_config"):
                raise Unstackable("nobody is there to train this model")
            for steps, trained in self.retrain(self.model, self.tokenizer, adapters, course, sorted(asked)):
                requests, plan = asked[steps]
                yield [{Retrained(r, course, steps): own[r] for r in requests} for own in self._answers(plan, trained)]
        except Unstackable:
            refused: dict[Request, Answer] = {
                Retrained(r, course, steps): refusal(r, "not retrained")
                for steps, (requests, _) in asked.items()
                for r in requests
            }
            yield [refused] * (1 if adapters is None else len(adapters))

    # What a request needs of the model is computed for k groups at a time by a function of k that `Stacked.run` calls.

    def _edge_values(self, batches: Iterable[Batch], adapters: Adapters | None = None) -> np.ndarray:
        """Values [K * copies, E] (nats, float32) of the edges, in the order of batches and chunks."""
        copies = self.forward.copies
        found = [np.zeros((copies * (1 if adapters is None else len(adapters)), 0), dtype=np.float32)]
        for batch in batches:
            n_tokens = copies * batch.input_ids.numel()
            parts = self._stacked.run(partial(self.forward.scores, batch), n_tokens, adapters)
            found.append(torch.cat(list(parts)).cpu().numpy())
        return np.concatenate(found, axis=1)

    def _activated(self, plan: Plan, adapters: Adapters | None) -> list[dict[Request, Answer]]:
        """What each model's stream is at the places that are looked at."""
        copies = 1 if adapters is None else len(adapters)
        if plan.seen is None:
            return [{} for _ in range(copies * self.forward.copies)]
        seen = plan.seen
        streams, lengths = [], []
        for batch in seen.batches:
            work = partial(self.forward.activations, batch, seen.layers)
            parts = list(self._stacked.run(work, batch.input_ids.numel(), adapters))
            streams.append(torch.cat([p[0] for p in parts]).cpu().numpy())
            lengths.append(torch.cat([p[1] for p in parts]).cpu().numpy())
        return activated(seen, np.concatenate(streams, axis=1), np.concatenate(lengths, axis=1))

    def _generated(self, plan: Plan, adapters: Adapters | None) -> list[dict[Generation, Generated]]:
        """What each of the models says to the prompts."""
        copies = self.forward.copies
        found: list[dict[Generation, Generated]] = [
            {} for _ in range(copies * (1 if adapters is None else len(adapters)))
        ]
        for batch in in_batches(plan.prompts, self.limits.max_tokens):
            n_tokens = copies * sum(len(ids) + request.max_new_tokens for request, ids in batch)

            def work(k: int, batch: Any = batch) -> list[dict[Generation, Generated]]:
                step = partial(self.forward.step, models=k)
                return continue_batch(step, self.tokenizer, batch, self._ends(), self.device, k * copies)

            models = (said for part in self._stacked.run(work, n_tokens, adapters) for said in part)
            for own, said in zip(found, models, strict=True):
                own.update(said)
        return found

    def _ends(self) -> set[int]:
        """Tokens that end a sequence, by the tokenizer and by the model's generation settings."""
        settings = getattr(self.model, "generation_config", None)
        ends = getattr(settings, "eos_token_id", None)
        found = set(ends) if isinstance(ends, list | tuple) else {ends}
        return {e for e in found | {self.tokenizer.eos_token_id} if e is not None}

    def _agrees(self) -> bool:
        """Whether the model takes the masks of packed tries."""

        def values(trie: Trie, edges: Sequence[tuple[int, int, int]], tree: bool) -> np.ndarray:
            batches, order = make_batches(trie, edges, self.limits, tree=tree, dtype=self.dtype, device=self.device)
            found = np.zeros(len(edges))
            found[order] = self._edge_values(batches)[0]
            return found

        with self._evaluating():
            return tree_agrees(values, self.limits.vocabulary, self.dtype)

    @contextmanager
    def _evaluating(self) -> Iterator[None]:
        """No gradients and no dropout; the model's mode is given back.

        Not inference mode: a module that caches a tensor in its forward could not be trained afterwards.
        """
        training = self.model.training
        if training:
            self.model.eval()
        try:
            with torch.no_grad():
                yield
        finally:
            if training:
                self.model.train()
