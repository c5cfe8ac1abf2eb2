"""What the source says of TRL's and PEFT's settings is what the imported classes have."""

from __future__ import annotations

import dataclasses
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from recipes import fields

ROOT = Path(__file__).parents[2]


def imported(kind: str) -> type:
    if kind == "lora":
        from peft import LoraConfig

        return LoraConfig
    import trl

    return {"sft": trl.SFTConfig, "dpo": trl.DPOConfig, "rl": trl.GRPOConfig}[kind]


@pytest.mark.parametrize("kind", ["sft", "dpo", "rl", "lora"])
def test_names_are_those_of_the_imported_class(kind: Any) -> None:
    assert set(fields.settings(kind)) == {f.name for f in dataclasses.fields(imported(kind))}


@pytest.mark.parametrize("kind", ["sft", "dpo", "rl"])
def test_defaults_pass_the_check_of_their_own_annotation(kind: Any) -> None:
    """The library's own defaults of the simple types are the independent judge of `accepts`."""
    wrong = []
    for field in dataclasses.fields(imported(kind)):
        if isinstance(field.default, (bool, int, float, str, type(None))):
            setting = fields.settings(kind)[field.name]
            if not fields.accepts(setting.annotation, field.default):
                wrong.append((field.name, setting.type, field.default))
    assert wrong == []


def test_reserved_fields_exist() -> None:
    """A name that a new TRL or PEFT dropped or renamed would no longer be held back."""
    trainer = {**fields.settings("sft"), **fields.settings("dpo")}
    for reserved, valid in ((fields.RESERVED, trainer), (fields.RESERVED_LORA, fields.settings("lora"))):
        for name in reserved:
            assert any(v.startswith(name) if name.endswith("_") else v == name for v in valid), name


@pytest.mark.parametrize(
    ("kind", "trainer", "lora"),
    [
        ("sft", {"learning_rate": 1, "per_device_train_batch_size": 16, "max_length": None}, None),
        ("sft", {"lr_scheduler_type": "cosine", "lr_scheduler_kwargs": {"num_cycles": 1}, "bf16": None}, {}),
        ("dpo", {"beta": 0.1, "loss_type": ["sigmoid", "sft"], "loss_weights": [1, 0.5]}, {"r": 8}),
        ("sft", {}, {"target_modules": "all-linear", "init_lora_weights": "pissa_niter_4", "lora_dropout": 0}),
        ("sft", {}, {"target_modules": ["q_proj"], "layers_to_transform": 1, "rank_pattern": {"q_proj": 2}}),
        ("sft", {}, {"init_lora_weights": False, "layer_replication": [[0, 4], [2, 5]], "eva_config": {"rho": 2.0}}),
    ],
)
def test_settings_that_the_libraries_take_are_taken(kind: Any, trainer: dict[str, Any], lora: Any) -> None:
    assert list(fields.check(kind, trainer, lora)) == []


@pytest.mark.parametrize(
    ("kind", "trainer", "lora", "message"),
    [
        ("sft", {"learning_rate": True}, None, "expected float, got true"),
        ("sft", {"gradient_accumulation_steps": 1.5}, None, "expected int, got 1.5"),
        ("sft", {"max_length": "long"}, None, "expected int | None, got the text 'long'"),
        ("dpo", {"loss_type": [1]}, None, "expected list[str], got a list"),
        ("sft", {"beta": 0.1}, None, "no field of TRL's SFTConfig"),
        ("sft", {"lr_scheduler_type": 3}, None, "expected SchedulerType | str, got 3"),
        ("sft", {"hub_token": "x"}, None, "is set by Parity: cells are kept"),
        ("sft", {"data_seed": 1}, None, "is set by Parity: arms of one seed share it"),
        ("sft", {}, {"r": "8"}, "expected int, got the text '8' (without quotes it is a number)"),
        ("sft", {}, {"bias": "some"}, "got the text 'some'"),
        ("sft", {}, {"init_lora_weights": "pisa"}, "got the text 'pisa'"),
        ("sft", {}, {"layer_replication": [[0]]}, "got a list"),
        ("sft", {}, {"task_type": "CAUSAL_LM"}, "is set by Parity: base says the model"),
        ("sft", {"per_device_train_batch_size": 0}, None, "must be at least 1, got 0"),
        ("sft", {"max_length": 1}, None, "must be at least 2, got 1"),
        ("dpo", {"learning_rate": -1e-3}, None, "must be at least 0, got -0.001"),
        ("dpo", {"beta": float("nan")}, None, "must be at least 0, got nan"),
        ("sft", {}, {"r": 0}, "must be at least 1, got 0"),
        ("sft", {}, {"lora_dropout": 1.0}, "must be at least 0 and below 1, got 1"),
    ],
)
def test_what_they_do_not_take_is_told(kind: Any, trainer: dict[str, Any], lora: Any, message: str) -> None:
    (violation,) = fields.check(kind, trainer, lora)
    assert message in violation.message
    assert violation.path == (("lora", *lora) if lora else ("trainer", *trainer))


def test_reading_the_fields_imports_none_of_the_libraries() -> None:
    code = (
        "import sys; from recipes import fields; "
        "[fields.settings(k) for k in ('sft', 'dpo', 'lora')]; "
        "heavy = {'torch', 'transformers', 'trl', 'peft'} & set(sys.modules); assert not heavy, heavy"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def test_a_library_that_is_missing_or_laid_out_otherwise_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    for package, file, name, message in (
        ("no_such_package", "a.py", "A", "no_such_package is not installed; run: make install"),
        ("peft", "no_such_file.py", "A", "has no no_such_file.py; see pyproject.toml"),
        ("peft", "config.py", "NoSuchClass", "has no NoSuchClass in config.py; see pyproject.toml"),
    ):
        with pytest.raises(fields.InputError, match=message.replace(".", r"\.")):
            fields._class_fields(package, file, name)
