"""What TRL and PEFT refuse of a stage's settings is one line, before anything is made."""

import pytest

from recipes.errors import InputError
from recipes.load import load_recipe
from tests.micro import write_recipe
from training.config import check_settings


@pytest.mark.parametrize(
    ("setting", "message"),
    [
        ("stages.0.trainer.lr_scheduler_type=nope", "stages.0.trainer: nope is not a valid SchedulerType"),
        ("stages.1.trainer.optim=nope", "stages.1.trainer: nope is not a valid OptimizerNames"),
        ("stages.0.lora.layers_to_transform=1", "stages.0.lora: `layers_to_transform` cannot be used"),
        ("stages.1.lora={target_modules: [q_proj], layers_pattern: layers}", "stages.1.lora: When `layers_pattern`"),
    ],
)
def test_what_the_libraries_refuse_is_told_of_the_stage(setting, message, tmp_path):
    recipe = load_recipe(write_recipe(tmp_path), [setting])
    with pytest.raises(InputError) as refused:
        check_settings(recipe)
    assert str(refused.value).startswith(message) and "\n" not in str(refused.value)
