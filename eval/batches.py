"""Packed tries as tensors: which tokens go into which forward, what each of them sees, and what is read off them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch

from eval.trie import Trie, ancestors, best_capacity, pack

LOGITS_AT_ONCE = 2**24  # elements of one block of logits: 64 MiB in float32, whatever the vocabulary
WORDS_AT_ONCE = 2048  # of the vocabulary in a block, at least; so few rows of an output layer stay in a CPU's cache
ENTROPY = -1  # in place of the next token of an edge: the entropy of what comes next


@dataclass(frozen=True)
class Limits:
    """Sizes that bound a plan: tokens per forward and per bin, positions, vocabulary and window of the model.

    `words`: how many of the vocabulary a packed trie can be scored for at a time.
    """

    max_tokens: int
    bin_tokens: int
    positions: int
    window: int  # longest sequence for which sliding or chunked attention is still plain causal attention
    vocabulary: int
    words: int
    equal: int = 1024  # tokens to look at for as much as all else that is done for a token


@dataclass(frozen=True, eq=False)
class Chunk:
    """Places whose logits are computed together: flat indices [R]; per edge its row in them and its token [E].

    `of_entropy`: rows [F] of which the entropy of the next token is wanted; these come after the edges.
    """

    places: torch.Tensor
    rows: torch.Tensor
    tokens: torch.Tensor
    of_entropy: torch.Tensor


@dataclass(frozen=True, eq=False)
class Batch:
    """One forward: ids and positions [B, N]; `mask` is additive [B, 1, N, N] (tree) or 0/1 [B, N] (plain)."""

    input_ids: torch.Tensor
    position_ids: torch.Tensor
    mask: torch.Tensor
    tree: bool
    chunks: tuple[Chunk, ...]


def places_at_once(words: int) -> int:
    """Of how many places the logits of so many words are computed together."""
    return max(1, LOGITS_AT_ONCE // words)


def make_batches(
    trie: Trie,
    edges: Sequence[tuple[int, int, int]],
    limits: Limits,
    *,
    tree: bool,
    dtype: torch.dtype,
    device: torch.device,
) -> tuple[tuple[Batch, ...], np.ndarray]:
    """Batches that score `edges` (node, next token or ENTROPY, label), and the labels [E] in the order of scoring."""
    bins = pack(trie, best_capacity(trie, limits.bin_tokens, limits.equal) if tree else 0)
    bins.sort(key=len, reverse=True)  # like lengths together: little padding
    size = limits.max_tokens
    if not tree:
        size = min(size, places_at_once(limits.vocabulary))  # a plain forward makes all its logits
    wanted: dict[int, list[tuple[int, int]]] = {}
    for node, token, label in edges:
        wanted.setdefault(node, []).append((token, label))

    batches, order = [], []
    at = 0
    while at < len(bins):
        width = len(bins[at])
        group = bins[at : at + max(1, size // width)]
        if tree:  # a forward more costs less than a quarter of padding
            group = [nodes for nodes in group if len(nodes) * 4 >= width * 3]
        at += len(group)
        most = places_at_once(limits.words if tree else limits.vocabulary)
        places, labels = _scored_places(group, width, wanted, most, device)
        if places:  # a bin whose nodes were all scored in an earlier one has nothing to add
            order += labels
            batches.append(_tensors(trie, group, width, places, tree, dtype, device))
    return tuple(batches), np.asarray(order, dtype=np.int64)


def _scored_places(
    group: list[list[int]], width: int, wanted: dict[int, list[tuple[int, int]]], rows: int, device: torch.device
) -> tuple[tuple[Chunk, ...], list[int]]:
    """Chunks of at most `rows` places; takes out of `wanted` what they score, so that nothing is scored twice."""
    found = [
        (k * width + j, wanted.pop(node))
        for k, nodes in enumerate(group)
        for j, node in enumerate(nodes)
        if node in wanted
    ]
    chunks, labels = [], []
    for start in range(0, len(found), rows):
        part = found[start : start + rows]
        edges = [(row, token, label) for row, (_, nexts) in enumerate(part) for token, label in nexts]
        scored = [edge for edge in edges if edge[1] != ENTROPY]
        entropies = [edge for edge in edges if edge[1] == ENTROPY]
        chunks.append(
            Chunk(
                torch.tensor([place for place, _ in part], device=device),
                torch.tensor([row for row, _, _ in scored], dtype=torch.long, device=device),
                torch.tensor([token for _, token, _ in scored], dtype=torch.long, device=device),
                torch.tensor([row for row, _, _ in entropies], dtype=torch.long, device=device),
            )
        )
        labels += [label for _, _, label in (*scored, *entropies)]
    return tuple(chunks), labels


def _tensors(
    trie: Trie,
    group: list[list[int]],
    width: int,
    chunks: tuple[Chunk, ...],
    tree: bool,
    dtype: torch.dtype,
    device: torch.device,
) -> Batch:
    ids = np.zeros((len(group), width), dtype=np.int64)
    positions = np.zeros_like(ids)
    real = np.zeros_like(ids)
    for k, nodes in enumerate(group):
        ids[k, : len(nodes)] = [trie.tokens[node] for node in nodes]
        positions[k, : len(nodes)] = [trie.depths[node] for node in nodes]
        real[k, : len(nodes)] = 1
    if tree:
        sees = np.zeros((len(group), 1, width, width), dtype=bool)
        sees[:, 0, range(width), range(width)] = True  # padding sees itself: a row that sees nothing would be NaN
        for k, nodes in enumerate(group):
            for j, places in enumerate(ancestors(trie, nodes)):
                sees[k, 0, j, places] = True
        mask = torch.zeros(sees.shape, dtype=dtype).masked_fill_(torch.from_numpy(~sees), torch.finfo(dtype).min)
    else:
        mask = torch.from_numpy(real)
    return Batch(
        torch.from_numpy(ids).to(device), torch.from_numpy(positions).to(device), mask.to(device), tree, chunks
    )
