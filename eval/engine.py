"""Answers requests with a model: log-probabilities by prefix sharing, and generation.

All choices of a call are computed together as packed tries (`eval.trie`): the decoder runs once over each shared
token, the head only where a next token is scored.  Plans are independent of weights, so one plan serves every dose.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch

from eval.generate import generate
from eval.plan import Batch, Encoder, Limits, Plan, make_batches, make_plan, refusal
from eval.requests import Answer, Request, Scored
from eval.trie import Trie

UNBOUNDED = 2**31  # positions of a model that states no limit
# Largest difference (nats) between a tree and a plain forward that is rounding: seen 3.5e-5 in float32 on 135 M
# parameters; half precision keeps 8 to 11 bits.  A model that ignores the mask is off by far more.
TOLERANCE = {torch.float64: 1e-5, torch.float32: 1e-3}
TOLERANCE_HALF = 0.15


class Engine:
    """Answers requests with one causal model, PEFT-wrapped or not; adapters may change between runs."""

    def __init__(
        self,
        model: Any,
        tokenizer: Any,
        device: torch.device | str | None = None,
        max_tokens: int = 4096,
        bin_tokens: int = 256,
    ) -> None:
        """`max_tokens` bounds one forward and `bin_tokens` one packed trie in it; neither moves a result.

        `device`: where to run (the model is moved there); default: where the model is.
        """
        self.model = model if device is None else model.to(device)
        self.tokenizer = tokenizer
        self.encoder = Encoder(tokenizer)
        inner = _unwrapped(model)
        weight = next(p for p in model.parameters() if p.is_floating_point())
        self.device, self.dtype = weight.device, weight.dtype
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
        )
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
        if plan.stamp != self.stamp:
            raise ValueError("this plan was made for another tokenizer, device or kind of model")
        answers: dict[Request, Answer] = {}
        with self._evaluating():
            edges = self._edge_logprobs(plan.batches)
            if plan.prompts:
                said = generate(
                    self._step,
                    self.tokenizer,
                    plan.prompts,
                    ends=self._ends(),
                    max_tokens=self.limits.max_tokens,
                    device=self.device,
                )
                answers.update({request: said[request] for request in said})
        n_options = sum(len(counts) for _, _, counts in plan.scored)
        sums = np.bincount(plan.option_of_edge, weights=edges, minlength=n_options)
        finite = np.isfinite(sums)
        for choice, first, counts in plan.scored:
            span = slice(first, first + len(counts))
            outcome = "ok" if finite[span].all() else "nan"
            answers[choice] = Scored(tuple(sums[span].tolist()), counts, outcome)
        for request, outcome, counts in plan.refused:
            answers[request] = refusal(request, outcome, counts)
        return {request: answers[request] for request in plan.requests}

    def answer(self, requests: Iterable[Request]) -> dict[Request, Answer]:
        """Plan and run: the answer to each distinct request."""
        return self.run(self.plan(requests))

    def _edge_logprobs(self, batches: Iterable[Batch]) -> np.ndarray:
        """Log-probabilities [E] (nats, float32) of the scored tokens, in the order of batches and chunks."""
        found = []
        for batch in batches:
            hidden = self._hidden(batch)
            for chunk in batch.chunks:
                rows = hidden[chunk.places]
                logits = (self._logits(rows) if batch.tree else rows).float()
                normaliser = logits.logsumexp(-1)
                found.append(logits[chunk.rows, chunk.tokens] - normaliser[chunk.rows])
        return torch.cat(found).cpu().numpy() if found else np.zeros(0, dtype=np.float32)

    def _hidden(self, batch: Batch) -> torch.Tensor:
        """Last hidden states [B * N, H] of a tree batch, or logits [B * N, V] of a plain one."""
        if batch.tree:
            assert self._body is not None
            out = self._body(
                input_ids=batch.input_ids, attention_mask=batch.mask, position_ids=batch.position_ids, use_cache=False
            )
            return out.last_hidden_state.flatten(0, 1)
        out = self.model(input_ids=batch.input_ids, attention_mask=batch.mask, use_cache=False)
        return out.logits.flatten(0, 1)

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
                    values[order] = self._edge_logprobs(batches)
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
