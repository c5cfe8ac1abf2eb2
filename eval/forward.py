"""What one forward of a model gives: log-probabilities, entropies, activations, next tokens.

Work is done for k models at a time, whose sequences lie group by group in the batch (`eval.stacked`); under e edits
each group holds the same sequences e times over.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from typing import Any

import torch

from eval.batches import LOGITS_AT_ONCE, Batch
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
        for chunk in batch.chunks:
            size = max(1, LOGITS_AT_ONCE // (len(chunk.places) * self.vocabulary))  # groups
            parts = []
            for rows in hidden.view(groups, -1, hidden.shape[-1])[:, chunk.places].split(size):
                logits = (self._logits(rows) if batch.tree else rows).float()
                normaliser = logits.logsumexp(-1)
                values = logits[:, chunk.rows, chunk.tokens] - normaliser[:, chunk.rows]
                if len(chunk.of_entropy):
                    values = torch.cat([values, entropy(logits[:, chunk.of_entropy])], dim=1)
                parts.append(values)
            found.append(torch.cat(parts))
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

    def _logits(self, hidden: torch.Tensor) -> torch.Tensor:
        assert self._head is not None
        logits = self._head(hidden)
        return logits if self._softcap is None else self._softcap * torch.tanh(logits / self._softcap)


def entropy(logits: torch.Tensor) -> torch.Tensor:
    """Shannon entropy (nats) of the distributions over the last axis of float32 logits."""
    return torch.special.entr(logits.softmax(-1)).sum(-1)


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
