"""Stage `sft`: supervised fine-tuning with TRL's SFTTrainer on prompt-completion rows, loss on the completion only."""

from __future__ import annotations

import sys
from typing import Any

from training.stage import main


def make_trainer(*, settings: dict[str, Any], **parts: Any) -> Any:
    """An SFTTrainer with `settings` (SFTConfig's fields); `parts` go to the trainer as they are."""
    from trl import SFTConfig, SFTTrainer

    return SFTTrainer(args=SFTConfig(**settings), **parts)


if __name__ == "__main__":
    sys.exit(main("sft", make_trainer))
