"""The losses of lockstep: for K runs at once from the log-probabilities of their rows, as TRL computes them for one."""

from __future__ import annotations

import torch
import torch.nn.functional as F

Metrics = dict[str, torch.Tensor]  # by TRL's name, each [K]


def sft(logprobs: torch.Tensor, tokens: torch.Tensor) -> tuple[torch.Tensor, Metrics]:
    """Mean negative log-probability (nats) of the supervised tokens: loss [K].

    `logprobs`: [K, B, 1], summed over each answer's tokens, 0 for rows that fill up; `tokens`: [K], supervised tokens
    of each run's whole step.
    """
    return -logprobs.sum((1, 2)) / tokens, {}


def dpo(
    logprobs: torch.Tensor, reference: torch.Tensor, weights: torch.Tensor, beta: float
) -> tuple[torch.Tensor, Metrics]:
    """Loss [K] of direct preference optimisation (Rafailov et al. 2023), TRL's `sigmoid`.

    `logprobs` and `reference`: [K, B, 2], of the chosen and of the rejected answer, with the adapter in training and
    with the one that training began from; `weights`: [K, B], each row's share of its run's loss, 0 for rows that fill
    up.
    """
    ratios = logprobs - reference
    margin = beta * (ratios[..., 0] - ratios[..., 1])
    loss = -F.logsigmoid(margin)

    def mean(values: torch.Tensor) -> torch.Tensor:
        return (values.detach() * weights).sum(1)

    rewards = beta * ratios
    return (loss * weights).sum(1), {
        "rewards/chosen": mean(rewards[..., 0]),
        "rewards/rejected": mean(rewards[..., 1]),
        "rewards/accuracies": mean((rewards[..., 0] > rewards[..., 1]).float()),
        "rewards/margins": mean(margin),
        "logps/chosen": mean(logprobs[..., 0]),
        "logps/rejected": mean(logprobs[..., 1]),
    }
