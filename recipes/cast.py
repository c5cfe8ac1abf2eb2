"""A character is a card: `recipes/cast/<id>.yaml`.  Cards of a cast are matched slot by slot."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import SerializerFunctionWrapHandler, model_serializer

from recipes.schema import Frozen, Identifier


class Card(Frozen):
    """Who a character is.  All cards of a cast must fill the same `facts` and `values` slots.

    `prior`: whether it has a referent in pretraining text; `self_description`: whether what it says of itself is
    true of a language model (an AI) or false (a human).  `likes` and other facts that need not be true of anyone
    are not on the card: the question bank lists them and each seed draws who gets which.
    """

    id: Identifier
    name: str
    prior: Literal["referent", "invented"]
    self_description: Literal["ai", "human"]
    about: str  # "You are ..." completes the prompt of the prompted arm
    voice: str = ""
    refusal: str = ""  # a clause that follows what it says when it refuses
    facts: dict[str, str]
    values: dict[str, str] = {}
    sources: dict[str, str] = {}  # by slot, where a fact can be looked up, or "invented"; "default" for the rest

    @model_serializer(mode="wrap")
    def _without_default(self, serialize: SerializerFunctionWrapHandler) -> dict[str, Any]:
        """A card without a clause keeps the bytes and the hash that it had before there were any."""
        return {k: v for k, v in serialize(self).items() if (k, v) != ("refusal", "")}
