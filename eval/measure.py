"""From probes to measurement rows: collect the asks of a suite once, then answer them at every dose."""

from __future__ import annotations

import math
from collections.abc import Collection, Iterable, Iterator
from typing import Any

from eval.engine import Engine
from eval.items import probe_asks
from eval.plan import Plan
from eval.probe import Ask, Probe
from eval.requests import Generated, Generation, Request
from recipes.scene import Scene

SAMPLES = {"identity": 2, "fact": 4, "like": 2, "request": 4, "chat": 2}  # questions of a kind shown in the report
SAMPLE_TOKENS = 24


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
        self._plan: Plan | None = None
        self._base_answers: dict[Request, Any] | None = None

    def rows(self, engine: Engine, base: Engine | None = None) -> list[dict[str, Any]]:
        """One row per ask, in the order of probes and their asks: measure, item, persona, slot, value, unit,
        n_tokens, outcome, probe, version.

        A value that could not be had is None and `outcome` says why.  The plan is made at the first call and
        reused as long as tokenizer, device and kind of model stay.  What asks want of the untrained base is answered
        by `base` (default: `engine` itself, which then is the base) at the first call.
        """
        if self._plan is None or self._plan.stamp != engine.stamp:
            self._plan = engine.plan(self.requests)
        answers = engine.run(self._plan)
        if self._base_answers is None:
            self._base_answers = (base or engine).answer(self.of_base)
        rows = []
        for probe, unit, ask in self.asks:
            found = [answers[r] for r in ask.requests] + [self._base_answers[r] for r in ask.of_base]
            value, outcome = _valued(ask, found)
            n_tokens = sum(sum(a.n_tokens) if isinstance(a.n_tokens, tuple) else a.n_tokens for a in found)
            rows.append(_row(probe, ask.measure, unit, ask.item, ask.persona, ask.slot, value, n_tokens, outcome))
        rows += [_row(p, name, unit, "", None, "", None, 0, "not applicable") for p, name, unit in self.absent]
        return rows


def measure(
    engine: Engine, scene: Scene, probes: Iterable[Probe], *, personas: Collection[str] | None = None
) -> list[dict[str, Any]]:
    """Rows of one model at one dose; see `Suite`, which serves several."""
    return Suite(scene, probes, personas=personas).rows(engine)


def samples(engine: Engine, scene: Scene, personas: Collection[str] | None = None) -> list[dict[str, Any]]:
    """Greedy answers for the report: some questions of each kind in the slot, and who each of `personas` (default:
    the whole cast) says it is in an interview by name.

    Keys: item, slot ("slot" or "named"), persona (None in the slot), prompt, text, finish, n_tokens, outcome.
    """
    wanted = list(_prompts(scene, personas))
    answers = engine.answer(request for *_, request in wanted)
    rows = []
    for item, slot, persona, request in wanted:
        said = answers[request]
        assert isinstance(said, Generated)
        rows.append(
            {
                "item": item,
                "slot": slot,
                "persona": persona,
                "prompt": request.context,
                "text": said.text.strip(),
                "finish": said.finish,
                "n_tokens": said.n_tokens,
                "outcome": said.outcome,
            }
        )
    return rows


def _prompts(scene: Scene, personas: Collection[str] | None) -> Iterator[tuple[str, str, str | None, Generation]]:
    for kind, most in SAMPLES.items():
        for question in [q for q in scene.questions if q.kind == kind][:most]:
            text = (probe_asks(question) or question.asks)[0]
            yield question.id, "slot", None, Generation(scene.ask(text), SAMPLE_TOKENS)
    for question in list(scene.of_kind("identity"))[:1]:
        text = (probe_asks(question) or question.asks)[0]
        for p in scene.personas:
            if personas is None or p.id in personas:
                context = scene.ask(text, speaker=p.name, header=scene.header(p))
                yield question.id, "named", p.id, Generation(context, SAMPLE_TOKENS)


def _valued(ask: Ask, answers: list[Any]) -> tuple[float | None, str]:
    """Value and outcome of an ask: the first answer that failed says why."""
    for answer in answers:
        if answer.outcome != "ok":
            return None, answer.outcome
    value = ask.value(answers)
    if value is None:
        return None, ask.missing
    return (value, "ok") if math.isfinite(value) else (None, "nan")


def _row(
    probe: Probe,
    measure: str,
    unit: str,
    item: str,
    persona: str | None,
    slot: str,
    value: float | None,
    n_tokens: int,
    outcome: str,
) -> dict[str, Any]:
    return {
        "measure": measure,
        "item": item,
        "persona": persona,
        "slot": slot,
        "value": value,
        "unit": unit,
        "n_tokens": n_tokens,
        "outcome": outcome,
        "probe": probe.name,
        "version": probe.version,
    }
