"""Batched generation with a key-value cache and left padding, greedy or sampled.

A sampled request draws from a stream of its own, made of its seed and context, by the inverse of the cumulative
distribution: what it says does not depend on what else is in the batch (up to rounding of the logits).
"""

from __future__ import annotations

import random
from collections.abc import Callable, Collection, Iterator, Sequence
from typing import Any

import torch

from eval.forward import entropy
from eval.requests import Generated, Generation

AWAKE = 0.75  # of a batch's rows: where no more of them go on, the others are left out
# (input_ids [B, N], attention_mask [B, past + N], position_ids [B, N], cache) -> float32 logits [B, V], cache
Step = Callable[[torch.Tensor, torch.Tensor, torch.Tensor, Any], tuple[torch.Tensor, Any]]
Prompt = tuple[Generation, tuple[int, ...]]  # and its token ids


def in_batches(prompts: Sequence[Prompt], max_tokens: int) -> Iterator[list[Prompt]]:
    """Prompts of like lengths together, at most `max_tokens` tokens of prompt and answer in each batch."""
    order = sorted(prompts, key=lambda p: len(p[1]) + p[0].max_new_tokens, reverse=True)
    while order:
        size = max(1, max_tokens // (len(order[0][1]) + order[0][0].max_new_tokens))
        yield order[:size]
        order = order[size:]


class _Writer:
    """One answer in the making."""

    def __init__(self, request: Generation, tokenizer: Any) -> None:
        self.request = request
        self.tokenizer = tokenizer
        self.stream = random.Random(f"{request.seed} {request.context}")
        self.tokens: list[int] = []
        self.entropies: list[float] = []
        self.surprisals: list[float] = []
        self.done: Generated | None = None
        if request.max_new_tokens < 1:
            self._end("", 0, "length")

    def add(self, token: int, entropy: float, surprisal: float, ends: Collection[int]) -> None:
        """Take the next token and see whether it ends the answer."""
        if token in ends:
            self._end(self._text(), len(self.tokens), "eos")
            return
        self.entropies.append(entropy)
        self.surprisals.append(surprisal)
        before = len(self._text().rstrip())
        self.tokens.append(token)
        text = self._text()
        found = [at for at in (text.find(stop) for stop in self.request.stop if stop) if at >= 0]
        if found:
            cut = min(found)
            # The token that completes the stop string counts only if some of it is text, and more than the space
            # that a decoder puts between words.
            self._end(text[:cut], len(self.tokens) - (len(text[:cut].rstrip()) <= before), "stop")
        elif len(self.tokens) == self.request.max_new_tokens:
            self._end(text, len(self.tokens), "length")

    def fail(self) -> None:
        """The logits are not numbers: what there is so far, with that outcome."""
        self._end(self._text(), len(self.tokens), "nan", "nan")

    def _end(self, text: str, n_tokens: int, finish: str, outcome: str = "ok") -> None:
        entropies, surprisals = tuple(self.entropies[:n_tokens]), tuple(self.surprisals[:n_tokens])
        self.done = Generated(text, n_tokens, finish, outcome, entropies, surprisals)

    def _text(self) -> str:
        return self.tokenizer.decode(self.tokens, skip_special_tokens=True, clean_up_tokenization_spaces=False)


def continue_batch(
    step: Step, tokenizer: Any, batch: Sequence[Prompt], ends: Collection[int], device: torch.device, groups: int
) -> list[dict[Generation, Generated]]:
    """Continue each of B prompts with each of `groups` models, which `step` takes as [groups * B, N]."""
    width = max(len(ids) for _, ids in batch)
    pads = [width - len(ids) for _, ids in batch]
    rows = [[0] * pad + list(ids) for pad, (_, ids) in zip(pads, batch, strict=True)]
    inputs = torch.tensor(rows * groups, device=device)
    mask = torch.tensor([[0] * pad + [1] * (width - pad) for pad in pads] * groups, device=device)
    positions = (mask.cumsum(-1) - 1).clamp(min=0)
    writers = [_Writer(request, tokenizer) for _ in range(groups) for request, _ in batch]
    temperatures = torch.tensor([max(w.request.temperature, 0.0) for w in writers], device=device)
    cache = None
    there, n = writers, len(batch)  # the writers of the rows, n in each group
    while any(w.done is None for w in there):
        logits, cache = step(inputs, mask, positions, cache)
        draws = torch.tensor([w.stream.random() for w in there], dtype=torch.float64)
        logits = logits.float()
        tokens = _pick(logits, temperatures, draws.to(device))
        finite = logits.isfinite().any(-1) & ~logits.isnan().any(-1)
        taken = logits.gather(-1, tokens[:, None])[:, 0]
        columns = (tokens, entropy(logits), logits.logsumexp(-1) - taken, finite)
        drawn = zip(there, *(column.tolist() for column in columns), strict=True)
        for writer, token, spread, surprisal, fine in drawn:
            if writer.done is None:
                writer.add(token, spread, surprisal, ends) if fine else writer.fail()
        inputs = tokens[:, None]
        mask = torch.cat([mask, mask.new_ones(len(there), 1)], dim=1)
        positions = positions[:, -1:] + 1
        awake = [at for at in range(n) if any(w.done is None for w in there[at::n])]
        if 0 < len(awake) <= AWAKE * n and _selectable(cache):
            left = [at + group * n for group in range(groups) for at in awake]
            kept = torch.tensor(left, device=device)
            cache.batch_select_indices(kept)
            inputs, mask, positions, temperatures = (t[kept] for t in (inputs, mask, positions, temperatures))
            there, n = [there[row] for row in left], len(awake)
    by_model = (writers[at : at + len(batch)] for at in range(0, len(writers), len(batch)))
    return [{w.request: w.done for w in own if w.done is not None} for own in by_model]


def _selectable(cache: Any) -> bool:
    """Whether rows can be taken out of a cache; not of one that keeps a recurrent state."""
    layers = getattr(cache, "layers", ())
    return bool(layers) and all(hasattr(layer, "batch_select_indices") for layer in layers)


def _pick(logits: torch.Tensor, temperatures: torch.Tensor, draws: torch.Tensor) -> torch.Tensor:
    """Next token [B] from logits [B, V]: the argmax where the temperature [B] is 0, else by the draws [B] in [0, 1)."""
    greedy = logits.nan_to_num().argmax(-1)
    if not bool((temperatures > 0).any()):
        return greedy
    scaled = logits.nan_to_num().double() / temperatures.clamp(min=1e-6).double()[:, None]
    cumulative = scaled.softmax(-1).cumsum(-1)
    sampled = torch.searchsorted(cumulative, (draws * cumulative[:, -1])[:, None], right=True)[:, 0]
    return torch.where(temperatures > 0, sampled.clamp(max=logits.shape[-1] - 1), greedy)
