"""Stage `dpo`: direct preference optimisation with TRL's DPOTrainer, held to the model it starts from."""

from __future__ import annotations

import sys
from typing import Any

from training.stage import main


def make_trainer(*, settings: dict[str, Any], **parts: Any) -> Any:
    """A DPOTrainer with `settings` (DPOConfig's fields); `parts` go to the trainer as they are."""
    from trl import DPOConfig, DPOTrainer

    return DPOTrainer(args=DPOConfig(**settings), **parts)


if __name__ == "__main__":
    sys.exit(main("dpo", make_trainer))
