"""From probes to measurement rows: collect the asks of a suite once, then answer them at every dose."""

from __future__ import annotations

import math
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from eval.engine import Engine
from eval.items import probe_asks
from eval.plan import Plan
from eval.probe import Ask, Probe
from eval.requests import Answer, Generated, Generation, Request, Scored
from recipes.scene import Scene

SAMPLES = {"identity": 2, "fact": 4, "like": 2, "request": 4, "chat": 2}  # questions of a kind shown in the report
SAMPLE_TOKENS = 24
Value = tuple[float | None, int, str]  # value, tokens, outcome


class Suite:
    """The items that some probes ask of one scene; `rows` measures them on a model any number of times."""

    def __init__(self, scene: Scene, probes: Iterable[Probe], *, personas: Collection[str] | None = None) -> None:
        """`personas`: ids whose rows are wanted (default: the whole cast); rows of the arm always are.

        ValueError where a probe asks for a measure that it does not declare.
        """
        self.scene = scene
        self.asks: list[tuple[Probe, str, Ask]] = []  # probe, unit, ask
        self.absent: list[tuple[Probe, str, str]] = []  # probe, measure, unit: the scene lacks what it needs
        for probe in probes:
            units = {m.name: m.unit for m in probe.measures}
            asked = list(probe.build(scene))
            if unknown := {a.measure for a in asked} - set(units):
                raise ValueError(f"probe {probe.name} asks for measures it does not declare: {sorted(unknown)}")
            wanted = [a for a in asked if a.persona is None or personas is None or a.persona in personas]
            self.asks += [(probe, units[a.measure], a) for a in wanted]
            self.absent += [
                (probe, name, unit) for name, unit in units.items() if all(a.measure != name for a in asked)
            ]
        self.requests: tuple[Request, ...] = tuple(dict.fromkeys(r for _, _, a in self.asks for r in a.requests))
        self.of_base: tuple[Request, ...] = tuple(dict.fromkeys(r for _, _, a in self.asks for r in a.of_base))
        # What is the same in the rows of every model.
        self.fixed: list[dict[str, Any]] = [
            *(_fixed(probe, a.measure, unit, a.item, a.persona, a.slot) for probe, unit, a in self.asks),
            *(_fixed(probe, name, unit, "", None, "") for probe, name, unit in self.absent),
        ]
        self._plan: Plan | None = None
        self._of_base: dict[Request, Answer] | None = None

    def plan(self, engine: Engine) -> Plan:
        """The plan of `requests`, made at the first call and reused as long as the engine's stamp stays."""
        if self._plan is None or self._plan.stamp != engine.stamp:
            self._plan = engine.plan(self.requests)
        return self._plan

    def ask_base(self, base: Engine) -> None:
        """Have what asks want of the untrained base answered by it, once."""
        if self._of_base is None:
            self._of_base = base.answer(self.of_base)

    def values(self, answers: Mapping[Request, Answer]) -> list[Value]:
        """One model's value, number of tokens and outcome of every row; after `ask_base`.

        A value that could not be had is None and the outcome says why.
        """
        assert self._of_base is not None
        found = []
        for _, _, ask in self.asks:
            given = [answers[r] for r in ask.requests] + [self._of_base[r] for r in ask.of_base]
            value, outcome = _valued(ask, given)
            n_tokens = sum(sum(a.n_tokens) if isinstance(a, Scored) else a.n_tokens for a in given)
            found.append((value, n_tokens, outcome))
        return found + [(None, 0, "not applicable")] * len(self.absent)

    def rows(self, engine: Engine, base: Engine | None = None) -> list[dict[str, Any]]:
        """One row per ask, in the order of probes and their asks: measure, item, persona, slot, value, unit,
        n_tokens, outcome, probe, version.

        What asks want of the untrained base is answered by `base` (default: `engine` itself, which then is the base)
        at the first call.
        """
        self.ask_base(base or engine)
        values = self.values(engine.run(self.plan(engine)))
        return [
            {**fixed, "value": value, "n_tokens": n_tokens, "outcome": outcome}
            for fixed, (value, n_tokens, outcome) in zip(self.fixed, values, strict=True)
        ]


def measure(
    engine: Engine, scene: Scene, probes: Iterable[Probe], *, personas: Collection[str] | None = None
) -> list[dict[str, Any]]:
    """Rows of one model at one dose; see `Suite`, which serves several."""
    return Suite(scene, probes, personas=personas).rows(engine)


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
    """One row per sample: item, slot, persona, prompt, text, finish, n_tokens, outcome."""
    rows = []
    for sample in wanted:
        said = answers[sample.request]
        assert isinstance(said, Generated)
        rows.append(
            {
                "item": sample.item,
                "slot": sample.slot,
                "persona": sample.persona,
                "prompt": sample.request.context,
                "text": said.text.strip(),
                "finish": said.finish,
                "n_tokens": said.n_tokens,
                "outcome": said.outcome,
            }
        )
    return rows


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
