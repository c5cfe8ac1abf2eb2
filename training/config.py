"""TRL's and PEFT's own configurations of a stage, made before training as the libraries would make them."""

from __future__ import annotations

from typing import Any

from recipes.errors import InputError, one_line
from recipes.schema import Recipe
from training.cells import lora_of, stage_settings
from training.distributed import one_device


def config_of(kind: str, settings: dict[str, Any], output: str) -> Any:
    """SFTConfig, DPOConfig or GRPOConfig of a stage that keeps its files in `output`."""
    from trl import DPOConfig, GRPOConfig, SFTConfig

    return {"sft": SFTConfig, "dpo": DPOConfig, "rl": GRPOConfig}[kind](**{**settings, "output_dir": output})


def check_settings(recipe: Recipe) -> None:
    """InputError where TRL or PEFT refuse a stage's settings: better said before the lock than after hours."""
    from peft import LoraConfig

    for i, stage in enumerate(recipe.stages):
        where = f"stages.{i}.trainer"
        try:
            with one_device():
                config_of(stage.kind, stage_settings(stage, stage.doses[-1]), ".")
            if (lora := lora_of(stage)) is not None:
                where = f"stages.{i}.lora"
                LoraConfig(**lora)
        except (ValueError, TypeError) as error:
            raise InputError(f"{where}: {one_line(' '.join(str(error).split()))}") from error
