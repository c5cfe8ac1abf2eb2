"""The residual stream of a decoder, by forward hooks: look at it after any block, or edit it on the way.

Layer n is the stream after n blocks, 0 what enters the first one.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch

Change = Callable[[torch.Tensor], torch.Tensor | None]  # hidden states [B, N, H] -> what goes on instead, None: as is


def blocks_of(body: Any, n_layers: int) -> Sequence[Any]:
    """The decoder's blocks in order; nothing where they cannot be found."""
    lists = [m for m in body.modules() if isinstance(m, torch.nn.ModuleList) and len(m) == n_layers]
    return list(lists[0]) if lists else []


def layer_number(layer: int | float, n_layers: int) -> int | None:
    """The number of a layer given by number or as a share of the depth; None where the model has none such."""
    if isinstance(layer, float):
        return max(1, round(layer * n_layers)) if 0 < layer <= 1 else None
    return layer if 0 <= layer <= n_layers else None


@contextmanager
def hooked(blocks: Sequence[Any], layer: int, change: Change) -> Iterator[None]:
    """Inside, `change` is called with the stream at `layer` in every forward."""

    def before(_: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        hidden = args[0] if args else kwargs["hidden_states"]
        new = change(hidden)
        if new is None:
            return None
        return ((new, *args[1:]), kwargs) if args else (args, {**kwargs, "hidden_states": new})

    def after(_: Any, args: tuple[Any, ...], out: Any) -> Any:
        new = change(out[0] if isinstance(out, tuple) else out)
        if new is None:
            return None
        return (new, *out[1:]) if isinstance(out, tuple) else new

    if layer == 0:
        handle = blocks[0].register_forward_pre_hook(before, with_kwargs=True)
    else:
        handle = blocks[layer - 1].register_forward_hook(after)
    try:
        yield
    finally:
        handle.remove()


class Editing:
    """Edits of a forward whose rows are k models times e edits times B sequences, in this order.

    `positions` [k * e * B, N] and `models` k are set before each forward.
    """

    def __init__(self, vectors: torch.Tensor, ablate: torch.Tensor, starts: torch.Tensor) -> None:
        """`vectors` [e, H] to add or, where `ablate` [e], to take out; from position `starts` [e] on."""
        self.vectors, self.starts = vectors, starts
        self.ablate = ablate[:, None, None, None]
        self.units = torch.nn.functional.normalize(vectors, dim=-1)
        self.positions = torch.zeros(0)
        self.models = 1

    def __len__(self) -> int:
        return len(self.vectors)

    def __call__(self, hidden: torch.Tensor) -> torch.Tensor:
        """The hidden states [k * e * B, N, H] as edited."""
        shape = (self.models, len(self), -1, *hidden.shape[1:])
        rows = hidden.reshape(shape)
        units, vectors = (v.to(hidden.dtype)[:, None, None, :] for v in (self.units, self.vectors))
        change = vectors
        if bool(self.ablate.any()):
            along = (rows * units).sum(-1, keepdim=True) * units
            change = torch.where(self.ablate, -along, vectors)
        edited = self.positions.view(*shape[:2], -1, hidden.shape[1]) >= self.starts[:, None, None]
        return torch.where(edited[..., None], rows + change, rows).view_as(hidden)
