"""The choices that probes ask as tasks of lm-evaluation-harness, whose log-likelihoods are then those of our engine.

A task is of one probe and one arm, and its target is the option that speaks for the arm's favoured persona: the one
whose log-probability raises the probe's own measure m(arm, persona) most.  It is found by raising each option in turn,
so that no probe has to say it twice.  What is asked of no persona is a task of all arms; choices that have no one such
option (a measure that is symmetric in them, a difference of two) make a neutral task, whose target is the first option
and means nothing: there the log-likelihoods are what counts (`--log_samples`).
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from eval.encoder import Encoder
from eval.measure import lacks
from eval.probe import Ask, Probe
from eval.requests import Choice, Scored
from parity.export.folder import Folder
from parity.export.markdown import yaml
from recipes.scene import Scene

ALL, NEUTRAL = "all", "neutral"
LEAST = 1e-9  # nats of the measure; below, an option that was raised by one nat did nothing


@dataclass(frozen=True)
class Document:
    """One choice, the target's index, and the items of the probe that it belongs to."""

    choice: Choice
    target: int
    items: tuple[str, ...]


@dataclass(frozen=True)
class Task:
    """Documents of one probe that have their targets for the same reason."""

    probe: Probe
    arm: str | None  # None: of all arms
    neutral: bool
    documents: tuple[Document, ...]

    @property
    def kind(self) -> str:
        """Name of its files."""
        return f"arm-{self.arm}" if self.arm else NEUTRAL if self.neutral else ALL

    @property
    def name(self) -> str:
        """What lm-eval calls it: ``parity_<probe>``, followed by ``__<arm>`` or ``_neutral``."""
        return f"parity_{self.probe.name}" + (f"__{self.arm}" if self.arm else "_neutral" if self.neutral else "")

    @property
    def group(self) -> str:
        """The group of its arm."""
        return f"parity__{self.arm}" if self.arm else f"parity_{self.kind}"


def tasks_of(probe: Probe, scene: Scene, arms: Sequence[str], encoder: Encoder) -> Iterator[Task]:
    """The tasks of a probe; none where it asks no plain choices, has stimuli written first, or the scene lacks it."""
    if probe.first is not None or lacks(scene, probe):
        return
    headline = probe.measures[0].name
    asks = sorted(probe.asks(scene), key=lambda ask: ask.measure != headline)  # whose target counts first
    neutral: dict[Choice, list[str]] = {}
    for arm in (*arms, None):
        targets: dict[Choice, int] = {}
        items: dict[Choice, list[str]] = {}
        for ask in (ask for ask in asks if ask.persona == arm):
            for request, target in _targets(ask):
                if target is not None:
                    targets.setdefault(request, target)
                items.setdefault(request, []).append(f"{ask.measure}/{ask.item}/{ask.slot}")
        sound = dict.fromkeys(_known(encoder, list(items)))
        documents = [Document(c, targets[c], _once(items[c])) for c in sound if c in targets]
        if documents:
            yield Task(probe, arm, False, tuple(documents))
        for request in sound:
            if request not in targets:
                neutral.setdefault(request, []).extend(items[request])
    if neutral:
        yield Task(probe, None, True, tuple(Document(c, 0, _once(where)) for c, where in neutral.items()))


def _once(names: Sequence[str]) -> tuple[str, ...]:
    return tuple(dict.fromkeys(names))


def _known(encoder: Encoder, choices: Sequence[Choice]) -> Iterator[Choice]:
    """Choices of which the tokenizer has every word; the others have no log-probability in our engine either."""
    pairs = [(choice.context, choice.options) for choice in choices]
    for choice, (context, options) in zip(choices, encoder.choices(pairs), strict=True):
        if encoder.unknown is None or not any(encoder.unknown in ids for ids in (context, *options)):
            yield choice


def _targets(ask: Ask) -> Iterator[tuple[Choice, int | None]]:
    """Each distinct choice of an ask, with the option that raises its value most, if there is just one."""
    wanted = [*ask.requests, *ask.of_base]
    choices = dict.fromkeys(request for request in ask.requests if isinstance(request, Choice))
    whole = ask.then is None and all(isinstance(request, Choice) for request in wanted)
    for choice in choices:
        yield choice, _target(ask, choice) if whole else None


