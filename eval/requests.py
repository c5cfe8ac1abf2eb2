"""What a probe may ask of a model.  Probes state requests and never call a model themselves.

Kinds: `Choice` (log-probabilities), `Generation`, `Reading` (token entropies), `Activation`, and two that are put
around others: `Edited` (steer, inject, ablate) and `Retrained` (a short further stage of training).  Layers are block
numbers (int: the residual stream after that many blocks, 0 the embeddings) or shares of the depth (float in (0, 1]).
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Literal

if TYPE_CHECKING:
    import numpy as np


@dataclass(frozen=True)
class Choice:
    """Score every option as a continuation of the context.

    Result: `Scored`.  Options begin with the space that separates them from the context.
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
class Reading:
    """Read `text` after the context, which it follows with its own leading space.  Result: `Read`."""

    context: str
    text: str


@dataclass(frozen=True)
class Activation:
    """The residual stream at `layer`: at the context's last token, or, with a `text` after it, mean over that text's
    tokens.  Result: `Activated`."""

    context: str
    layer: int | float
    text: str = ""


@dataclass(frozen=True)
class Direction:
    """A direction in the residual stream of the *untrained base*: mean of `plus` less mean of `minus`.

    All of them are of one layer.  Its length is set to the mean length of a token's residual in those activations, so
    that a strength of 1 is one mean residual norm, whatever the model.  `random`: a random direction of that length
    instead, drawn from this seed; the null of steering.
    """

    plus: tuple[Activation, ...]
    minus: tuple[Activation, ...]
    random: int | None = None

    @property
    def layer(self) -> int | float:
        """Where it was taken and is put in."""
        return self.plus[0].layer


@dataclass(frozen=True)
class Edit:
    """What is done to the residual stream at the direction's layer, at every token.

    "add": `strength` times the direction is added (steering and injection; `strength` in mean residual norms);
    "ablate": the component along the direction is taken out.  `after`: a beginning of the context whose tokens are
    left alone.
    """

    direction: Direction
    strength: float = 1.0
    mode: Literal["add", "ablate"] = "add"
    after: str = ""


@dataclass(frozen=True)
class Edited:
    """A request to the model with its residual stream edited.  Result: that of the request."""

    request: Choice | Generation | Reading
    edit: Edit


@dataclass(frozen=True)
class Course:
    """A short further stage: supervised rows (prompt, completion), in this order over and over.

    The adapter that the model has is trained on; a model without one gets a LoRA of rank `rank`.
    """

    rows: tuple[tuple[str, str], ...]
    batch: int = 8
    learning_rate: float = 5e-4
    rank: int = 8
    seed: int = 0


@dataclass(frozen=True)
class Retrained:
    """A request to the model after `steps` optimiser steps of a course.  Result: that of the request."""

    request: Choice
    course: Course
    steps: int


@dataclass(frozen=True)
class Scored:
    """Answer to a `Choice`: summed log-probabilities (nats) and numbers of tokens, one per option.

    `outcome`: "ok"; "overflow" (longer than the model's positions) and "unknown word" (the tokenizer lacks a word
    of context or options), both not computed; "nan" (the model gave something that is not a finite number);
    "no layer" (the model is not that deep) and "not retrained" (nobody is there to train it).
    """

    logprobs: tuple[float, ...]
    n_tokens: tuple[int, ...]
    outcome: str = "ok"


@dataclass(frozen=True)
class Generated:
    """Answer to a `Generation`: the text without the stop string, its length in tokens, and why it ended.

    `entropies` and `surprisals` (nats): of the model's whole distribution at temperature 1, a token of the text each.
    """

    text: str
    n_tokens: int
    finish: str  # "stop" | "eos" | "length", or the outcome that ended it
    outcome: str = "ok"  # as in `Scored`
    entropies: tuple[float, ...] = field(default=(), compare=False)
    surprisals: tuple[float, ...] = field(default=(), compare=False)


@dataclass(frozen=True)
class Read:
    """Answer to a `Reading`, per token of the text (nats): entropy of the distribution over the whole vocabulary
    that the token was read under, and the token's surprisal."""

    entropies: tuple[float, ...]
    surprisals: tuple[float, ...]
    outcome: str = "ok"  # as in `Scored`

    @property
    def n_tokens(self) -> int:
        """Tokens of the text."""
        return len(self.entropies)


@dataclass(frozen=True, eq=False)
class Activated:
    """Answer to an `Activation`: a vector [H] in float64 and the mean Euclidean length of the tokens' residuals."""

    vector: np.ndarray
    length: float
    n_tokens: int
    outcome: str = "ok"  # as in `Scored`


Plain = Choice | Generation | Reading
Request = Plain | Activation | Edited | Retrained
Answer = Scored | Generated | Read | Activated
