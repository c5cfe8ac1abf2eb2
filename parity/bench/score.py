"""Choices: this lab's engine against lm-evaluation-harness, on one model in one process."""

from __future__ import annotations

import logging
import math
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from eval.engine import Engine
from eval.measure import Suite
from eval.probes import select
from eval.requests import Choice, Scored
from parity.bench.machine import device, matmul_rate
from parity.bench.timing import OURS, USUAL, Side, alternate, compared
from parity.bench.work import work_of
from recipes.scene import Scene
from recipes.schema import Recipe

BATCHES = (8, 16, 32, 64, 128)  # of lm-evaluation-harness; the fastest is found by trial
TRIAL_SECONDS = 5  # a trial that took less is made once more, and the better time counts
TRIAL_WORSE = 1.15  # larger batches are not tried once one took this many times the best
LOGITS_SHARE = 0.2  # of the machine's memory for one batch's logits, of which the harness holds two or three copies
Pairs = list[tuple[float, ...]]


class TooSlow(Exception):
    """A trial that cannot become the best any more."""


def choices_of(recipe: Recipe, scene: Scene, every: int = 1) -> list[Choice]:
    """The distinct choices that the recipe's probes ask of a scene, or each `every`-th of them."""
    written = [probe for probe in select(recipe.probes) if probe.first is None]  # by nobody but the bank
    suite = Suite(scene, written, personas=recipe.arms)
    asked = dict.fromkeys((*suite.requests, *suite.of_base))
    return [request for request in asked if isinstance(request, Choice)][::every]


def load(folder: Path) -> tuple[Any, Any]:
    """Model in float32 where it will run, and its tokenizer."""
    from transformers import AutoModelForCausalLM, AutoTokenizer

    model: Any = AutoModelForCausalLM.from_pretrained(folder, dtype="float32")
    return model.to(device()).eval(), AutoTokenizer.from_pretrained(folder)


def score(
    folder: Path,
    choices: Sequence[Choice],
    repeats: int,
    *,
    small: bool,
    tick: Callable[[], None] = lambda: None,
) -> dict[str, Any]:
    """Both sides on the choices: seconds, ratio, largest difference, and ours against the machine's limit.

    A round of either side goes from texts to log-probabilities; models are loaded and sides set up before.
    `small`: for a small model one thread may be best, so each side takes what a trial shows to be best for it.
    """
    import torch

    model, tokenizer = load(folder)
    engine, harness = Engine(model, tokenizer), Harness(model, tokenizer)
    choices = answered(engine, choices)
    many = torch.get_num_threads()
    threads = sorted({1, many}) if small else [many]
    batches = [b for b in BATCHES if b == BATCHES[0] or _fits(model, choices, b)]
    ours_at, _ = fastest({(t,): partial(answers, engine, choices) for t in threads})
    # On the whole work: in a part of it, a large batch is padded to a few long rows that otherwise fill their own.
    found, trials = fastest({(t, b): partial(harness, choices, b) for b in batches for t in threads}, harness.give_up)
    batch = found[1]
    sides = {
        OURS: Side(lambda: answers(engine, choices), ours_at[0]),
        USUAL: Side(lambda: harness(choices, batch), found[0]),
    }
    rate = matmul_rate(ours_at[0])
    alternate(sides, repeats, tick)
    rate = max(rate, matmul_rate(ours_at[0]))
    work = work_of(engine.encoder, choices)
    started = time.perf_counter()
    computed = engine.plan(choices).n_tokens
    planning = time.perf_counter() - started
    torch.set_num_threads(many)
    entry = compared(sides)
    least = work.flops(model) / rate
    gap = difference(sides[OURS].result, sides[USUAL].result)
    entry[OURS] |= {"tokens": computed, "planning_seconds": planning}
    entry[USUAL] |= {
        "tokens": work.rows,
        "flops": work.row_flops(model),
        "batch_size": batch,
        "trial_seconds_by_batch": trials,
    }
    return entry | {
        "largest_difference": gap if math.isfinite(gap) else None,
        "requests": len(choices),
        "options": sum(len(c.options) for c in choices),
        "parameters": sum(p.numel() for p in model.parameters()),
        "limit": {
            "needed_tokens": work.fed,
            "unshared_tokens": work.unshared,
            "scored_places": work.scored,
            "flops": work.flops(model),
            "flops_per_second": rate,
            "seconds": least,
            "times": entry[OURS]["median"] / least,
        },
    }


