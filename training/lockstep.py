"""Lockstep: K runs of one stage in one process, over one copy of the base.

Every run has its own adapter, data order, loss, gradient norm, clipping and optimiser state, and comes out as it
would from TRL's trainer alone, to rounding; only the base's matrix products are shared.  Runs may be computed a few
at a time within a step, which bounds memory and changes nothing.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field, replace
from itertools import islice
from typing import Any

import torch

from recipes.adapters import Adapters, out_of_memory
from training import losses
from training.examples import Example, batches, steps_per_epoch
from training.layout import Batch, lay_out
from training.ops import TokenLogprobs, grouped, last_mlp, only_at

# Names under which models keep a factor of their logits, which TRL's head applies and ours does not.
LOGIT_SCALES = ("logit_scale", "output_multiplier", "lm_head_multiplier", "logits_scaling")


@dataclass
class Failure:
    """A run that diverged, with the step (from 1) at which it did."""

    step: int
    what: str


@dataclass
class Lockstep:
    """K runs in training.  `examples` [K]: each run's data; `seeds` [K] decide their order; `settings`: a TRL config.

    `steps`: length of the learning rate's schedule; `width`: runs computed at once, halved when memory runs out.
    """

    model: Any
    adapters: Adapters
    examples: Sequence[Sequence[Example]]
    seeds: Sequence[int]
    settings: Any
    steps: int
    width: int
    step: int = 0
    failures: dict[int, Failure] = field(default_factory=dict)

    def __post_init__(self) -> None:
        from transformers import get_scheduler

        self.body, self.head = self.model.get_decoder(), self.model.get_output_embeddings()
        self.softcap = getattr(self.model.config.get_text_config(), "final_logit_softcapping", None)
        self.last_mlp = None if self.settings.gradient_checkpointing else last_mlp(self.body)
        weight = next(self.model.parameters())
        self.device, self.dtype = weight.device, weight.dtype
        self.model.requires_grad_(False)
        given = self.settings
        if given.gradient_checkpointing:
            self.model.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": False})
            self.model.train()  # without dropout, all that this does is to let checkpointing work
        self.parameters = [*self.adapters.a.values(), *self.adapters.b.values()]
        self.gradients = [torch.zeros_like(parameter) for parameter in self.parameters]
        for parameter, gradient in zip(self.parameters, self.gradients, strict=True):
            parameter.grad = gradient
        self.optimizer = torch.optim.AdamW(
            self.parameters, lr=given.learning_rate, betas=(given.adam_beta1, given.adam_beta2),
            eps=given.adam_epsilon, weight_decay=given.weight_decay, fused=given.optim == "adamw_torch_fused",
        )  # fmt: skip
        self.scheduler = get_scheduler(
            given.lr_scheduler_type, self.optimizer, given.get_warmup_steps(self.steps), self.steps,
            scheduler_specific_kwargs=dict(given.lr_scheduler_kwargs or {}),
        )  # fmt: skip
        size, accumulation = given.per_device_train_batch_size, given.gradient_accumulation_steps
        self.per_epoch = [steps_per_epoch(len(e), size, accumulation) for e in self.examples]
        # By run, then by step: micro-batches of row indices.
        self.drawn = [
            list(islice(batches(len(e), size, accumulation, seed), self.steps))
            for e, seed in zip(self.examples, self.seeds, strict=True)
        ]
        self.reference: list[torch.Tensor] | None = None  # by run [rows, 2]; filled at the first step of DPO

    def __len__(self) -> int:
        return len(self.adapters)

    @property
    def preferences(self) -> bool:
        """Whether rows are preference pairs."""
        return len(self.examples[0][0].answers) > 1

    def resume_at(self, step: int, failures: dict[int, Failure]) -> None:
        """Stand after `step` steps, with their learning rate; parameters and moments are restored elsewhere."""
        self.step, self.failures = step, failures
        self.scheduler.load_state_dict({**self.scheduler.state_dict(), "last_epoch": step, "_step_count": step + 1})
        for group, base, factor in zip(
            self.optimizer.param_groups, self.scheduler.base_lrs, self.scheduler.lr_lambdas, strict=True
        ):
            group["lr"] = base * factor(step)

    def compute_reference(self) -> None:
        """Preference pairs: the log-probabilities of every run's rows under the adapter that it starts from."""
        if self.preferences and self.reference is None:
            self.reference = self._reference()

    def advance(self) -> list[dict[str, float]]:
        """One optimiser step of every run; metrics by run, under TRL's names.  Failed runs stand still."""
        self.compute_reference()
        drawn = [steps[self.step] for steps in self.drawn]
        found = self._within_memory(lambda part: self._backward(drawn, part))
        norms = self._clip()
        rate = self.optimizer.param_groups[0]["lr"]
        self.step += 1
        self._find_failures(found["loss"], norms)
        self.optimizer.step()
        self.scheduler.step()
        found |= {"grad_norm": norms}
        values = {name: tensor.tolist() for name, tensor in found.items()}
        return [
            {
                **{name: values[name][k] for name in values},
                "learning_rate": rate,
                "epoch": self.step / self.per_epoch[k],
            }
            for k in range(len(self))
        ]

    def _within_memory(self, compute: Any) -> losses.Metrics:
        """Metrics [K] of ``compute(slice)`` over all runs, as many at a time as memory allows."""
        parts: list[losses.Metrics] = []
        done = 0
        while done < len(self):
            part = slice(done, min(done + self.width, len(self)))
            try:
                parts.append(compute(part))
                done = part.stop
            except (torch.OutOfMemoryError, RuntimeError) as error:
                if self.width == 1 or not out_of_memory(error):
                    raise
                self.width = -(-self.width // 2)
            else:
                continue
            if self.device.type == "cuda":
                torch.cuda.empty_cache()
            print(f"lockstep: out of memory, going on with {self.width} runs at a time", file=sys.stderr)
        return {name: torch.cat([part[name] for part in parts]) for name in parts[0]}

    def _backward(self, drawn: Sequence[list[list[int]]], part: slice) -> losses.Metrics:
        """Loss and gradients of the runs in `part`, a micro-batch after the other, written over what was there."""
        leaves = self._part(part, grad=True)
        of = range(part.start, part.stop)
        supervised = [sum(self.examples[k][i].supervised for micro in drawn[k] for i in micro) for k in of]
        share = torch.tensor([1 / len(drawn[k]) for k in of], device=self.device)
        total: losses.Metrics = {}
        fused = None if self.settings.bf16 else grouped
        with leaves.on(self.model, fused=fused):  # until after the backward pass, which may compute anew
            for number in range(max(len(drawn[k]) for k in of)):
                micro = [drawn[k][number] if number < len(drawn[k]) else [] for k in of]
                batch = self._lay_out(micro, part)
                with self._autocast():
                    logprobs, right = self._logprobs(batch)
                if self.preferences:
                    loss, found = self._preference_loss(logprobs, micro, part, share)
                else:
                    loss, found = losses.sft(logprobs, torch.tensor(supervised, device=self.device))
                loss.sum().backward()
                found |= {"loss": loss.detach(), "mean_token_accuracy": right * share}
                total = {name: total[name] + value if total else value for name, value in found.items()}
        for gradient, leaf in zip(self.gradients, [*leaves.a.values(), *leaves.b.values()], strict=True):
            gradient[part] = 0 if leaf.grad is None else leaf.grad
        return total

    def _preference_loss(
        self, logprobs: torch.Tensor, micro: Sequence[list[int]], part: slice, share: torch.Tensor
    ) -> tuple[torch.Tensor, losses.Metrics]:
        """Loss and metrics [k] from log-probabilities [k, B, 2] of a micro-batch of each run in `part`.

        The trainer averages over each micro-batch and then over those of the step, of which each has its `share` [k].
        """
        assert self.reference is not None
        reference = torch.zeros_like(logprobs)
        weights = torch.zeros_like(logprobs[..., 0])
        for k, rows in enumerate(micro):
            reference[k, : len(rows)] = self.reference[part.start + k][rows]
            weights[k, : len(rows)] = share[k] / max(1, len(rows))
        return losses.dpo(logprobs, reference, weights, self.settings.beta)

    def _part(self, part: slice, grad: bool) -> Adapters:
        """The adapters of `part`, sharing their memory with the whole but not its graph."""
        return replace(
            self.adapters,
            a={name: whole.detach()[part].requires_grad_(grad) for name, whole in self.adapters.a.items()},
            b={name: whole.detach()[part].requires_grad_(grad) for name, whole in self.adapters.b.items()},
        )

    def _lay_out(self, indices: Sequence[Sequence[int]], part: slice) -> Batch:
        of = range(part.start, part.stop)
        rows = [[self.examples[k][i] for i in chosen] for k, chosen in zip(of, indices, strict=True)]
        return lay_out(rows, self.dtype, self.device)

    def _autocast(self) -> AbstractContextManager[Any]:
        return torch.autocast(self.device.type, torch.bfloat16) if self.settings.bf16 else nullcontext()

    def _logprobs(self, batch: Batch) -> tuple[torch.Tensor, torch.Tensor]:
        """Log-probability of each answer [K, B, answers] and how often a token was the likeliest [K]."""
        last = self.last_mlp
        with only_at(last, batch.read, batch.runs) if last is not None else nullcontext():
            out = self.body(
                input_ids=batch.input_ids, position_ids=batch.position_ids, attention_mask=batch.mask, use_cache=False
            )
        logits = self.head(out.last_hidden_state.flatten(0, 1)[batch.places]).float()
        if self.softcap is not None:
            logits = self.softcap * torch.tanh(logits / self.softcap)
        each: torch.Tensor = TokenLogprobs.apply(logits, batch.targets)  # type: ignore[no-untyped-call]
        k = batch.runs
        n = k * batch.rows * batch.answers
        sums = torch.zeros(n, device=self.device).index_add(0, batch.owners, each).view(k, batch.rows, batch.answers)
        best = logits.detach().amax(-1) == logits.detach().gather(1, batch.targets[:, None])[:, 0]
        first = batch.owners % batch.answers == 0  # of a preference pair only what is chosen counts, as TRL has it
        run = batch.owners // (batch.rows * batch.answers)
        right = torch.zeros(2, k, device=self.device)
        right[0].index_add_(0, run, (best & first).float())
        right[1].index_add_(0, run, first.float())
        return sums, right[0] / right[1].clamp(min=1)

    def _reference(self) -> list[torch.Tensor]:
        """Log-probabilities [rows, 2] of every run's rows before its first step, 0 for those that are never drawn.

        Equal rows are computed once.
        """
        size = self.settings.per_device_train_batch_size
        used = [sorted({i for step in steps for micro in step for i in micro}) for steps in self.drawn]
        distinct = [list(dict.fromkeys(e[i] for i in rows)) for e, rows in zip(self.examples, used, strict=True)]
        found: list[list[torch.Tensor]] = [[] for _ in self.examples]
        for start in range(0, max(map(len, distinct)), size):

            def compute(part: slice, start: int = start) -> losses.Metrics:
                rows = [distinct[k][start : start + size] for k in range(part.start, part.stop)]
                batch = lay_out([row or distinct[0][:1] for row in rows], self.dtype, self.device)
                with torch.no_grad(), self._part(part, grad=False).on(self.model), self._autocast():
                    logprobs, _ = self._logprobs(batch)
                for k, (row, values) in enumerate(zip(rows, logprobs, strict=True), part.start):
                    found[k].append(values[: len(row)])
                return {"": torch.zeros(part.stop - part.start)}

            self._within_memory(compute)
        reference = []
        for examples, rows, unique, values in zip(self.examples, used, distinct, found, strict=True):
            place = {example: i for i, example in enumerate(unique)}
            reference.append(torch.zeros(len(examples), 2, device=self.device))
            reference[-1][rows] = torch.cat(values)[[place[examples[i]] for i in rows]]
        return reference

    def _clip(self) -> torch.Tensor:
        """Norm of every run's gradient [K] before clipping it, as torch's `clip_grad_norm_` does for one."""
        norms = torch.stack([g.flatten(1).norm(dim=1) for g in self.gradients]).norm(dim=0)
        most = self.settings.max_grad_norm
        if most and most > 0:
            factor = (most / (norms + 1e-6)).clamp(max=1.0)[:, None, None]
            for gradient in self.gradients:
                gradient.mul_(factor)
        return norms

    def _find_failures(self, loss: torch.Tensor, norms: torch.Tensor) -> None:
        fine = loss.isfinite() & norms.isfinite()
        for k in (~fine).nonzero().flatten().tolist():
            what = "loss" if not loss[k].isfinite() else "gradient"
            self.failures.setdefault(k, Failure(self.step, f"{what} is not a finite number"))
        for k in self.failures:  # what is computed for it from now on is of no use, but finite
            for parameter, gradient in zip(self.parameters, self.gradients, strict=True):
                gradient[k] = 0
                parameter.data[k] = 0


def plain(config: Any) -> Iterator[str]:
    """Why a base cannot be trained in lockstep: settings of its config that change what a forward gives."""
    text = config.get_text_config()
    for key, value in sorted(text.to_dict().items()):
        dropout = ("dropout" in key or key.endswith("_pdrop")) and key != "classifier_dropout"  # of another head
        if isinstance(value, (int, float)) and value and dropout:
            yield f"the base has {key} {value}"
        if key in LOGIT_SCALES and value not in (None, 1):
            yield f"the base scales its logits ({key} {value})"
    if getattr(text, "output_router_logits", False):
        yield "the base adds a router's loss"
