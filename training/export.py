"""The resolved settings of a cell as ``trl.yaml``, so that TRL's own command line repeats the cell."""

from __future__ import annotations

import json
from typing import Any

from recipes.schema import Recipe
from training.cells import Cell

LORA_FLAGS = {
    "r": "lora_r", "lora_alpha": "lora_alpha", "lora_dropout": "lora_dropout",
    "target_modules": "lora_target_modules", "task_type": "lora_task_type",
}  # fmt: skip


def trl_settings(recipe: Recipe, cell: Cell, settings: dict[str, Any], lora: dict[str, Any] | None) -> str:
    """YAML for ``trl sft --config trl.yaml``, run inside the cell's folder.

    TRL's command line cannot continue an adapter; for a later stage `model_name_or_path` is the adapter that its
    trainer has to be given as a trainable PeftModel, as ``training.dpo`` does, and the settings are for that trainer.
    That of `rl` has to be given its reward as well.
    """
    parent = f"../{cell.spec['parent']}"
    if cell.stage:
        parent += f"/dose-{recipe.stages[cell.stage - 1].doses[-1]}"
    lines: dict[str, Any] = {
        "model_name_or_path": parent,
        "dtype": "float32",
        "datasets": [{"path": "json", "data_files": "data.jsonl"}],
        **settings,
        "output_dir": "trl-output",
    }
    if lora is not None and not cell.stage:
        lines["use_peft"] = True
        lines |= {flag: lora[key] for key, flag in LORA_FLAGS.items() if key in lora}
    # JSON values are YAML values.
    return "".join(f"{key}: {json.dumps(value)}\n" for key, value in lines.items())
