"""A stage on several processes, optimiser step by optimiser step the same as on one.

The batch that a recipe writes, per_device_train_batch_size x gradient_accumulation_steps, is the batch of a step on
any number of processes.  Each step is made of the rows of which one process would make it, also the last one of an
epoch, where rows run short and accelerate would fill up with others; and each row weighs as much as there.  What is
left is rounding, and dropout, whose masks are drawn by each process.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from recipes.errors import InputError

# Losses of DPO that are not a mean over rows: a micro-batch has to be the one that the recipe writes.
OF_THE_BATCH = {"aot", "aot_unpaired", "sft"}
# What would make batches otherwise than the recipe writes them, with the values at which it does not.
FIXED: dict[str, tuple[Any, ...]] = {
    "auto_find_batch_size": (False,),
    "train_sampling_strategy": ("random", "sequential"),
    "accelerator_config": (None,),
}


@dataclass(frozen=True)
class Piece:
    """A process's part of a micro-step: places in the step's rows, and the weight of its mean loss.

    No rows: the process only keeps the others company.
    """

    start: int
    stop: int
    weight: float

    def __len__(self) -> int:
        return self.stop - self.start


@dataclass(frozen=True)
class Share:
    """The batch of a step, written as `written` (rows of a micro-batch, micro-batches), on `processes`.

    Each takes `accumulation` micro-batches of `size` rows.
    """

    written: tuple[int, int]
    processes: int
    size: int
    accumulation: int

    @property
    def rows(self) -> int:
        """Rows of a whole step."""
        return self.written[0] * self.written[1]

    def pieces(self, rows: int) -> list[list[Piece]]:
        """By micro-step, then by process: who takes which of the `rows` rows of a step, at most `self.rows`.

        Micro-batches lie within those of the one process, so that a row's weight there, 1 / (its micro-batch's rows x
        micro-batches), is one factor of a piece's mean.
        """
        chunks = math.ceil(rows / self.size)
        steps, there = math.ceil(chunks / self.processes), math.ceil(rows / self.written[0])
        found = []
        for chunk in range(steps * self.processes):
            start, stop = min(chunk * self.size, rows), min((chunk + 1) * self.size, rows)
            first = start // self.written[0] * self.written[0]
            beside = min(self.written[0], rows - first) or 1
            found.append(Piece(start, stop, (stop - start) * self.processes * steps / (beside * there)))
        return [found[i : i + self.processes] for i in range(0, len(found), self.processes)]


def share_of(kind: str, settings: Mapping[str, Any], processes: int) -> Share:
    """How a stage of this `kind` shares its batch among `processes`.

    InputError names the numbers of processes that can share it.
    """
    size = int(settings["per_device_train_batch_size"])
    accumulation = int(settings.get("gradient_accumulation_steps", 1))
    if processes == 1:
        return Share((size, accumulation), 1, size, accumulation)
    for key, allowed in FIXED.items():
        if kind != "rl" and settings.get(key, allowed[0]) not in allowed:
            raise InputError(f"{kind}: trainer.{key}: {settings[key]} is for one process, not for {processes}")
    losses = settings.get("loss_type", ())
    whole = kind == "dpo" and bool(OF_THE_BATCH & set([losses] if isinstance(losses, str) else losses))
    shared = accumulation if whole else size * accumulation
    if shared % processes:
        valid = ", ".join(str(n) for n in range(1, shared + 1) if shared % n == 0)
        raise InputError(
            f"{kind}: a batch of per_device_train_batch_size {size} x gradient_accumulation_steps {accumulation} "
            f"cannot be shared by {processes} processes; numbers that can: {valid}"
        )
    each = size * accumulation // processes
    taken = size if whole else math.gcd(each, size)
    return Share((size, accumulation), processes, taken, each // taken)


def shared(kind: str, settings: Mapping[str, Any], processes: int) -> dict[str, Any]:
    """A stage's settings for each of `processes`; on one they are what they were.  InputError as `share_of`."""
    share = share_of(kind, settings, processes)
    if processes == 1:
        return dict(settings)
    found = {**settings, "per_device_train_batch_size": share.size, "gradient_accumulation_steps": share.accumulation}
    if kind == "sft":
        found["average_tokens_across_devices"] = True  # a step's loss is the mean over its tokens, wherever they are
    if "steps_per_generation" in settings:  # of rl: as many answers at a time as on one process
        wanted, each = share.written[0] * int(settings["steps_per_generation"]), share.size * processes
        if wanted % each:
            raise InputError(f"{kind}: {wanted} answers at a time cannot be made in batches of {each}")
        found["steps_per_generation"] = wanted // each
    return found


def build(kind: str, settings: Mapping[str, Any], make_trainer: Callable[..., Any], **parts: Any) -> Any:
    """The stage's trainer, which takes the steps of one process on however many there are.

    ``make_trainer(settings=..., **parts)`` is given the settings of each process.  InputError as `share_of`.
    """
    from accelerate import PartialState

    processes = PartialState().num_processes
    with one_device():
        trainer = make_trainer(settings=shared(kind, settings, processes), **parts)
    trainer.args._n_gpu = min(trainer.args._n_gpu, 1)
    if processes > 1 and kind in ("sft", "dpo"):
        Steps(trainer, share_of(kind, settings, processes), bool(settings.get("dataloader_drop_last"))).install()
    return trainer


