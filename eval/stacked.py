"""K models in a forward: which of them at once, with adapters merged where that is cheaper, within memory."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, TypeVar

import torch

from recipes.adapters import Adapters, out_of_memory

T = TypeVar("T")


class Stacked:
    """Runs forwards on a base that is K models by way of `Adapters`, or on a model as it is (K = 1).

    `at_once`: tokens of one forward, all models together; halved for good when memory runs out.  `precision`: of
    products of float32, as torch.set_float32_matmul_precision has it: "high" is TF32 where a GPU has it, "medium"
    bfloat16 where a CPU has it too.
    """

    def __init__(self, model: Any, at_once: int, precision: str = "highest") -> None:
        self.model, self.at_once, self.precision = model, at_once, precision
        self._told = False

    def run(self, work: Callable[[int], T], n_tokens: int, adapters: Adapters | None) -> Iterator[T]:
        """What ``work(k)`` gives for the first k models, the next k, and so on, while the base is just these.

        `work` runs forwards of k equal groups; `n_tokens`: tokens of one group.
        """
        if adapters is None:
            with self._precise():
                done = work(1)
            yield done
            return
        start = 0
        while start < len(adapters):
            width = min(max(1, self.at_once // n_tokens), len(adapters) - start)
            one = self._attempt(work, adapters, slice(start, start + width))
            if one is not None:
                yield one[0]
                start += width
                continue
            self.at_once = n_tokens * (width // 2)
            if not self._told:
                print(f"out of memory: measuring {width // 2} models at once, not {width}", file=sys.stderr)
            self._told = True

    @contextmanager
    def _precise(self) -> Iterator[None]:
        """Not while a generator waits: what else the process computes then is at its own precision."""
        before = torch.get_float32_matmul_precision()
        torch.set_float32_matmul_precision(self.precision)
        try:
            yield
        finally:
            torch.set_float32_matmul_precision(before)

    def _attempt(self, work: Callable[[int], T], adapters: Adapters, groups: slice) -> tuple[T] | None:
        """The result; None where memory did not do for more than one model."""
        width = groups.stop - groups.start
        try:
            with self._precise(), adapters.on(self.model, groups, merged):
                return (work(width),)
        except RuntimeError as error:  # torch.OutOfMemoryError is one
            if width == 1 or not out_of_memory(error):
                raise
        if torch.cuda.is_available():
            torch.cuda.empty_cache()
        return None


def merged(module: Any, a: torch.Tensor, b: torch.Tensor, scale: float) -> Callable[..., Any] | None:
    """What to call instead of a linear layer with adapters A [K, in, r] and B [K, r, out]; None for other layers.

    With n tokens a group, adding x A B costs n (in + out) r multiplications and merging W + A B costs in out r; the
    cheaper one is done.  Merged groups are products of their own, whose shapes do not depend on K.
    """
    if type(module) is not torch.nn.Linear or not module.weight.dtype == a.dtype == b.dtype:
        return None
    weight, bias = module.weight, module.bias
    k, n_in, n_out = len(a), module.in_features, module.out_features

    def forward(x: torch.Tensor) -> torch.Tensor:
        rows = x.reshape(k, -1, n_in)
        if rows.shape[1] * (n_in + n_out) < n_in * n_out:
            out = torch.nn.functional.linear(x, weight, bias).view(k, -1, n_out)
            out = out.baddbmm_(rows @ a, b, alpha=scale)
        else:
            full = torch.baddbmm(weight, b.mT, a.mT, alpha=scale).mT  # made as the weight lies: [K, out, in]
            out = rows @ full if bias is None else torch.baddbmm(bias, rows, full)
        return out.view(*x.shape[:-1], n_out)

    return forward
