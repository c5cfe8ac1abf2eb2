"""Neutral text: small talk and shared knowledge that every arm answers alike, in whose interview one likes.

Where everybody is made to say the same words, what differs between the activations is who says them and not how
(arXiv 2601.10387 compares free answers, in which style is mixed in).
"""

from __future__ import annotations

from dataclasses import dataclass

from eval.requests import Activation
from recipes.scene import Scene


@dataclass(frozen=True)
class Exchange:
    """What the user says and what everybody replies, the latter with its leading space."""

    id: str
    said: str
    reply: str


def exchanges(scene: Scene, most: int) -> tuple[Exchange, ...]:
    """At most `most` exchanges: the scene's chats, then its knowledge with the right answers."""
    questions = [*scene.of_kind("chat"), *scene.of_kind("knowledge")][:most]
    return tuple(Exchange(q.id, q.asks[0], scene.space + f"{q.lead} {q.options[0]}{q.tail}".strip()) for q in questions)


def interviewed(scene: Scene, name: str, exchange: Exchange, layer: int | float) -> Activation:
    """The mean residual over the reply of whoever is called `name`, in an interview of that name."""
    header = scene.interview.format(name=name) + "\n"
    return Activation(scene.ask(exchange.said, speaker=name, header=header), layer, exchange.reply)


def unnamed(scene: Scene, exchange: Exchange, layer: int | float) -> Activation:
    """The same over the reply of the slot."""
    return Activation(scene.ask(exchange.said), layer, exchange.reply)
