"""The tasks of an export, put to lm-evaluation-harness."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

from eval.requests import Choice


def asked_by_both(model: Any, tokenizer: Any) -> tuple[list[Choice], list[list[float]], dict[str, Any]]:
    """In the folder of an export: each choice of its tasks, lm-evaluation-harness's answers to it, and the groups."""
    from lm_eval import simple_evaluate
    from lm_eval.models.huggingface import HFLM
    from lm_eval.tasks import TaskManager

    logging.getLogger("lm_eval").setLevel(logging.ERROR)
    lm = HFLM(pretrained=model, tokenizer=tokenizer, batch_size=64)
    manager = TaskManager(include_path="tasks", include_defaults=False)
    found = simple_evaluate(lm, tasks=["parity"], task_manager=manager, log_samples=True, bootstrap_iters=0)
    samples = [sample for of_task in found["samples"].values() for sample in of_task]
    written = sum(len(path.read_text().splitlines()) for path in Path("tasks").rglob("*.jsonl"))
    assert len(samples) == written > 100
    asked = [Choice(s["doc"]["context"], tuple(s["doc"]["options"])) for s in samples]
    return asked, [[resp[0][0] for resp in s["resps"]] for s in samples], found["group_subtasks"]