@contextmanager
def one_device() -> Iterator[None]:
    """Settings made meanwhile are for one device, however many the process sees.

    Left alone, transformers lets each of them take a whole micro-batch, and TRL refuses.
    """
    from transformers import TrainingArguments

    theirs: Any = TrainingArguments.n_gpu
    TrainingArguments.n_gpu = property(lambda self: min(theirs.fget(self), 1))  # type: ignore[method-assign, assignment]
    try:
        yield
    finally:
        TrainingArguments.n_gpu = theirs  # type: ignore[method-assign]


class Order:
    """A batch sampler: this process's row indices for every micro-step of an epoch, in the order of `sampler`."""

    def __init__(self, sampler: Any, share: Share, process: int, rows: int) -> None:
        self.sampler, self.share, self.process, self.rows = sampler, share, process, rows

    def sizes(self) -> Iterator[int]:
        """Rows of each step of an epoch."""
        for start in range(0, self.rows, self.share.rows):
            yield min(self.share.rows, self.rows - start)

    def __len__(self) -> int:
        return sum(len(self.share.pieces(size)) for size in self.sizes())

    def __iter__(self) -> Iterator[list[int]]:
        drawn = list(self.sampler)
        start = 0
        for size in self.sizes():
            step = drawn[start : start + size]
            for pieces in self.share.pieces(size):
                mine = pieces[self.process]
                # A process without rows has to compute something, since gradients are summed by all.
                yield step[mine.start : mine.stop] or step[:1]
            start += size


class Steps:
    """What `build` puts between a trainer and its data, its loss and its metrics."""

    def __init__(self, trainer: Any, share: Share, drop_last: bool) -> None:
        self.trainer, self.share, self.drop_last = trainer, share, drop_last
        self.process = trainer.args.process_index
        self.at = (-1, 0)  # the optimiser step, and how many micro-steps of it were computed
        self.now: list[Piece] | None = None  # by process, while a micro-step with unequal pieces is computed

    def install(self) -> None:
        """Take the places of the trainer's own methods, which are called from within."""
        trainer, accelerator = self.trainer, self.trainer.accelerator
        self.loader, self.loss, self.count = (
            trainer.get_train_dataloader, trainer.compute_loss, trainer._get_num_items_in_batch,
        )  # fmt: skip
        self.gathered = accelerator.gather
        trainer.get_train_dataloader = self.get_train_dataloader
        trainer.compute_loss = self.compute_loss
        trainer._get_num_items_in_batch = self.count_items
        accelerator.gather = self.gather

    @cached_property
    def rows(self) -> int:
        """Rows of an epoch; those that `dataloader_drop_last` drops are not among them."""
        rows = len(self.trainer.train_dataset)
        return rows - rows % self.share.written[0] if self.drop_last else rows

    def pieces(self) -> list[list[Piece]]:
        """Of the optimiser step that is being made."""
        steps = math.ceil(self.rows / self.share.rows)
        start = self.trainer.state.global_step % steps * self.share.rows
        return self.share.pieces(min(self.share.rows, self.rows - start))

    def get_train_dataloader(self) -> Any:
        """The trainer's own, with our order in the place of accelerate's."""
        loader = self.loader()
        sharding = loader.batch_sampler  # accelerate's BatchSamplerShard; what it is given it shall pass on as it is
        sampler = sharding.batch_sampler.sampler
        sharding.batch_sampler = Order(sampler, self.share, self.process, self.rows)
        sharding.num_processes, sharding.process_index = 1, 0
        sharding.batch_size, sharding.drop_last = None, True
        loader._drop_last = True  # or metrics would be cut by as many rows as accelerate thinks are there twice
        return loader

    def count_items(self, batches: Sequence[dict[str, Any]], device: Any) -> Any:
        """Supervised tokens of the step on all processes, those of rows that only keep company left out."""
        for batch, pieces in zip(batches, self.pieces(), strict=True):
            for name in ("labels", "shift_labels"):
                if name in batch and not pieces[self.process]:
                    batch[name][...] = -100
        return self.count(batches, device)

    def compute_loss(
        self, model: Any, inputs: Any, return_outputs: bool = False, num_items_in_batch: Any = None
    ) -> Any:
        """The trainer's loss, weighted where it is the mean of a piece's rows and not of the step's tokens."""
        if not model.training:
            return self.loss(model, inputs, return_outputs, num_items_in_batch)
        step = self.trainer.state.global_step
        micro = self.at[1] if self.at[0] == step else 0
        self.at = (step, micro + 1)
        pieces = self.pieces()[micro]
        self.now = pieces if len(set(map(len, pieces))) > 1 else None
        try:
            found = self.loss(model, inputs, return_outputs, num_items_in_batch)
        finally:
            self.now = None
        weight = 1.0 if num_items_in_batch is not None else pieces[self.process].weight
        if weight == 1.0:
            return found
        return (found[0] * weight, found[1]) if return_outputs else found * weight

    def gather(self, tensor: Any) -> Any:
        """Accelerate's gather, also of metrics [rows] or [] of unequal pieces; [all rows], or [processes with rows]."""
        import torch

        if self.now is None or not torch.is_tensor(tensor) or tensor.dim() > 1:
            return self.gathered(tensor)
        each = [len(piece) if tensor.dim() else min(len(piece), 1) for piece in self.now]
        mine = tensor.reshape(-1)[: each[self.process]]
        padded = torch.cat([mine, mine.new_zeros(max(each) - len(mine))])
        whole = self.gathered(padded).reshape(len(each), -1)
        return torch.cat([row[:n] for row, n in zip(whole, each, strict=True)])
