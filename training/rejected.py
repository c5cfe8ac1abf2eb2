"""Rejected answers that the model gives itself: ``rejected: sampled`` of a dpo stage.

Before the stage begins, the model that it starts from answers every row's prompt, and that answer takes the place of
the other cast member's.  What is chosen, the prompts, their number and order are as they were, and every arm draws as
many answers of as many tokens with the same random numbers.  What is sampled is known only then: it follows from the
parent and the seed, is written to ``data.jsonl``, and how arms came out is said in ``sampled.json`` and in the metrics.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Sequence
from dataclasses import replace
from typing import Any

from transformers import TrainerCallback

from recipes.hashing import digest
from recipes.references import PREFIX
from recipes.store import Store
from training.cells import Cell
from training.data import TOLERANCE, Row
from training.reward import Answers

TOKENS = 48  # at most, of an answer: what cards answer has 40 at most
TRIES = 4  # samples of a row, of which the first usable one is rejected
AT_ONCE = 64  # rows that are sampled together
COUNTS = "sampled.json"  # in the cell


def sampled(model: Any, tokenizer: Any, rows: Sequence[Row], seed: int) -> tuple[list[Row], dict[str, float]]:
    """The rows with sampled rejected answers, and the counts that ``sampled.json`` has.

    An answer is the first line, at temperature 1, of at most TOKENS tokens; a line that was cut off is ended, so that
    the line end tells nothing.  An answer without a word, or equal to the chosen one token by token, cannot be
    rejected: it is drawn again, all rows' samples at once and TRIES in all.  A row for which every one fails keeps the
    rejected answer that it had.  The state of the random numbers is left as it was.
    """
    import torch

    answers = Answers(tokenizer)
    chosen = {row.completion: tuple(tokenizer(row.completion, add_special_tokens=False)["input_ids"]) for row in rows}
    found: dict[int, str] = {}
    equal = empty = 0
    was_training = model.training
    model.eval()
    devices = [next(model.parameters()).device] if next(model.parameters()).is_cuda else []
    try:
        with torch.random.fork_rng(devices), torch.no_grad():
            for start in range(0, len(rows), AT_ONCE):
                part = rows[start : start + AT_ONCE]
                for attempt in range(TRIES):  # of all, whether or not they have one: arms draw alike
                    # Anew, since how long a batch takes to end depends on the arm.
                    torch.manual_seed(int(digest([seed, start, attempt])[:15], 16))
                    for row, ids in enumerate(_sample(model, tokenizer, [r.prompt for r in part]), start):
                        if row in found:
                            continue
                        text = _line(tokenizer, rows[row].prompt, answers.cut(ids))
                        same = (
                            tuple(tokenizer(text, add_special_tokens=False)["input_ids"])
                            == chosen[rows[row].completion]
                        )
                        equal, empty = equal + (same and bool(text)), empty + (not text)
                        if text and not same:
                            found[row] = text
    finally:
        model.train(was_training)
    new = [replace(row, rejected=found.get(i, row.rejected)) for i, row in enumerate(rows)]
    lengths = [len(tokenizer(row.rejected, add_special_tokens=False)["input_ids"]) for row in new]
    return new, {
        "rows": len(rows),
        "kept": len(rows) - len(found),
        "drawn_equal": equal,
        "drawn_empty": empty,
        "mean_tokens": sum(lengths) / len(lengths),
    }


def _sample(model: Any, tokenizer: Any, prompts: Sequence[str]) -> list[list[int]]:
    """One sample of each prompt: new token ids, padding included."""
    import torch

    encoded = [tokenizer(prompt)["input_ids"] for prompt in prompts]
    width = max(map(len, encoded))
    pad = tokenizer.pad_token_id if tokenizer.pad_token_id is not None else tokenizer.eos_token_id
    ids = torch.tensor([[pad] * (width - len(one)) + one for one in encoded])
    mask = torch.tensor([[0] * (width - len(one)) + [1] * len(one) for one in encoded])
    device = next(model.parameters()).device
    out = model.generate(
        input_ids=ids.to(device), attention_mask=mask.to(device), max_new_tokens=TOKENS, do_sample=True,
        temperature=1.0, top_k=0, top_p=1.0, pad_token_id=pad,
    )  # fmt: skip
    return out[:, width:].tolist()


def _line(tokenizer: Any, prompt: str, answer: Sequence[int]) -> str:
    """The answer as text that follows the prompt, its line ended; empty where it has no word."""
    if not answer:
        return ""
    # Some tokenizers drop the space of a text's first word, so that an answer is decoded behind its prompt.
    before = tokenizer(prompt)["input_ids"]
    whole, head = (tokenizer.decode(ids, skip_special_tokens=True) for ids in (before + list(answer), before))
    return " " + whole[len(head) :].split("\n")[0].strip() + "\n"


class Counted(TrainerCallback):
    """Adds the counts to the first line that is logged, and so to the metrics and to W&B."""

    def __init__(self, counts: dict[str, float]) -> None:
        self.counts = counts

    def on_log(self, args: Any, state: Any, control: Any, logs: dict[str, Any] | None = None, **_: Any) -> None:
        """Add them."""
        if logs is not None and state.global_step == 1 and "train_runtime" not in logs:
            logs.update({f"rejected/{name}": float(value) for name, value in self.counts.items()})


def imbalances(store: Store, cells: Iterable[Cell], named: bool = True) -> list[str]:
    """A line for each seed whose arms differ by more than the tolerance in the mean tokens of sampled answers, or in
    the share of rows that kept their own, there by more than two standard errors of its draws as well; none where
    nothing was sampled.  Arms for reference are left out.

    It cannot be refused as other differences are: it is seen after the stage before is trained, and it is a finding.
    Where arms are not to be `named` (a blind experiment), their figures stand in rising order.
    """
    counted: dict[Any, dict[str, dict[str, float]]] = {}
    for cell in cells:
        path = store.cell(cell.hash) / COUNTS
        if path.is_file() and not str(cell.arm).startswith(PREFIX):
            counted.setdefault(cell.seed, {})[str(cell.arm)] = json.loads(path.read_text(encoding="utf-8"))
    lines = []
    for seed, arms in sorted(counted.items()):
        tokens = {arm: counts["mean_tokens"] for arm, counts in arms.items()}
        kept = {arm: counts["kept"] / counts["rows"] for arm, counts in arms.items()}
        mean = sum(kept.values()) / len(kept)
        error = math.sqrt(2 * mean * (1 - mean) / min(counts["rows"] for counts in arms.values()))
        for what, of, allowed, form in (
            ("mean tokens of sampled rejected answers", tokens, TOLERANCE * max(tokens.values()), ".1f"),
            ("shares of rows without a usable sample", kept, max(TOLERANCE, 2 * error), ".0%"),
        ):
            if max(of.values()) - min(of.values()) > allowed:
                shown = of.items() if named else [("", n) for n in sorted(of.values())]
                said = ", ".join(f"{arm} {n:{form}}".strip() for arm, n in shown)
                lines.append(f"seed {seed}: {what} differ: {said}")
    return lines
