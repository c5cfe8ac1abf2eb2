"""How much arithmetic scored choices need once common prefixes are shared."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from eval.encoder import Encoder
from eval.requests import Choice
from eval.trie import Trie


@dataclass(frozen=True)
class Work:
    """Of a set of choices: distinct tokens to feed, what they attend to, distinct places to score.

    `rows`, `row_attended`: the same, padding excluded, where only options that differ in their last token share their
    row, as lm-evaluation-harness does; `unshared`: where every option has a row of its own.
    """

    fed: int
    attended: int  # pairs (token, token that it sees)
    scored: int
    rows: int
    row_attended: int
    unshared: int

    def flops(self, model: Any) -> float:
        """Floating point operations of a causal transformer on this work: a product and a sum per weight and use.

        Norms, activations and softmax are left out, as is usual (Kaplan et al. 2020, appendix B).
        """
        return _flops(model, self.fed, self.attended, self.scored)

    def row_flops(self, model: Any) -> float:
        """The same by rows, with logits at every place."""
        return _flops(model, self.rows, self.row_attended, self.rows)


def _flops(model: Any, fed: int, attended: int, scored: int) -> float:
    import torch

    config = model.config.get_text_config()
    body = model.get_decoder()
    weights = sum(m.weight.numel() for m in body.modules() if isinstance(m, torch.nn.Linear))
    head = model.get_output_embeddings().weight.numel()
    heads = config.num_attention_heads
    width = heads * (getattr(config, "head_dim", None) or config.hidden_size // heads)
    attention = 2 * 2 * config.num_hidden_layers * width * attended
    return float(2 * fed * weights + attention + 2 * scored * head)


def work_of(encoder: Encoder, choices: Sequence[Choice]) -> Work:
    """Count it; the last token of an option is scored and never fed."""
    trie = Trie()
    ends: set[int] = set()
    rows: set[tuple[int, ...]] = set()
    unshared = 0
    for context, options in encoder.choices([(c.context, c.options) for c in choices]):
        end = trie.insert(context)[-1]
        for ids in options:
            ends.update([end, *trie.insert(ids[:-1], end)])
            rows.add(context + ids[:-1])
            unshared += len(context) + len(ids) - 1
    return Work(
        fed=len(trie.tokens),
        attended=sum(depth + 1 for depth in trie.depths),
        scored=len(ends),
        rows=sum(map(len, rows)),
        row_attended=sum(len(row) * (len(row) + 1) // 2 for row in rows),
        unshared=unshared,
    )
