"""What one forward of a model gives: log-probabilities, entropies, activations, next tokens.

Work is done for k models at a time, whose sequences lie group by group in the batch (`eval.stacked`); under e edits
each group holds the same sequences e times over.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from typing import Any

import torch

from eval.batches import LOGITS_AT_ONCE, WORDS_AT_ONCE, Batch, Chunk, places_at_once
from eval.residual import Editing, blocks_of, hooked, layer_number


class Forward:
    """One causal model, PEFT-wrapped or not.  `tree`: whether it takes the masks of packed tries (by the engine)."""

    def __init__(self, model: Any) -> None:
        self.model = model
        inner = _unwrapped(model)
        config = model.config.get_text_config()
        self.vocabulary: int = config.vocab_size
        self.n_layers: int = config.num_hidden_layers
        self._softcap = getattr(config, "final_logit_softcapping", None)
        self._body = inner.get_decoder() if inner is not None else None
        self._head = inner.get_output_embeddings() if inner is not None else None
        self._blocks = blocks_of(self._body, self.n_layers) if self._body is not None else ()
        self._editing: Editing | None = None
        self.tree = self._body is not None and self._head is not None
        # Only of a plain output layer can a part be computed.
        self.words = min(self.vocabulary, WORDS_AT_ONCE) if type(self._head) is torch.nn.Linear else self.vocabulary

    def layer(self, layer: int | float) -> int | None:
        """Number of a requested layer; None where the model has none such."""
        return layer_number(layer, self.n_layers) if self._blocks else None

    @contextmanager
    def editing(self, editing: Editing, layer: int) -> Iterator[None]:
        """Inside, the stream at `layer` is edited in every forward, and every group holds a copy for each edit."""
        with hooked(self._blocks, layer, editing):
            self._editing = editing
            try:
                yield
            finally:
                self._editing = None

    @property
    def copies(self) -> int:
        """How many times each group holds the sequences."""
        return 1 if self._editing is None else len(self._editing)

    def scores(self, batch: Batch, k: int) -> torch.Tensor:
        """Values [k * copies, E] of a batch's edges, chunk by chunk: log-probabilities, then entropies (nats)."""
        groups = k * self.copies
        hidden = self._hidden(batch, k)
        found = []
        words = self.words if batch.tree else self.vocabulary
        for chunk in batch.chunks:
            size = max(1, places_at_once(words) // len(chunk.places))  # groups
            rows = hidden.view(groups, -1, hidden.shape[-1])[:, chunk.places]
            by_words = self._by_words if batch.tree else _one_block
            found.append(torch.cat([_of_blocks(by_words(part), chunk) for part in rows.split(size)]))
        return torch.cat(found, dim=1)

    def activations(self, batch: Batch, layers: Sequence[int], k: int) -> tuple[torch.Tensor, torch.Tensor]:
        """The stream [k, E, L, H] in float64 at the edges of a batch after each of L layers; its lengths [k, E, L]."""
        kept: dict[int, torch.Tensor] = {}

        def keep(layer: int) -> Any:
            def change(hidden: torch.Tensor) -> None:
                kept[layer] = hidden

            return change

        with ExitStack() as stack:
            for layer in layers:
                stack.enter_context(hooked(self._blocks, layer, keep(layer)))
            self._hidden(batch, k)
        found = []
        for chunk in batch.chunks:
            rows = [kept[layer].reshape(k, -1, kept[layer].shape[-1])[:, chunk.places[chunk.rows]] for layer in layers]
            found.append(torch.stack(rows, dim=2))
        streams = torch.cat(found, dim=1).double()
        return streams, streams.norm(dim=-1)

    def step(
        self, input_ids: torch.Tensor, mask: torch.Tensor, positions: torch.Tensor, cache: Any, models: int
    ) -> tuple[torch.Tensor, Any]:
        """Next-token logits [B, V] in float32 and the cache, for `eval.generate`."""
        self._place(positions, models)
        what = {"input_ids": input_ids, "attention_mask": mask, "position_ids": positions, "past_key_values": cache}
        if self.tree:
            assert self._body is not None
            out = self._body(**what, use_cache=True)
            return self._logits(out.last_hidden_state[:, -1]).float(), out.past_key_values
        out = self.model(**what, use_cache=True)
        return out.logits[:, -1].float(), out.past_key_values

    def _hidden(self, batch: Batch, k: int) -> torch.Tensor:
        """Last hidden states [k * copies * B, N, H] of a tree batch, or logits [..., V] of a plain one."""
        groups = k * self.copies
        ids, mask = _groups(batch.input_ids, groups), _groups(batch.mask, groups)
        positions = _groups(batch.position_ids, groups)
        self._place(positions, k)
        if batch.tree:
            assert self._body is not None
            out = self._body(input_ids=ids, attention_mask=mask, position_ids=positions, use_cache=False)
            return out.last_hidden_state
        return self.model(input_ids=ids, attention_mask=mask, use_cache=False).logits

    def _place(self, positions: torch.Tensor, models: int) -> None:
        if self._editing is not None:
            self._editing.positions, self._editing.models = positions, models

    def _by_words(self, hidden: torch.Tensor) -> Iterator[tuple[int, torch.Tensor]]:
        """Logits of hidden states [G, R, H], some words of the vocabulary at a time, and the first word of each.

        On a CPU few words whatever the number of places: what its cache holds of the output layer is read once.
        """
        assert self._head is not None
        if self.words == self.vocabulary:
            yield 0, self._logits(hidden)
            return
        on_cpu, places = hidden.device.type == "cpu", hidden.shape[:-1].numel()
        size = self.words if on_cpu else max(self.words, LOGITS_AT_ONCE // places)
        weight, bias = self._head.weight, self._head.bias
        for start in range(0, len(weight), size):
            part = slice(start, start + size)
            logits = torch.nn.functional.linear(hidden, weight[part], None if bias is None else bias[part])
            yield start, self._capped(logits)

    def _logits(self, hidden: torch.Tensor) -> torch.Tensor:
        assert self._head is not None
        return self._capped(self._head(hidden))

    def _capped(self, logits: torch.Tensor) -> torch.Tensor:
        return logits if self._softcap is None else self._softcap * torch.tanh(logits / self._softcap)


def entropy(logits: torch.Tensor) -> torch.Tensor:
    """Shannon entropy (nats) of the distributions over the last axis of float32 logits."""
    return torch.special.entr(logits.softmax(-1)).sum(-1)


def _one_block(logits: torch.Tensor) -> Iterator[tuple[int, torch.Tensor]]:
    yield 0, logits


def _of_blocks(blocks: Iterable[tuple[int, torch.Tensor]], chunk: Chunk) -> torch.Tensor:
    """Values [G, E] of a chunk's edges from logits [G, R, W] of the vocabulary's blocks.

    The distribution is a choice of a block, then of a word in it: normalisers add up as log-probabilities do, and
    entropy is that of the first choice and the mean of the second's.  With one block this is its plain softmax.
    """
    normalisers, entropies, values = [], [], torch.zeros(())
    for start, some in blocks:
        logits = some.float()
        normalisers.append(logits.logsumexp(-1))
        if len(chunk.of_entropy):
            entropies.append(entropy(logits[:, chunk.of_entropy]))
        at = chunk.tokens - start
        inside = (at >= 0) & (at < logits.shape[-1])
        found = logits[:, chunk.rows, at.clamp(0, logits.shape[-1] - 1)]
        values = torch.where(inside, found, values.to(found.device))
    normaliser = torch.stack(normalisers)
    values = values - normaliser.logsumexp(0)[:, chunk.rows]
    if entropies:
        share = normaliser[:, :, chunk.of_entropy].softmax(0)
        within = (share * torch.stack(entropies)).sum(0)
        values = torch.cat([values, torch.special.entr(share).sum(0) + within], dim=1)
    return values


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