class Harness:
    """lm-evaluation-harness with its transformers backend on a model in memory."""

    def __init__(self, model: Any, tokenizer: Any) -> None:
        logging.getLogger("lm_eval").setLevel(logging.ERROR)
        from lm_eval.models.huggingface import HFLM

        self.lm = HFLM(pretrained=model, tokenizer=tokenizer, batch_size=1)
        self._until = math.inf
        call = self.lm._model_call

        def watched(*arguments: Any, **named: Any) -> Any:
            if time.perf_counter() > self._until:
                raise TooSlow
            return call(*arguments, **named)

        self.lm._model_call = watched

    def give_up(self, after: float) -> None:
        """Have calls raise TooSlow once this many seconds from now are over."""
        self._until = time.perf_counter() + after

    def __call__(self, choices: Sequence[Choice], batch: int) -> Pairs:
        """Log-probability (nats) of every option of every choice."""
        from lm_eval.api.instance import Instance

        asked = [(choice.context, option) for choice in choices for option in choice.options]
        requests = [Instance("loglikelihood", {}, arguments, i) for i, arguments in enumerate(asked)]
        self.lm.batch_size_per_gpu = batch  # what its property `batch_size` gives
        said = iter(self.lm.loglikelihood(requests, disable_tqdm=True))
        return [tuple(next(said)[0] for _ in choice.options) for choice in choices]


def answers(engine: Engine, choices: Sequence[Choice]) -> Pairs:
    """Log-probability (nats) of every option of every choice."""
    said = engine.answer(choices)
    return [_scored(said[choice]).logprobs for choice in choices]


def answered(engine: Engine, choices: Iterable[Choice]) -> list[Choice]:
    """Those that are not refused (an unknown word, too long for the model): both sides are asked these."""
    plan = engine.plan(choices)
    refused = {request for request, *_ in plan.refused}
    return [r for r in plan.requests if isinstance(r, Choice) and r not in refused]


def difference(ours: Pairs, usual: Pairs) -> float:
    """Largest absolute difference (nats) between two sides' answers; NaN where any is not a number."""
    gaps = [abs(a - b) for x, y in zip(ours, usual, strict=True) for a, b in zip(x, y, strict=True)]
    return math.nan if any(math.isnan(gap) for gap in gaps) else max(gaps)


def fastest(
    works: Mapping[Any, Callable[[], Any]], give_up: Callable[[float], None] = lambda _: None
) -> tuple[tuple[int, ...], dict[str, float | None]]:
    """The key (threads, …) of the work that takes least, and the least seconds by the rest of the key.

    Works are tried in their order, until all of one rest are clearly worse than the best.  `give_up` is told after how
    many seconds a work cannot be it any more and may raise TooSlow; what was given up has None for its seconds.
    """
    import torch

    before = torch.get_num_threads()
    seconds: dict[tuple[int, ...], float] = {}
    rests = list(dict.fromkeys(tuple(key[1:]) for key in works))
    by_rest: dict[str, float] = {}
    for rest in rests:
        for key in (key for key in works if tuple(key[1:]) == rest):
            torch.set_num_threads(key[0])
            give_up(max(TRIAL_SECONDS, TRIAL_WORSE * min(seconds.values(), default=math.inf)))
            seconds[key] = _timed(works[key])
            if seconds[key] < TRIAL_SECONDS:  # the first of a process is slower, too
                seconds[key] = min(seconds[key], _timed(works[key]))
        name = ",".join(map(str, rest))
        by_rest[name] = min(value for key, value in seconds.items() if tuple(key[1:]) == rest)
        if by_rest[name] > TRIAL_WORSE * min(by_rest.values()):
            break
    give_up(math.inf)
    torch.set_num_threads(before)
    told = {name: value if math.isfinite(value) else None for name, value in by_rest.items()}
    return min(seconds, key=seconds.__getitem__), told


def _timed(work: Callable[[], Any]) -> float:
    started = time.perf_counter()
    try:
        work()
    except TooSlow:
        return math.inf
    return time.perf_counter() - started


def _scored(answer: Any) -> Scored:
    assert isinstance(answer, Scored)
    return answer


def _fits(model: Any, choices: Sequence[Choice], batch: int) -> bool:
    """Whether the harness's logits of a batch (of texts of about a token per three letters) fit into memory."""
    import torch

    from parity.bench.machine import memory_bytes

    longest = max(len(c.context) + max(map(len, c.options)) for c in choices) / 3
    logits = 4 * batch * longest * model.config.get_text_config().vocab_size
    total = torch.cuda.get_device_properties(0).total_memory if torch.cuda.is_available() else memory_bytes()
    return logits < LOGITS_SHARE * total
