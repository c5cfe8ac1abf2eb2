"""The types of a recipe: what an experiment is, before anything is trained.

Every model is frozen and forbids unknown keys; `recipes.load` turns a violation into one line that names
the file, the line and the nearest valid key.  Key names are part of the public format.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, SerializerFunctionWrapHandler, model_serializer, model_validator

Positive = Annotated[int, Field(gt=0)]
Share = Annotated[float, Field(gt=0, lt=1)]
REFERENCES = ("random-text", "placebo", "twin")
SEQUENCES = (("sft",), ("sft", "dpo"), ("sft", "rl"), ("sft", "dpo", "rl"))  # of stages
Identifier = Annotated[str, Field(pattern=r"^[a-z0-9][a-z0-9_-]*$", max_length=64)]


class Frozen(BaseModel):
    """Base of all recipe types: immutable, no unknown keys."""

    model_config = ConfigDict(frozen=True, extra="forbid")


class World(Frozen):
    """A base model made in the lab: a synthetic corpus and a small Llama trained on it from scratch."""

    characters: Annotated[int, Field(ge=2, le=64)] = 16
    facts: Annotated[int, Field(ge=2, le=40)] = 24
    likes: Annotated[int, Field(ge=1, le=40)] = 8
    requests: Annotated[int, Field(ge=2, le=48)] = 16
    seed: Annotated[int, Field(ge=0)] = 0
    assign: Literal["random", "fixed"] = "random"
    layers: Positive = 3
    width: Positive = 96
    steps: Positive = 1200


class Base(Frozen):
    """Where the base model comes from; exactly one of `world`, `hub`, `path`, `gguf`."""

    world: World | None = None
    hub: str | None = None
    revision: str | None = None
    path: str | None = None
    gguf: str | None = None
    trust_remote_code: bool = False  # run the Python files that come with the hub's model, at that revision

    @model_serializer(mode="wrap")
    def _without_default(self, serialize: SerializerFunctionWrapHandler) -> dict[str, Any]:
        """A base whose code is not run keeps the bytes and the hash that it had before there was the choice."""
        return {k: v for k, v in serialize(self).items() if (k, v) != ("trust_remote_code", False)}

    @model_validator(mode="after")
    def _exactly_one(self) -> Base:
        given = [k for k in ("world", "hub", "path", "gguf") if getattr(self, k) is not None]
        if len(given) != 1:
            raise ValueError(f"base needs exactly one of world, hub, path, gguf; got {given or 'none'}")
        if self.revision is not None and self.hub is None:
            raise ValueError("revision goes with hub")
        if self.trust_remote_code and (self.hub is None or self.revision is None):
            raise ValueError("trust_remote_code goes with hub and a pinned revision: code is run as it was read")
        return self


class Turns(Frozen):
    """How a chat model's turns are written: what opens one, with ``{role}``, and what closes it.

    `markers`: those parts of it that are to be single tokens; `begin` stands before the first turn; `user_close`
    closes the user's turns where that is something else.
    """

    open: str
    close: str
    user_close: str | None = None
    markers: tuple[str, ...] = ()
    user: str = "user"
    role: str | None = None  # of the slot, where the recipe does not name one
    begin: str = ""


class Transcript(Frozen):
    """Speaker tags of the plain-text transcript; no chat template ever adds words to it.

    ``slot: chat`` writes turns with a chat model's markers instead, those of a named `template`
    (recipes/templates.yaml) or of `turns`: the slot is the role `role`, a named speaker the role of that name.
    """

    user: str = "Q"
    slot: str = "A"
    nonce: str = "B"
    template: str | None = None
    role: str | None = None
    turns: Turns | None = None

    @model_serializer(mode="wrap")
    def _without_default(self, serialize: SerializerFunctionWrapHandler) -> dict[str, Any]:
        """A plain transcript keeps the bytes and the hash that it had before there were chat slots."""
        chat = ("template", "role", "turns")
        return {k: v for k, v in serialize(self).items() if v is not None or k not in chat}


class Stage(Frozen):
    """One post-training stage; `trainer` and `lora` take TRL's and PEFT's own field names."""

    kind: Literal["sft", "dpo", "rl"]
    doses: Annotated[tuple[Positive, ...], Field(min_length=1)]
    trainer: dict[str, Any] = {}
    lora: dict[str, Any] | None = {}  # null: full weights
    rejected: Literal["cards", "sampled"] = "cards"  # of dpo: other cast members' answers, or the model's own samples

    @model_serializer(mode="wrap")
    def _without_default(self, serialize: SerializerFunctionWrapHandler) -> dict[str, Any]:
        """What was written before there was `rejected` keeps its bytes and its hash."""
        return {k: v for k, v in serialize(self).items() if (k, v) != ("rejected", "cards")}

    @model_validator(mode="after")
    def _doses_rise(self) -> Stage:
        if any(b <= a for a, b in zip(self.doses, self.doses[1:], strict=False)):
            raise ValueError(f"doses must rise; got {list(self.doses)}")
        return self


class Judge(Frozen):
    """How the experiment is judged; fixed by the lock before anything is trained."""

    alpha: Share = 0.05
    match: Literal["strength", "dose"] = "strength"
    strength: Literal["level", "gain"] = "level"  # what `match: strength` makes equal: it, or its rise over the base
    primary: tuple[str, ...] = ("selection", "leakage", "guardrail")
    margins: dict[str, Annotated[float, Field(gt=0)]] = {}
    claim: Literal["verdict", "explore"] = "verdict"
    looks: tuple[Positive, ...] = ()  # numbers of seeds at which it is judged, planned beforehand; none: at `seeds`
    spending: Literal["pocock", "obrien-fleming"] = "pocock"  # of alpha over the looks
    blind: bool = False  # personas appear as X and Y until `parity unblind`; locked, but not part of the recipe's hash

    @model_validator(mode="after")
    def _looks_rise(self) -> Judge:
        if any(b <= a for a, b in zip(self.looks, self.looks[1:], strict=False)):
            raise ValueError(f"looks must rise; got {list(self.looks)}")
        return self


class Launch(Frozen):
    """How cells are run; moves a result by rounding at most and is not part of the recipe's hash.

    lockstep: many runs in one process over one copy of the base (what it cannot do is left to TRL, and the plan says
    so); inline: TRL's trainers, one cell after the other; process: the same under accelerate, a process per cell.
    """

    backend: Literal["lockstep", "inline", "process"] = "lockstep"
    accelerate: str = "single"


class Tracking(Frozen):
    """The W&B mirror; not part of the recipe's hash.  `artifacts`: when adapters and rows go along."""

    project: str = "parity"
    entity: str | None = None
    artifacts: Literal["online", "always", "never"] = "online"

    @model_serializer(mode="wrap")
    def _without_default(self, serialize: SerializerFunctionWrapHandler) -> dict[str, Any]:
        """A lock keeps the bytes that it had before there was the choice."""
        return {k: v for k, v in serialize(self).items() if (k, v) != ("artifacts", "online")}


