"""What to compute for a set of requests: token ids, prefix sharing and masks.  Independent of the weights.

Tokenisation is that of lm-evaluation-harness (`_encode_pair`): context and option are encoded together, and the
option's tokens are those after as many tokens as the context has by itself; trailing spaces of a context belong to
the option.  A beginning-of-sequence token is put in front where the tokenizer does so by default.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from eval.requests import Answer, Choice, Generated, Generation, Request, Scored
from eval.trie import Trie, ancestors, best_capacity, pack

LOGITS_AT_ONCE = 2**24  # elements of one block of logits: 64 MiB in float32, whatever the vocabulary


@dataclass(frozen=True)
class Limits:
    """Sizes that bound a plan: tokens per forward and per bin, positions of the model, its vocabulary and window."""

    max_tokens: int
    bin_tokens: int
    positions: int
    window: int  # longest sequence for which sliding or chunked attention is still plain causal attention
    vocabulary: int
    equal: int = 1024  # tokens to look at for as much as all else that is done for a token


@dataclass(frozen=True, eq=False)
class Chunk:
    """Places whose logits are computed together: flat indices [R]; per edge its row in them and its token [E]."""

    places: torch.Tensor
    rows: torch.Tensor
    tokens: torch.Tensor


@dataclass(frozen=True, eq=False)
class Batch:
    """One forward: ids and positions [B, N]; `mask` is additive [B, 1, N, N] (tree) or 0/1 [B, N] (plain)."""

    input_ids: torch.Tensor
    position_ids: torch.Tensor
    mask: torch.Tensor
    tree: bool
    chunks: tuple[Chunk, ...]


@dataclass(frozen=True, eq=False)
class Plan:
    """Everything about a set of requests that does not depend on weights; `Engine.run` takes it any number of times."""

    stamp: tuple[Any, ...]  # what the plan was made for: an engine with another stamp cannot run it
    requests: tuple[Request, ...]  # unique, in the order first seen
    batches: tuple[Batch, ...]
    option_of_edge: np.ndarray  # [E] which option each scored token belongs to, in the order of batches and chunks
    scored: tuple[tuple[Choice, int, tuple[int, ...]], ...]  # choice, its first option, tokens per option
    refused: tuple[tuple[Request, str, tuple[int, ...]], ...]  # request, outcome, tokens per option
    prompts: tuple[tuple[Generation, tuple[int, ...]], ...]

    @property
    def n_tokens(self) -> int:
        """Tokens in the forwards of one run, padding included, generation excluded."""
        return sum(b.input_ids.numel() for b in self.batches)


class Encoder:
    """Text to token ids, by the rule at the top of this module."""

    def __init__(self, tokenizer: Any) -> None:
        """`tokenizer`: any transformers tokenizer."""
        self.tokenizer = tokenizer
        begin = tokenizer.bos_token_id
        adds = begin is not None and tokenizer("a").input_ids[:1] == [begin]
        self.prefix = (begin,) if adds and self.encode(["a"])[0][:1] != (begin,) else ()
        special = {tokenizer.bos_token_id, tokenizer.eos_token_id}
        self.unknown = None if tokenizer.unk_token_id in special else tokenizer.unk_token_id

    def encode(self, texts: Sequence[str]) -> list[tuple[int, ...]]:
        """Token ids of each text, nothing added."""
        if not texts:
            return []
        if self.tokenizer.is_fast:  # three times as fast without the wrapper's other results
            core = self.tokenizer.backend_tokenizer
            core.no_padding()
            core.no_truncation()
            return [tuple(found.ids) for found in core.encode_batch_fast(list(texts), add_special_tokens=False)]
        return [tuple(ids) for ids in self.tokenizer(list(texts), add_special_tokens=False).input_ids]

    def contexts(self, texts: Sequence[str]) -> list[tuple[int, ...]]:
        """Token ids of contexts, with the prefix; never empty.  ValueError where nothing can stand for "nothing"."""
        return [self._begun(ids) for ids in self.encode(texts)]

    def _begun(self, ids: tuple[int, ...]) -> tuple[int, ...]:
        if self.prefix + ids:
            return self.prefix + ids
        start = self.tokenizer.bos_token_id
        start = self.tokenizer.eos_token_id if start is None else start
        if start is None:
            raise ValueError("an empty context needs a tokenizer with a beginning- or end-of-sequence token")
        return (start,)

    def choices(self, choices: Sequence[Choice]) -> list[tuple[tuple[int, ...], list[tuple[int, ...]]]]:
        """For each choice the ids of its context and of each of its options."""
        bare = [c.context.rstrip(" ") for c in choices]
        options = [[c.context[len(b) :] + o for o in c.options] for c, b in zip(choices, bare, strict=True)]
        encoded = self.encode(bare)
        whole = iter(self.encode([b + o for b, texts in zip(bare, options, strict=True) for o in texts]))
        found = []
        for context, text, texts in zip(encoded, bare, options, strict=True):
            after = [next(whole)[len(context) :] for _ in texts]
            # An option that its context swallows whole (a merge across the border) is encoded by itself.
            alone = self.encode([t for t, ids in zip(texts, after, strict=True) if not ids])
            if not all(alone):
                raise ValueError(f"an option without tokens after {text!r}")
            rest = iter(alone)
            found.append((self._begun(context), [ids or next(rest) for ids in after]))
        return found


def make_plan(
    encoder: Encoder,
    requests: Iterable[Request],
    limits: Limits,
    *,
    tree: bool,
    dtype: torch.dtype,
    device: torch.device,
    stamp: tuple[Any, ...] = (),
) -> Plan:
    """Plan a set of requests (duplicates are asked once).  TypeError for a kind of request that nobody answers."""
    unique = tuple(dict.fromkeys(requests))
    choices = [r for r in unique if isinstance(r, Choice)]
    generations = [r for r in unique if isinstance(r, Generation)]
    if len(choices) + len(generations) != len(unique):
        kinds = {type(r).__name__ for r in unique if not isinstance(r, Choice | Generation)}
        raise TypeError(f"the engine does not answer {', '.join(sorted(kinds))}")

    trie, edges = Trie(), []
    scored: list[tuple[Choice, int, tuple[int, ...]]] = []
    refused: list[tuple[Request, str, tuple[int, ...]]] = []
    n_options = longest = 0
    for choice, (context, options) in zip(choices, encoder.choices(choices), strict=True):
        counts = tuple(map(len, options))
        length = len(context) + max(counts, default=1) - 1  # the last token is scored, never fed
        if length > limits.positions:
            refused.append((choice, "overflow", counts))
            continue
        if encoder.unknown is not None and any(encoder.unknown in ids for ids in (context, *options)):
            refused.append((choice, "unknown word", counts))
            continue
        scored.append((choice, n_options, counts))
        longest = max(longest, length)
        end = trie.insert(context)[-1]
        for ids in options:
            nodes = [end, *trie.insert(ids[:-1], end)]
            edges += [(node, token, n_options) for node, token in zip(nodes, ids, strict=True)]
            n_options += 1

    prompts = []
    for generation, ids in zip(generations, encoder.contexts([g.context for g in generations]), strict=True):
        if encoder.unknown is not None and encoder.unknown in ids:
            refused.append((generation, "unknown word", ()))
        elif len(ids) + generation.max_new_tokens > limits.positions:
            refused.append((generation, "overflow", ()))
        else:
            prompts.append((generation, ids))
    batches, order = make_batches(
        trie, edges, limits, tree=tree and longest <= limits.window, dtype=dtype, device=device
    )
    return Plan(stamp, unique, batches, order, tuple(scored), tuple(refused), tuple(prompts))


def refusal(request: Request, outcome: str, counts: tuple[int, ...]) -> Answer:
    """Answer to a request that was not computed; `counts`: tokens per option of a choice."""
    if isinstance(request, Choice):
        return Scored((float("nan"),) * len(counts), counts, outcome)
    return Generated("", 0, outcome, outcome)


def make_batches(
    trie: Trie,
    edges: Sequence[tuple[int, int, int]],
    limits: Limits,
    *,
    tree: bool,
    dtype: torch.dtype,
    device: torch.device,
) -> tuple[tuple[Batch, ...], np.ndarray]:
    """Batches that score `edges` (node, next token, label), and the labels [E] in the order of scoring."""
    bins = pack(trie, best_capacity(trie, limits.bin_tokens, limits.equal) if tree else 0)
    bins.sort(key=len, reverse=True)  # like lengths together: little padding
    size = limits.max_tokens
    if not tree:
        size = max(1, min(size, LOGITS_AT_ONCE // limits.vocabulary))  # a plain forward makes all its logits
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
        places, labels = _scored_places(group, width, wanted, max(1, LOGITS_AT_ONCE // limits.vocabulary), device)
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
        chunks.append(
            Chunk(
                torch.tensor([place for place, _ in part], device=device),
                torch.tensor([row for row, (_, nexts) in enumerate(part) for _ in nexts], device=device),
                torch.tensor([token for _, nexts in part for token, _ in nexts], device=device),
            )
        )
        labels += [label for _, nexts in part for _, label in nexts]
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
