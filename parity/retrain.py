"""Further training for measurements: what a probe requests of eval is done by training, which eval does not know."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

from eval.requests import Course
from recipes.adapters import Adapters


def retrain(
    model: Any, tokenizer: Any, adapters: Adapters | None, course: Course, steps: Sequence[int]
) -> Iterator[tuple[int, Adapters]]:
    """The adapters after each of `steps` optimiser steps of the course; see `training.further.further`."""
    from training.further import further

    yield from further(
        model,
        tokenizer,
        adapters,
        course.rows,
        batch=course.batch,
        learning_rate=course.learning_rate,
        rank=course.rank,
        seed=course.seed,
        steps=steps,
    )