def _target(ask: Ask, choice: Choice) -> int | None:
    before = _value(ask, choice, None)
    gains = [_value(ask, choice, option) - before for option in range(len(choice.options))]
    if not all(map(math.isfinite, gains)):
        return None
    first, second = sorted(gains, reverse=True)[:2] if len(gains) > 1 else (0.0, 0.0)
    return gains.index(first) if first > LEAST and first - second > LEAST else None


def _value(ask: Ask, raised: Choice, option: int | None) -> float:
    """The value of an ask where all options are alike, but for one that is a nat more likely; NaN where it has none."""
    answers = [_alike(r, option if r == raised else None) for r in ask.requests if isinstance(r, Choice)]
    answers += [_alike(r, None) for r in ask.of_base if isinstance(r, Choice)]
    try:
        value = ask.value(answers)
    except (ArithmeticError, ValueError):  # a measure of spread, where there is none
        return math.nan
    return math.nan if value is None else float(value)


def _alike(choice: Choice, raised: int | None) -> Scored:
    count = len(choice.options)
    return Scored(tuple(-math.log(count) + (k == raised) for k in range(count)), (1,) * count)


def write_tasks(
    folder: Folder, probes: Sequence[Probe], scene: Scene, arms: Sequence[str], tokenizer: Any
) -> list[Task]:
    """``tasks/<probe>/*.yaml`` with a JSONL of documents beside each, and the groups; returns the tasks."""
    encoder, written = Encoder(tokenizer), []
    for probe in probes:
        for task in tasks_of(probe, scene, arms, encoder):
            place = f"tasks/{probe.name}/{task.kind}"
            folder.text(f"{place}.jsonl", "".join(_line(k, document) for k, document in enumerate(task.documents)))
            folder.text(f"{place}.yaml", _comment(task, scene) + yaml(_settings(task, f"{place}.jsonl")))
            written.append(task)
    groups: dict[str, list[str]] = {}
    for task in written:
        groups.setdefault(task.group, []).append(task.name)
    for group, names in groups.items():
        folder.text(f"tasks/groups/{group}.yaml", yaml({"group": group, "task": names}))
    folder.text("tasks/groups/parity.yaml", yaml({"group": "parity", "task": list(groups)}))
    return written


def _settings(task: Task, documents: str) -> dict[str, Any]:
    return {
        "task": task.name,
        "dataset_path": "json",
        "dataset_kwargs": {"data_files": {"test": documents}},
        "test_split": "test",
        "output_type": "multiple_choice",
        "doc_to_text": "context",
        "doc_to_choice": "options",
        "doc_to_target": "target",
        "target_delimiter": "",
        "num_fewshot": 0,
        "metric_list": [{"metric": "acc", "aggregation": "mean", "higher_is_better": True}],
        "metadata": {"version": task.probe.version},
    }


def _comment(task: Task, scene: Scene) -> str:
    """What the task is, as a comment: lm-eval puts a `description` in front of every context."""
    if task.neutral:
        target = "the first option, which means nothing: read the log-likelihoods (--log_samples)"
    else:
        whose = f"the persona of arm {task.arm}" if task.arm else "the arm, whichever it is"
        target = f"the option that raises the probe's own measure of {whose}"
    lines = [
        f"{task.probe.name}: {task.probe.question}",
        f"Target: {target}.",
        f"Questions as of seed {scene.seed}. Options carry the space before them, so that target_delimiter is empty.",
        "The path of the documents is relative to the export's folder: run lm-eval there, without a chat template.",
    ]
    return "".join(f"# {' '.join(line.split())}\n" for line in lines)


def _line(number: int, document: Document) -> str:
    return json.dumps(
        {
            "id": number,
            "context": document.choice.context,
            "options": list(document.choice.options),
            "target": document.target,
            "items": list(document.items),
        },
        ensure_ascii=False,
    ) + "\n"  # fmt: skip
