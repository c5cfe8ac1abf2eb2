"""Whether a model can be asked by packed tries: some ignore the mask, some scale their logits where we do not look."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import torch

from eval.trie import Trie

# Largest difference (nats) between a tree and a plain forward that is rounding: seen 3.5e-5 in float32 on 135 M
# parameters; half precision keeps 8 to 11 bits.  A model that ignores the mask is off by far more.
TOLERANCE = {torch.float64: 1e-5, torch.float32: 1e-3}
TOLERANCE_HALF = 0.15
Values = Callable[[Trie, Sequence[tuple[int, int, int]], bool], np.ndarray]


def tree_agrees(values: Values, vocabulary: int, dtype: torch.dtype) -> bool:
    """Whether body, head and tree mask give what the plain model gives, on one tiny forest of tokens.

    ``values(trie, edges, tree)`` are the log-probabilities [E] of edges, by packed tries or row by row.
    """
    a, b, c, d, e = (1 + (k * 7919) % (vocabulary - 1) for k in range(5))
    trie = Trie()
    for sequence in ((a, b, c, d), (a, b, d, d, c), (a, e, c, b), (d, c, a)):
        trie.insert(sequence)
    pairs = [(node, token) for node in range(len(trie.tokens)) for token in (a, b, c, d, e)]
    edges = [(node, token, k) for k, (node, token) in enumerate(pairs)]
    try:
        packed, plain = (values(trie, edges, tree) for tree in (True, False))
    except (RuntimeError, ValueError, TypeError, AttributeError, NotImplementedError):
        return False  # a model that cannot take such a mask says so in many ways; plain batches remain
    return bool(np.abs(packed - plain).max() <= TOLERANCE.get(dtype, TOLERANCE_HALF))
