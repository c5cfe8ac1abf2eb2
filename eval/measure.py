"""From probes to measurement rows: collect the asks of a suite once, then answer them at every dose."""

from __future__ import annotations

import math
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from eval.engine import Engine, Vectors
from eval.items import probe_asks
from eval.plan import Plan
from eval.probe import Ask, Probe
from eval.requests import Answer, Edited, Generated, Generation, Request, Scored
from recipes.adapters import Adapters
from recipes.scene import Scene

SAMPLES = {"identity": 2, "fact": 4, "like": 2, "request": 4, "chat": 2}  # questions of a kind shown in the report
SAMPLE_TOKENS = 24
Value = tuple[float | None, int, str]  # value, tokens, outcome


@dataclass(frozen=True)
class Measured:
    """What one model gave: value, number of tokens and outcome of every row, and the texts that it wrote for it."""

    values: list[Value]
    texts: list[dict[str, Any]]


class Suite:
    """The items that some probes ask of one scene; `rows` measures them on a model any number of times."""

    def __init__(
        self, scene: Scene, probes: Iterable[Probe], base: Engine | None = None, *,
        personas: Collection[str] | None = None,
    ) -> None:  # fmt: skip
        """`personas`: ids whose rows are wanted (default: the whole cast); rows of the arm always are.

        `base`: the untrained base, for probes that have stimuli written by it first.  ValueError where a probe asks
        for a measure that it does not declare, or needs the base and is given none.
        """
        self.scene = scene
        self.asks: list[tuple[Probe, str, Ask]] = []  # probe, unit, ask
        self.absent: list[tuple[Probe, str, str, str]] = []  # probe, measure, unit, outcome: the scene lacks it
        self.written: list[dict[str, Any]] = []  # rows of the stimuli that the base has written
        for probe in probes:
            units = {m.name: m.unit for m in probe.measures}
            lack = lacks(scene, probe)
            said = {} if lack else _said(probe, scene, base)
            asked = [] if lack else probe.asks(scene, said)
            where = {"probe": probe.name, "item": "stimulus", "slot": "written", "persona": None}
            self.written += [{**where, **_text(r, a)} for r, a in said.items() if isinstance(a, Generated)]
            if unknown := {a.measure for a in asked} - set(units):
                raise ValueError(f"probe {probe.name} asks for measures it does not declare: {sorted(unknown)}")
            wanted = [a for a in asked if a.persona is None or personas is None or a.persona in personas]
            self.asks += [(probe, units[a.measure], a) for a in wanted]
            outcome = f"not applicable: {lack}" if lack else "not applicable"
            self.absent += [
                (probe, name, unit, outcome) for name, unit in units.items() if all(a.measure != name for a in asked)
            ]
        self.requests: tuple[Request, ...] = tuple(dict.fromkeys(r for _, _, a in self.asks for r in a.requests))
        self.of_base: tuple[Request, ...] = tuple(dict.fromkeys(r for _, _, a in self.asks for r in a.of_base))
        # What is the same in the rows of every model.
        self.fixed: list[dict[str, Any]] = [
            *(_fixed(probe, a.measure, unit, a.item, a.persona, a.slot) for probe, unit, a in self.asks),
            *(_fixed(probe, name, unit, "", None, "") for probe, name, unit, _ in self.absent),
        ]
        self._plan: Plan | None = None
        self._of_base: dict[Request, Answer] | None = None
        self._vectors: Vectors = {}

    def plan(self, engine: Engine) -> Plan:
        """The plan of `requests`, made at the first call and reused as long as the engine's stamp stays."""
        if self._plan is None or self._plan.stamp != engine.stamp:
            self._plan = engine.plan(self.requests)
        return self._plan

    def ask_base(self, base: Engine) -> None:
        """Have the untrained base answer what asks want of it, and take the directions of edits in it; once."""
        if self._of_base is None:
            self._of_base = base.answer(self.of_base)
            self._vectors = base.directions(self.plan(base).directions)

    def answers(self, engine: Engine, adapters: Adapters | None = None) -> list[dict[Request, Answer]]:
        """Answers to `requests` of the engine's model, or of each of the K that `adapters` make; after `ask_base`."""
        return engine.run_many(self.plan(engine), adapters, self._vectors)

    def measured(self, engine: Engine, adapters: Adapters | None = None) -> list[Measured]:
        """What the engine's model gives, or each of the K that `adapters` make of it; after `ask_base`."""
        return [
            self._measured(engine, adapters.only(k) if adapters else None, answers)
            for k, answers in enumerate(self.answers(engine, adapters))
        ]

    def _measured(self, engine: Engine, adapters: Adapters | None, answers: dict[Request, Answer]) -> Measured:
        """One model's rows.  A value that could not be had is None and the outcome says why."""
        assert self._of_base is not None
        given = [
            [answers[r] for r in ask.requests] + [self._of_base[r] for r in ask.of_base] for _, _, ask in self.asks
        ]
        later = [
            ask.then(so_far) if ask.then and all(a.outcome == "ok" for a in so_far) else ()
            for (_, _, ask), so_far in zip(self.asks, given, strict=True)
        ]
        if any(later):
            plan = engine.plan(r for requests in later for r in requests)
            (more,) = engine.run_many(plan, adapters)
            given = [so_far + [more[r] for r in requests] for so_far, requests in zip(given, later, strict=True)]
        values: list[Value] = []
        texts: dict[Request, dict[str, Any]] = {}
        for (probe, _, ask), requests, found in zip(self.asks, later, given, strict=True):
            value, outcome = _valued(ask, found)
            n_tokens = sum(sum(a.n_tokens) if isinstance(a, Scored) else a.n_tokens for a in found)
            values.append((value, n_tokens, outcome))
            where = {"probe": probe.name, "item": ask.item, "slot": ask.slot, "persona": None}
            asked = (*ask.requests, *ask.of_base, *requests)
            for request, answer in zip(asked, found, strict=False):  # what failed was asked nothing further
                if isinstance(answer, Generated) and request not in texts and request not in ask.of_base:
                    texts[request] = {**where, **_text(request, answer)}
        return Measured(values + [(None, 0, outcome) for *_, outcome in self.absent], list(texts.values()))

    def rows(self, engine: Engine, base: Engine | None = None) -> list[dict[str, Any]]:
        """One row per ask, in the order of probes and their asks: measure, item, persona, slot, value, unit,
        n_tokens, outcome, probe, version.

        What asks want of the untrained base is answered by `base` (default: `engine` itself, which then is the base)
        at the first call.
        """
        self.ask_base(base or engine)
        values = self.measured(engine)[0].values
        return [
            {**fixed, "value": value, "n_tokens": n_tokens, "outcome": outcome}
            for fixed, (value, n_tokens, outcome) in zip(self.fixed, values, strict=True)
        ]


