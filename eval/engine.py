"""Answers requests with a model: log-probabilities by prefix sharing, and generation.

All choices of a call are computed together as packed tries (`eval.trie`): the decoder runs once over each shared
token, the head only where a next token is scored.  Plans are independent of weights, so one plan serves every dose,
and many at once: `Engine.run_many` makes the base K models, and a batch [B, N] of the plan K groups [K * B, N].
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from functools import partial
from typing import Any

import numpy as np
import torch

from eval.generate import continue_batch, in_batches
from eval.plan import LOGITS_AT_ONCE, Batch, Encoder, Limits, Plan, make_batches, make_plan, refusal
from eval.requests import Answer, Generated, Generation, Request, Scored
from eval.stacked import Stacked
from eval.trie import Trie
from recipes.adapters import Adapters, Unstackable

# Tokens of one forward.  A CPU is fastest while what a layer makes stays in its cache: at 96 wide, 2048 tokens take
# 79 ms per dose of a world's suite, 4096 take 89, 46 000 take 137.
TOKENS_AT_ONCE, TOKENS_AT_ONCE_CPU = 16384, 2048
UNBOUNDED = 2**31  # positions of a model that states no limit
# Largest difference (nats) between a tree and a plain forward that is rounding: seen 3.5e-5 in float32 on 135 M
# parameters; half precision keeps 8 to 11 bits.  A model that ignores the mask is off by far more.
TOLERANCE = {torch.float64: 1e-5, torch.float32: 1e-3}
TOLERANCE_HALF = 0.15


class Engine:
    """Answers requests with one causal model, PEFT-wrapped or not, or with K adapters on it at once."""

    def __init__(
        self,
        model: Any,
        tokenizer: Any,
        device: torch.device | str | None = None,
        max_tokens: int | None = None,
        bin_tokens: int = 512,
    ) -> None:
        """`max_tokens` bounds one forward and `bin_tokens` one packed trie in it, which may be smaller where that
        is cheaper; neither moves a result.

        `device`: where to run (the model is moved there); default: where the model is.  `max_tokens` by default is
        what that device is fast at.
        """
        self.model = model if device is None else model.to(device)
        self.tokenizer = tokenizer
        self.encoder = Encoder(tokenizer)
        inner = _unwrapped(model)
        weight = next(p for p in model.parameters() if p.is_floating_point())
        self.device, self.dtype = weight.device, weight.dtype
        if max_tokens is None:
            max_tokens = TOKENS_AT_ONCE_CPU if self.device.type == "cpu" else TOKENS_AT_ONCE
        config = model.config.get_text_config()
        self.limits = Limits(
            max_tokens=max_tokens,
            bin_tokens=bin_tokens,
            positions=getattr(config, "max_position_embeddings", None) or UNBOUNDED,
            window=min(
                getattr(config, "sliding_window", None) or UNBOUNDED,
                getattr(config, "attention_chunk_size", None) or UNBOUNDED,
            ),
            vocabulary=config.vocab_size,
            # A layer of width H multiplies about 24 H^2 times for a token, and 4 H times for each that it looks at.
            equal=6 * config.hidden_size,
        )
        self._stacked = Stacked(model, max_tokens)
        self._softcap = getattr(config, "final_logit_softcapping", None)
        self._body = inner.get_decoder() if inner is not None else None
        self._head = inner.get_output_embeddings() if inner is not None else None
        self.tree = self._body is not None and self._head is not None and self._tree_agrees()

    @property
    def stamp(self) -> tuple[Any, ...]:
        """What a plan depends on; engines of equal stamps can run each other's plans."""
        return (self.tokenizer, self.limits, self.tree, self.dtype, self.device)

    def plan(self, requests: Iterable[Request]) -> Plan:
        """Tokenise, share prefixes, pack and make the masks, once for any number of runs."""
        return make_plan(
            self.encoder, requests, self.limits, tree=self.tree, dtype=self.dtype, device=self.device, stamp=self.stamp
        )

    def run(self, plan: Plan) -> dict[Request, Answer]:
        """Answers of the model as it is now, in the order of ``plan.requests``."""
        return self._run(plan, None)[0]

    def run_many(self, plan: Plan, adapters: Adapters) -> list[dict[Request, Answer]]:
        """Answers of the K models that the adapters make of this one, which is their plain base: as from K runs.

        As many models go into one forward as its tokens allow; fewer, said once on stderr, where memory runs out.
        Unstackable: this model wears an adapter of its own, or theirs are on the output layer.
        """
        self.require_stackable(adapters)
        return self._run(plan, adapters)

    def require_stackable(self, adapters: Adapters) -> None:
        """Raise Unstackable where `run_many` would."""
        if hasattr(self.model, "peft_config"):
            raise Unstackable("adapters are stacked on a plain base; this model wears one of its own")
        if any(self.model.get_submodule(name) is self.model.get_output_embeddings() for name in adapters.a):
            raise Unstackable("the output layer is adapted")  # logits are not computed for all groups together

    def _run(self, plan: Plan, adapters: Adapters | None) -> list[dict[Request, Answer]]:
        if plan.stamp != self.stamp:
            raise ValueError("this plan was made for another tokenizer, device or kind of model")
        with self._evaluating():
            said = self._generated(plan, adapters)
            edges = self._edge_logprobs(plan.batches, adapters)
        return [_in_order(plan, _scored(plan, own) | texts) for own, texts in zip(edges, said, strict=True)]

    def answer(self, requests: Iterable[Request]) -> dict[Request, Answer]:
        """Plan and run: the answer to each distinct request."""
        return self.run(self.plan(requests))

    # What a request needs of the model is computed for k groups at a time by a function of k that `Stacked.run` calls.

    def _edge_logprobs(self, batches: Iterable[Batch], adapters: Adapters | None = None) -> np.ndarray:
        """Log-probabilities [K, E] (nats, float32) of the scored tokens, in the order of batches and chunks."""
        found = [np.zeros((1 if adapters is None else len(adapters), 0), dtype=np.float32)]
        for batch in batches:
            parts = self._stacked.run(partial(self._scores, batch), batch.input_ids.numel(), adapters)
            found.append(torch.cat(list(parts)).cpu().numpy())
        return np.concatenate(found, axis=1)

    def _scores(self, batch: Batch, k: int) -> torch.Tensor:
        """Log-probabilities [k, E] of a batch's scored tokens."""
        hidden = self._hidden(batch, k)
        found = []
        for chunk in batch.chunks:
            size = max(1, LOGITS_AT_ONCE // (len(chunk.places) * self.limits.vocabulary))  # groups
            parts = []
            for rows in hidden[:, chunk.places].split(size):
                logits = (self._logits(rows) if batch.tree else rows).float()
                normaliser = logits.logsumexp(-1)
                parts.append(logits[:, chunk.rows, chunk.tokens] - normaliser[:, chunk.rows])
            found.append(torch.cat(parts))
        return torch.cat(found, dim=1)

    def _hidden(self, batch: Batch, k: int) -> torch.Tensor:
        """Last hidden states [k, B * N, H] of a tree batch, or logits [k, B * N, V] of a plain one."""
        ids, mask = _groups(batch.input_ids, k), _groups(batch.mask, k)
        if batch.tree:
            assert self._body is not None
            positions = _groups(batch.position_ids, k)
            out = self._body(input_ids=ids, attention_mask=mask, position_ids=positions, use_cache=False)
            return out.last_hidden_state.view(k, batch.input_ids.numel(), -1)
        out = self.model(input_ids=ids, attention_mask=mask, use_cache=False)
        return out.logits.view(k, batch.input_ids.numel(), -1)

    def _generated(self, plan: Plan, adapters: Adapters | None) -> list[dict[Generation, Generated]]:
        """What each of the K models says to the prompts."""
        found: list[dict[Generation, Generated]] = [{} for _ in range(1 if adapters is None else len(adapters))]
        for batch in in_batches(plan.prompts, self.limits.max_tokens):
            n_tokens = sum(len(ids) + request.max_new_tokens for request, ids in batch)
            work = partial(continue_batch, self._step, self.tokenizer, batch, self._ends(), self.device)
            models = (said for part in self._stacked.run(work, n_tokens, adapters) for said in part)
            for own, said in zip(found, models, strict=True):
                own.update(said)
        return found

    def _logits(self, hidden: torch.Tensor) -> torch.Tensor:
        assert self._head is not None
        logits = self._head(hidden)
        return logits if self._softcap is None else self._softcap * torch.tanh(logits / self._softcap)

    def _step(
        self, input_ids: torch.Tensor, mask: torch.Tensor, positions: torch.Tensor, cache: Any
    ) -> tuple[torch.Tensor, Any]:
        """Next-token logits [B, V] in float32 and the cache, for `eval.generate`."""
        what = {"input_ids": input_ids, "attention_mask": mask, "position_ids": positions, "past_key_values": cache}
        if self.tree:
            assert self._body is not None
            out = self._body(**what, use_cache=True)
            return self._logits(out.last_hidden_state[:, -1]).float(), out.past_key_values
        out = self.model(**what, use_cache=True)
        return out.logits[:, -1].float(), out.past_key_values

    def _ends(self) -> set[int]:
        """Tokens that end a sequence, by the tokenizer and by the model's generation settings."""
        settings = getattr(self.model, "generation_config", None)
        ends = getattr(settings, "eos_token_id", None)
        found = set(ends) if isinstance(ends, list | tuple) else {ends}
        return {e for e in found | {self.tokenizer.eos_token_id} if e is not None}

    def _tree_agrees(self) -> bool:
        """Whether body, head and tree mask give what the plain model gives, on one tiny forest of tokens.

        Some attention kernels ignore a four-dimensional mask, and some heads scale their logits in between.
        """
        size = self.limits.vocabulary
        a, b, c, d, e = (1 + (k * 7919) % (size - 1) for k in range(5))
        trie = Trie()
        for sequence in ((a, b, c, d), (a, b, d, d, c), (a, e, c, b), (d, c, a)):
            trie.insert(sequence)
        pairs = [(node, token) for node in range(len(trie.tokens)) for token in (a, b, c, d, e)]
        edges = [(node, token, k) for k, (node, token) in enumerate(pairs)]
        found = []
        try:
            with self._evaluating():
                for tree in (True, False):
                    batches, order = make_batches(
                        trie, edges, self.limits, tree=tree, dtype=self.dtype, device=self.device
                    )
                    values = np.zeros(len(edges))
                    values[order] = self._edge_logprobs(batches)[0]
                    found.append(values)
        except (RuntimeError, ValueError, TypeError, AttributeError, NotImplementedError):
            return False  # a model that cannot take such a mask says so in many ways; plain batches remain
        return bool(np.abs(found[0] - found[1]).max() <= TOLERANCE.get(self.dtype, TOLERANCE_HALF))

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


def _unwrapped(model: Any) -> Any | None:
    """The transformers model inside a PEFT wrapper; None where the wrapper adds tokens of its own (prompt tuning)."""
    if not hasattr(model, "get_base_model"):
        return model
    if model.active_peft_config.is_prompt_learning:
        return None
    return model.get_base_model()


def _groups(tensor: torch.Tensor, k: int) -> torch.Tensor:
    """[B, ...] k times over, [k * B, ...]; made for a forward and gone with it."""
    return tensor if k == 1 else tensor.expand(k, *tensor.shape).flatten(0, 1)


def _scored(plan: Plan, edges: np.ndarray) -> dict[Request, Answer]:
    """Answers to the plan's choices from the log-probabilities [E] of one model."""
    n_options = sum(len(counts) for _, _, counts in plan.scored)
    sums = np.bincount(plan.option_of_edge, weights=edges, minlength=n_options)
    finite, values = np.isfinite(sums).tolist(), sums.tolist()
    found: dict[Request, Answer] = {}
    for choice, first, counts in plan.scored:
        end = first + len(counts)
        found[choice] = Scored(tuple(values[first:end]), counts, "ok" if all(finite[first:end]) else "nan")
    return found


def _in_order(plan: Plan, answers: Mapping[Any, Answer]) -> dict[Request, Answer]:
    refused = {request: refusal(request, outcome, counts) for request, outcome, counts in plan.refused}
    return {request: answers[request] if request in answers else refused[request] for request in plan.requests}
