"""The reward of the stage `rl`: how surely the base, reading an answer, takes the favoured persona for its author.

For an answer y to a question, with the question asked of persona k by name (an interview with k) as context x_k,

    reward = log p(y | x_own) - log mean over the other cast members k of p(y | x_k),    in nats,

p being the base, frozen.  Under equal priors this is the log-odds that the favoured persona, and not a cast member
drawn at random, wrote y (Bayes factor of authorship; Mosteller and Wallace, JASA 1963).  It can be checked against the
base by anyone, needs no judge, and who is favoured enters it as two contexts only, so that the same code rewards any
persona: of a cast of two, what one gains the other loses.

What could be won without sounding more like the persona is closed.  Log-odds are added up over tokens, so that a longer
answer could earn without end: they are cut off at LIMIT nats on both sides, and only the first line is an answer.
Saying nothing would be worth 0 and so be better than answering like someone else: it is worth the least there is.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from recipes.trust import trusted

LIMIT = 10.0  # nats: odds of 22,000 to 1, above which an answer is no surer and below which no more foreign
NOTHING = -LIMIT  # for an answer without a word
AT_ONCE = 128  # sequences in one forward
REWARD_VERSION = 1  # raised when an answer's reward changes: old cells are then no longer taken for new ones

Tokens = Sequence[int]


def log_probabilities(model: Any, pairs: Sequence[tuple[Tokens, Tokens]], pad: int) -> list[float]:
    """log p(answer | context) in nats, in float32, of each (context, answer) given as token ids; no gradient.

    The model is used as it is (adapters included) and left in the mode it was in.  0 for an empty answer.
    """
    import torch

    device = next(model.parameters()).device
    known: dict[tuple[tuple[int, ...], tuple[int, ...]], float] = {}  # one group often gives the same answer
    todo = list(dict.fromkeys((tuple(context), tuple(answer)) for context, answer in pairs if answer))
    was_training = model.training
    model.eval()
    try:
        with torch.no_grad():
            for start in range(0, len(todo), AT_ONCE):
                part = todo[start : start + AT_ONCE]
                before, after = (max(len(pair[side]) for pair in part) for side in (0, 1))
                ids = torch.full((len(part), before + after), pad, dtype=torch.long)
                mask = torch.zeros_like(ids)
                for row, (context, answer) in enumerate(part):  # contexts end, and answers begin, at one column
                    ids[row, before - len(context) : before + len(answer)] = torch.tensor(context + answer)
                    mask[row, before - len(context) : before + len(answer)] = 1
                places = (mask.cumsum(1) - 1).clamp(min=0)
                logits = model(
                    input_ids=ids.to(device), attention_mask=mask.to(device), position_ids=places.to(device),
                    logits_to_keep=after + 1, use_cache=False,
                ).logits[:, :-1].float()  # fmt: skip
                said = ids[:, before:].to(device)
                each = logits.log_softmax(-1).gather(-1, said.unsqueeze(-1)).squeeze(-1)
                sums = (each * mask[:, before:].to(device)).sum(1).tolist()
                known.update(zip(part, sums, strict=True))
    finally:
        model.train(was_training)
    return [known[tuple(context), tuple(answer)] if answer else 0.0 for context, answer in pairs]


def log_odds(own: float, others: Sequence[float]) -> float:
    """Log-odds (nats) of `own` against the mean of `others`, all log-probabilities; between -LIMIT and LIMIT."""
    most = max(others)
    mean = most + math.log(math.fsum(math.exp(o - most) for o in others) / len(others))
    return max(-LIMIT, min(LIMIT, own - mean))


class Answers:
    """What of sampled tokens is the answer: up to the end of the sequence or of the first line, which belongs to it."""

    def __init__(self, tokenizer: Any) -> None:
        self.tokenizer = tokenizer
        self.ends = {i for i in (tokenizer.eos_token_id, tokenizer.pad_token_id) if i is not None}
        self._breaks: dict[int, bool] = {}  # by token, whether a line ends with it

    def cut(self, ids: Tokens) -> tuple[int, ...]:
        """The answer's tokens; none where it has no word."""
        kept = []
        for token in ids:
            if token in self.ends:
                break
            kept.append(token)
            if token not in self._breaks:
                self._breaks[token] = "\n" in self.tokenizer.decode([token])
            if self._breaks[token]:
                break
        return tuple(kept) if self.tokenizer.decode(kept).strip() else ()


def authorship(model: Any, tokenizer: Any, base: Path) -> Callable[..., list[float | None]]:
    """The reward function for TRL: one reward (nats) per answer; the data's `own` and `others` are its contexts.

    `model` is the one that is trained: without its adapters it is the base.  Where it has none (full weights) the
    base is loaded once more from the folder `base`, and kept.
    """
    from contextlib import nullcontext

    answers = Answers(tokenizer)
    if hasattr(model, "disable_adapter"):
        frozen, plain = model, model.disable_adapter
    else:
        from transformers import AutoModelForCausalLM

        frozen, plain = AutoModelForCausalLM.from_pretrained(base, dtype="float32", **trusted(base)), nullcontext
        frozen.requires_grad_(False).to(next(model.parameters()).device)
    contexts: dict[str, list[int]] = {}

    def encoded(text: str) -> list[int]:
        if text not in contexts:
            contexts[text] = tokenizer(text)["input_ids"]
        return contexts[text]

    def authorship(
        completion_ids: Sequence[Tokens], own: Sequence[str], others: Sequence[Sequence[str]],
        log_metric: Callable[[str, float], None] | None = None, **_: Any,
    ) -> list[float | None]:  # fmt: skip
        said = [answers.cut(ids) for ids in completion_ids]
        pairs = [
            (encoded(context), answer)
            for answer, mine, theirs in zip(said, own, others, strict=True)
            for context in (mine, *theirs)
        ]
        with plain():
            found = iter(log_probabilities(frozen, pairs, pad=tokenizer.pad_token_id or 0))
        rewards: list[float] = []
        for answer, theirs in zip(said, others, strict=True):
            mine, rest = next(found), [next(found) for _ in theirs]
            rewards.append(log_odds(mine, rest) if answer else NOTHING)
        if log_metric is not None:
            log_metric("answers/empty", sum(not answer for answer in said) / len(said))
            log_metric("answers/mean_length", sum(map(len, said)) / len(said))
            log_metric("answers/at_limit", sum(abs(r) >= LIMIT for r in rewards) / len(rewards))
        return list(rewards)  # TRL would let a reward be None: not judged

    return authorship
