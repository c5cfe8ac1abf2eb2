"""What lockstep does and does not do, said before anything is loaded: imports nothing heavy."""

from __future__ import annotations

from typing import Any

from recipes.adapters import PLAIN
from recipes.schema import Recipe, Stage

# TRL's settings that lockstep follows, whatever their value.
FOLLOWED = {
    "learning_rate",
    "per_device_train_batch_size",
    "gradient_accumulation_steps",
    "gradient_checkpointing",
    "max_length",
    "max_grad_norm",
    "weight_decay",
    "adam_beta1",
    "adam_beta2",
    "adam_epsilon",
    "warmup_steps",
    "lr_scheduler_kwargs",
    "bf16",
    "use_cpu",
    "beta",
    "precompute_ref_log_probs",  # always so: once per row
    "dataloader_num_workers",
    "dataloader_pin_memory",
}
# Settings that lockstep follows at these values only.
ONLY: dict[str, tuple[Any, ...]] = {
    "optim": ("adamw_torch", "adamw_torch_fused"),
    "lr_scheduler_type": (
        "linear", "cosine", "constant", "constant_with_warmup", "cosine_with_restarts", "polynomial", "inverse_sqrt",
    ),
    "loss_type": ("nll", "sigmoid", ["sigmoid"]),
    "completion_only_loss": (None, True),
    "truncation_mode": ("keep_start",),
    "packing": (False,),
    "padding_free": (False,),
    "shuffle_dataset": (False,),
    "f_divergence_type": ("reverse_kl",),
    "use_weighting": (False,),
    "sync_ref_model": (False,),
    "disable_dropout": (True, False),
    "fp16": (False,),
    "tf32": (None, False),
}  # fmt: skip
LORA_FOLLOWED = {"r", "lora_alpha", "target_modules", "exclude_modules", "use_rslora", "layers_to_transform",
                 "layers_pattern"}  # fmt: skip
LORA_ONLY: dict[str, tuple[Any, ...]] = {**PLAIN, "lora_dropout": (0, 0.0), "init_lora_weights": (True, "gaussian")}


def unsupported(stage: Stage) -> str | None:
    """The first setting of a stage that lockstep does not do, e.g. ``"full weights"``; None where it applies."""
    if stage.kind == "rl":
        return "rl"
    if stage.rejected != "cards":
        return f"rejected: {stage.rejected}"
    if stage.lora is None:
        return "full weights"
    for part, given, followed, only in (
        ("trainer", stage.trainer, FOLLOWED, ONLY),
        ("lora", stage.lora, LORA_FOLLOWED, LORA_ONLY),
    ):
        for key, value in given.items():
            if key not in followed and value not in only.get(key, ()):
                return f"{part}.{key}: {value}"
    return None


def backend_of(recipe: Recipe, stage: Stage) -> tuple[str, str | None]:
    """The backend that makes a stage, and why it is not lockstep where lockstep was asked for.

    What lockstep does not do is left to TRL: in a process per cell under accelerate, or in this one for a world, whose
    stages take less time than a process takes to start.
    """
    asked = recipe.launch.backend
    reason = unsupported(stage) if asked == "lockstep" else None
    if reason is None:
        return asked, None
    return "inline" if recipe.base.world is not None else "process", reason
