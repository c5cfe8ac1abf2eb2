"""The two operations that lockstep spends its time in, each with a backward pass that touches memory less often."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
import torch.nn.functional as F


class GroupedLinear(torch.autograd.Function):
    """A frozen linear layer with K adapters: ``x W' + scale * (x A) B``, group by group.

    x [K * B, N, in], weight [out, in], bias [out] or None, a [K, in, r], b [K, r, out].  Both sums that autograd
    would make copies for (output and gradient of the input) are accumulated where they are.
    """

    @staticmethod
    def forward(ctx: Any, x: Any, weight: Any, bias: Any, a: Any, b: Any, scale: float) -> Any:
        """[K * B, N, out]."""
        out = F.linear(x, weight, bias)
        low = torch.bmm(x.reshape(len(a), -1, x.shape[-1]), a)
        out.view(len(a), -1, out.shape[-1]).baddbmm_(low, b, alpha=scale)
        ctx.save_for_backward(x, weight, a, b, low)
        ctx.scale = scale
        return out

    @staticmethod
    def backward(ctx: Any, *grads: Any) -> Any:
        """Gradients of x, a and b."""
        x, weight, a, b, low = ctx.saved_tensors
        grad = grads[0].contiguous()
        rows = grad.view(len(a), -1, grad.shape[-1])
        low_grad = torch.bmm(rows, b.transpose(1, 2)).mul_(ctx.scale)
        of_x = None
        if ctx.needs_input_grad[0]:
            of_x = grad @ weight
            of_x.view(len(a), -1, x.shape[-1]).baddbmm_(low_grad, a.transpose(1, 2))
        of_a = torch.bmm(x.reshape(len(a), -1, x.shape[-1]).transpose(1, 2), low_grad)
        of_b = torch.bmm(low.transpose(1, 2), rows).mul_(ctx.scale)
        return of_x, None, None, of_a, of_b, None


class TokenLogprobs(torch.autograd.Function):
    """Log-probabilities (nats) [T] of `targets` [T] under `logits` [T, V]."""

    @staticmethod
    def forward(ctx: Any, logits: Any, targets: Any) -> Any:
        """[T]."""
        normaliser = logits.logsumexp(-1)
        ctx.save_for_backward(logits, targets, normaliser)
        return logits.gather(1, targets[:, None])[:, 0] - normaliser

    @staticmethod
    def backward(ctx: Any, *grads: Any) -> Any:
        """Gradient of the logits: (one-hot - softmax) * grad."""
        logits, targets, normaliser = ctx.saved_tensors
        found = torch.sub(logits, normaliser[:, None]).exp_().mul_(-grads[0][:, None])
        return found.scatter_add_(1, targets[:, None], grads[0][:, None]), None


def grouped(module: Any, a: torch.Tensor, b: torch.Tensor, scale: float) -> Any:
    """What `module`, a linear layer, computes with K adapters; None where the fused form does not fit it."""
    if type(module) is not torch.nn.Linear or torch.is_autocast_enabled(a.device.type):
        return None

    def forward(x: torch.Tensor) -> torch.Tensor:
        return GroupedLinear.apply(x, module.weight, module.bias, a, b, scale)  # type: ignore[no-untyped-call]

    return forward if a.dtype == module.weight.dtype else None


def last_mlp(body: Any) -> Any | None:
    """The MLP of the last decoder layer, where it is known to map each token by itself: gated linear layers."""
    layers = getattr(body, "layers", None)
    found = getattr(layers[-1], "mlp", None) if layers else None
    names = {name for name, _ in found.named_children()} if found is not None else set()
    return found if names == {"gate_proj", "up_proj", "down_proj", "act_fn"} else None


@contextmanager
def only_at(module: Any, places: torch.Tensor, groups: int) -> Iterator[None]:
    """Inside, `module`, which maps each token by itself, is computed at `places` only and gives 0 elsewhere.

    `places` [groups, P] are indices into a group's tokens, none twice.  For the last layer's MLP, whose other outputs
    nobody reads.
    """
    forward = module.forward

    def here(x: torch.Tensor) -> torch.Tensor:
        rows = x.reshape(groups, -1, x.shape[-1])
        index = places[:, :, None].expand(-1, -1, x.shape[-1])
        out = forward(rows.gather(1, index))
        return torch.zeros_like(rows, dtype=out.dtype).scatter(1, index, out).view(*x.shape[:-1], -1)

    module.forward = here
    try:
        yield
    finally:
        del module.forward