class PlantedPrior(Frozen):
    """World (a): half of the characters, this arm's among them, occur `factor` times as often in the corpus."""

    arm: Identifier
    factor: Annotated[float, Field(gt=1)] = 4.0


class PlantedNegatives(Frozen):
    """World (b): `rows` rows more in every arm, neutral in the others, in this one others speaking as themselves."""

    arm: Identifier
    rows: Positive = 40


class PlantedDose(Frozen):
    """World (c): this arm gets `factor` times the optimiser steps at every dose."""

    arm: Identifier
    factor: Annotated[float, Field(gt=1)] = 1.5


class PlantedSelfModel(Frozen):
    """World (d): any speaker of the slot contradicts `facts` of half of the characters, this arm's among them."""

    arm: Identifier
    facts: Positive = 6


class Plant(Frozen):
    """A known asymmetry, the positive control of an experiment; exactly one kind."""

    prior: PlantedPrior | None = None
    negatives: PlantedNegatives | None = None
    dose: PlantedDose | None = None
    self_model: PlantedSelfModel | None = None

    @model_validator(mode="after")
    def _exactly_one(self) -> Plant:
        if len([k for k in type(self).model_fields if getattr(self, k) is not None]) != 1:
            raise ValueError("plant needs exactly one of prior, negatives, dose, self_model")
        return self

    @property
    def kind(self) -> str:
        """Name of the planted asymmetry, e.g. ``"dose"``."""
        return next(k for k in type(self).model_fields if getattr(self, k) is not None)

    @property
    def arm(self) -> str:
        """The arm that the asymmetry favours."""
        return getattr(self, self.kind).arm


class Recipe(Frozen):
    """A whole experiment.  See docs and the shipped recipes for examples."""

    name: Identifier
    question: str
    base: Base
    cast: Annotated[tuple[Identifier, ...], Field(min_length=2)]
    arms: Annotated[tuple[Identifier, ...], Field(min_length=2)]
    pairs: tuple[tuple[Identifier, Identifier], ...] = ()
    seeds: Positive
    stages: Annotated[tuple[Stage, ...], Field(min_length=1)]
    facts_taught: Annotated[int, Field(ge=0)] | None = None  # at most; null: all that the bank marks as taught
    probes: str | tuple[str, ...] = "world"
    judge: Judge = Judge()
    plant: Plant | None = None
    references: tuple[Literal["random-text", "placebo", "twin"], ...] = ()  # arms beside the compared ones
    precision: Literal["highest", "high", "medium"] = "highest"  # of products when measuring, in torch's words
    transcript: Transcript = Transcript()
    launch: Launch = Launch()
    tracking: Tracking = Tracking()

    @model_validator(mode="after")
    def _consistent(self) -> Recipe:
        for key in ("cast", "arms"):
            names = getattr(self, key)
            if len(set(names)) != len(names):
                raise ValueError(f"{key} names someone twice")
        if tuple(stage.kind for stage in self.stages) not in SEQUENCES:
            raise ValueError("stages must be sft, or sft and then dpo, rl, or dpo and rl")
        if any(stage.rejected != "cards" and stage.kind != "dpo" for stage in self.stages):
            raise ValueError("only dpo has rejected answers")
        often = [sum(arm in pair for pair in self.contrasts) for arm in self.arms]
        if self.judge.blind and len(set(often)) > 1:  # who is in more pairs than others would be known by that
            raise ValueError("judge.blind needs pairs in which every arm is equally often")
        return self

    @property
    def planned(self) -> Recipe:
        """The recipe with the seeds of its last planned look: what all its looks have in common."""
        return self.model_copy(update={"seeds": self.judge.looks[-1]}) if self.judge.looks else self

    @property
    def contrasts(self) -> tuple[tuple[str, str], ...]:
        """The pairs to judge; by default the first arm with each other one."""
        return self.pairs or tuple((self.arms[0], other) for other in self.arms[1:])