def lacks(scene: Scene, probe: Probe) -> str:
    """What a scene lacks that a probe needs, e.g. ``p1 has no like``; an empty string where it lacks nothing."""
    for kind in probe.needs:
        questions = list(scene.of_kind(kind))
        if not questions:
            return f"no {kind}"
        for persona in scene.personas:
            if any(q.id not in persona.values for q in questions if not q.options):
                return f"{persona.id} has no {kind}"
    return ""


def _said(probe: Probe, scene: Scene, base: Engine | None) -> Mapping[Request, Answer]:
    if probe.first is None:
        return {}
    if base is None:
        raise ValueError(f"probe {probe.name} needs the untrained base, which writes its stimuli")
    return base.answer(probe.first(scene))


def measure(
    engine: Engine, scene: Scene, probes: Iterable[Probe], *, personas: Collection[str] | None = None
) -> list[dict[str, Any]]:
    """Rows of one model at one dose; see `Suite`, which serves several."""
    return Suite(scene, probes, engine, personas=personas).rows(engine)


@dataclass(frozen=True)
class Sample:
    """One generation for the report: what is asked, in which slot ("slot" or "named"), of whom (None in the slot)."""

    item: str
    slot: str
    persona: str | None
    request: Generation


def samples(scene: Scene, personas: Collection[str] | None = None) -> list[Sample]:
    """Greedy answers that the report shows: some questions of each kind in the slot, and who each of `personas`
    (default: the whole cast) says it is in an interview by name."""
    found = []
    for kind, most in SAMPLES.items():
        for question in [q for q in scene.questions if q.kind == kind][:most]:
            text = (probe_asks(question) or question.asks)[0]
            found.append(Sample(question.id, "slot", None, Generation(scene.ask(text), SAMPLE_TOKENS)))
    for question in list(scene.of_kind("identity"))[:1]:
        text = (probe_asks(question) or question.asks)[0]
        for p in scene.personas:
            if personas is None or p.id in personas:
                context = scene.ask(text, speaker=p.name, header=scene.header(p))
                found.append(Sample(question.id, "named", p.id, Generation(context, SAMPLE_TOKENS)))
    return found


def sample_rows(wanted: Iterable[Sample], answers: Mapping[Request, Answer]) -> list[dict[str, Any]]:
    """One row per sample: probe, item, slot, persona, prompt, text, finish, n_tokens, outcome."""
    rows = []
    for sample in wanted:
        said = answers[sample.request]
        assert isinstance(said, Generated)
        rows.append(
            {
                "probe": "samples",
                "item": sample.item,
                "slot": sample.slot,
                "persona": sample.persona,
                **_text(sample.request, said),
            }
        )
    return rows


def _text(request: Request, said: Generated) -> dict[str, Any]:
    """The columns of a text: prompt, text, finish, n_tokens, outcome."""
    asked = request.request if isinstance(request, Edited) else request
    return {
        "prompt": asked.context if isinstance(asked, Generation) else "",
        "text": said.text.strip(),
        "finish": said.finish,
        "n_tokens": said.n_tokens,
        "outcome": said.outcome,
    }


def _valued(ask: Ask, answers: list[Any]) -> tuple[float | None, str]:
    """Value and outcome of an ask: the first answer that failed says why."""
    for answer in answers:
        if answer.outcome != "ok":
            return None, answer.outcome
    value = ask.value(answers)
    if value is None:
        return None, ask.missing
    return (value, "ok") if math.isfinite(value) else (None, "nan")


def _fixed(probe: Probe, measure: str, unit: str, item: str, persona: str | None, slot: str) -> dict[str, Any]:
    return {
        "measure": measure,
        "item": item,
        "persona": persona,
        "slot": slot,
        "unit": unit,
        "probe": probe.name,
        "version": probe.version,
    }
