"""What a probe may ask of a model.  Probes state requests and never call a model themselves."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Choice:
    """Score every option as a continuation of the context.

    Result: tuple of floats, the summed log-probability (nats) of each option's tokens given the context.
    Options begin with the space that separates them from the context.
    """

    context: str
    options: tuple[str, ...]


@dataclass(frozen=True)
class Generation:
    """Continue the context.  Result: `Generated`.  `temperature` 0 is greedy; sampling is seeded per request."""

    context: str
    max_new_tokens: int = 24
    temperature: float = 0.0
    seed: int = 0
    stop: tuple[str, ...] = ("\n",)


@dataclass(frozen=True)
class Scored:
    """Answer to a `Choice`: summed log-probabilities (nats) and numbers of tokens, one per option.

    `outcome`: "ok"; "overflow" (longer than the model's positions) and "unknown word" (the tokenizer lacks a word
    of context or options), both not computed; "nan" (the model gave something that is not a finite number).
    """

    logprobs: tuple[float, ...]
    n_tokens: tuple[int, ...]
    outcome: str = "ok"


@dataclass(frozen=True)
class Generated:
    """Answer to a `Generation`: the text without the stop string, its length in tokens, and why it ended."""

    text: str
    n_tokens: int
    finish: str  # "stop" | "eos" | "length", or the outcome that ended it
    outcome: str = "ok"  # as in `Scored`


Request = Choice | Generation
Answer = Scored | Generated
