"""Field names and simple types of TRL's and PEFT's settings, read from the installed source.

Importing those packages takes seconds, so that a recipe could not be checked, nor a plan shown, at once.  The classes
are dataclasses, so their annotated names are their fields; a test holds the result against the imported classes.
"""

from __future__ import annotations

import ast
import math
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from importlib.metadata import PackageNotFoundError, version
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Literal

from recipes.errors import InputError, nearest
from recipes.explain import Violation, mismatch

Kind = Literal["sft", "dpo", "rl", "lora"]

_TRAINER = (
    ("transformers", "training_args.py", "TrainingArguments"),
    ("trl", "trainer/base_config.py", "_BaseConfig"),
)
# Package, file and class: from the root of the inheritance to the class itself, so that what is inner overrides.
SOURCES: dict[Kind, tuple[tuple[str, str, str], ...]] = {
    "sft": (*_TRAINER, ("trl", "trainer/sft_config.py", "SFTConfig")),
    "dpo": (*_TRAINER, ("trl", "trainer/dpo_config.py", "DPOConfig")),
    "rl": (*_TRAINER, ("trl", "trainer/grpo_config.py", "GRPOConfig")),
    "lora": (
        ("peft", "config.py", "PeftConfigMixin"),
        ("peft", "config.py", "PeftConfig"),
        ("peft", "tuners/lora/config.py", "LoraConfig"),
    ),
}

_DOSES = "doses say the steps"
_KEPT = "cells are kept in checkpoints/, one per dose"
_LOGS = "tracking says where the curves go"
_PROBES = "probes measure, between the doses"
_SEEDS = "arms of one seed share it; seeds says how many"
_DATA = "the data are matched between arms"
_BASE = "base says the model"
_BATCH = "arms must keep equal batches"
# Settings with which a recipe could tell arms apart or send results elsewhere; prefixes end in an underscore.
RESERVED: dict[str, str] = {
    "max_steps": _DOSES,
    "num_train_epochs": _DOSES,
    "output_dir": _KEPT,
    "save_": _KEPT,
    "load_best_model_at_end": _KEPT,
    "metric_for_best_model": _KEPT,
    "greater_is_better": _KEPT,
    "enable_jit_checkpoint": _KEPT,
    "resume_from_checkpoint": _KEPT,
    "restore_callback_states_from_checkpoint": _KEPT,
    "ignore_data_skip": _KEPT,
    "push_to_hub": _KEPT,
    "hub_": _KEPT,
    "run_name": _LOGS,
    "report_to": _LOGS,
    "project": _LOGS,
    "trackio_": _LOGS,
    "logging_": _LOGS,
    "log_": _LOGS,
    "disable_tqdm": _LOGS,
    "include_num_input_tokens_seen": _LOGS,
    "eval_": _PROBES,
    "do_": _PROBES,
    "per_device_eval_batch_size": _PROBES,
    "prediction_loss_only": _PROBES,
    "include_for_metrics": _PROBES,
    "batch_eval_metrics": _PROBES,
    "seed": _SEEDS,
    "data_seed": _SEEDS,
    "dataset_text_field": _DATA,
    "dataset_kwargs": _DATA,
    "chat_template_path": _DATA,
    "assistant_only_loss": _DATA,
    "remove_unused_columns": _DATA,
    "label_names": _DATA,
    "train_sampling_strategy": _DATA,
    "length_column_name": _DATA,
    "auto_find_batch_size": _BATCH,
    "model_init_kwargs": _BASE,
    "trust_remote_code": _BASE,
    "local_rank": "launch says the processes",
}
RESERVED_LORA: dict[str, str] = dict.fromkeys(
    ("base_model_name_or_path", "revision", "task_type", "peft_type", "peft_version", "auto_mapping"), _BASE
) | {"inference_mode": "stages are trained"}

# What the libraries would only say, or not say, once training begins: the least value, and a bound that is not reached.
RANGES: dict[str, tuple[float, float]] = {
    **dict.fromkeys(("per_device_train_batch_size", "gradient_accumulation_steps", "r", "lora_alpha"), (1, math.inf)),
    **dict.fromkeys(("learning_rate", "weight_decay", "warmup_steps", "max_grad_norm", "beta"), (0, math.inf)),
    "max_length": (2, math.inf),
    "lora_dropout": (0, 1),
}


@dataclass(frozen=True)
class Setting:
    """One field: its annotation as written, and the values that its help allows (empty: any)."""

    name: str
    annotation: ast.expr
    choices: tuple[Any, ...] = ()

    @property
    def type(self) -> str:
        """The annotation in the library's own words."""
        return ast.unparse(self.annotation)


def check(
    kind: Literal["sft", "dpo", "rl"], trainer: dict[str, Any], lora: dict[str, Any] | None = None
) -> Iterator[Violation]:
    """What is wrong with a stage's settings, in their order; paths begin with `trainer` or `lora`.

    InputError: TRL, transformers or PEFT is not installed, or is laid out otherwise than in the tested versions.
    """
    for name, value in trainer.items():
        yield from _check("trainer", kind, RESERVED, name, value)
    for name, value in (lora or {}).items():
        yield from _check("lora", "lora", RESERVED_LORA, name, value)


@cache
def settings(kind: Kind) -> dict[str, Setting]:
    """All fields of SFTConfig, DPOConfig, GRPOConfig or LoraConfig with those of its bases, by name."""
    return {name: field for source in SOURCES[kind] for name, field in _class_fields(*source).items()}


@cache
def _class_fields(package: str, file: str, name: str) -> dict[str, Setting]:
    for node in _module(package, file).body:
        if isinstance(node, ast.ClassDef) and node.name == name:
            return {
                item.target.id: Setting(item.target.id, _unquoted(item.annotation), _choices(item.value))
                for item in node.body
                if isinstance(item, ast.AnnAssign) and isinstance(item.target, ast.Name)
            }
    raise InputError(f"{package} {version(package)} has no {name} in {file}; see pyproject.toml for tested versions")


@cache
def _module(package: str, file: str) -> ast.Module:
    try:
        spec = find_spec(package)  # of a top-level package: finds it and runs nothing
        origin = Path(spec.origin) if spec and spec.origin else None
        if origin is None:
            raise PackageNotFoundError(package)
        return ast.parse((origin.parent / file).read_bytes())
    except PackageNotFoundError:
        raise InputError(f"{package} is not installed; run: make install") from None
    except OSError:
        raise InputError(
            f"{package} {version(package)} has no {file}; see pyproject.toml for tested versions"
        ) from None


def _check(group: str, kind: Kind, reserved: dict[str, str], name: str, value: Any) -> Iterator[Violation]:
    valid = settings(kind)
    if name not in valid:
        classes = {"sft": "SFTConfig", "dpo": "DPOConfig", "rl": "GRPOConfig"}
        whose = f"TRL's {classes[kind]}" if kind in classes else "PEFT's LoraConfig"
        free = [n for n in valid if not _reason(reserved, n)]
        yield Violation((group, name), f"no field of {whose}{nearest(name, free)}")
    elif reason := _reason(reserved, name):
        yield Violation((group, name), f"is set by Parity: {reason}")
    elif not accepts(valid[name].annotation, value):
        yield Violation((group, name), mismatch(valid[name].type, value))
    elif (choices := valid[name].choices) and isinstance(value, str) and value not in choices:
        yield Violation((group, name), f"unknown value {value!r}{nearest(value, map(str, choices))}")
    elif not _within(name, value):
        low, high = RANGES[name]
        below = f" and below {high:g}" if high < math.inf else ""
        yield Violation((group, name), f"must be at least {low:g}{below}, got {value:g}")


def _within(name: str, value: Any) -> bool:
    """Whether a number may be given where there is a range."""
    if name not in RANGES or isinstance(value, bool) or not isinstance(value, (int, float)):
        return True
    low, high = RANGES[name]
    return low <= value < high  # no NaN is


def _reason(reserved: dict[str, str], name: str) -> str | None:
    """Why Parity sets a field itself, None where it does not."""
    prefixes = (why for start, why in reserved.items() if start.endswith("_") and name.startswith(start))
    return reserved.get(name) or next(prefixes, None)


def accepts(annotation: ast.expr, value: Any) -> bool:
    """Whether a plain value (of YAML) may be given where `annotation` stands.

    A type that only the library knows is an enumeration or a settings class: it takes text or a mapping.
    """
    match annotation:
        case ast.BinOp(left=left, op=ast.BitOr(), right=right):
            return accepts(left, value) or accepts(right, value)
        case ast.Constant(value=None):
            return value is None
        case ast.Subscript(value=ast.Name(id=name), slice=inner):
            return _accepts_generic(name, inner, value)
        case ast.Name(id="Any"):
            return True
        case ast.Name(id="bool"):
            return isinstance(value, bool)
        case ast.Name(id="int"):
            return isinstance(value, int) and not isinstance(value, bool)
        case ast.Name(id="float"):
            return isinstance(value, (int, float)) and not isinstance(value, bool)
        case ast.Name(id="str"):
            return isinstance(value, str)
        case ast.Name(id="dict"):
            return isinstance(value, dict)
        case ast.Name(id="list" | "tuple"):
            return isinstance(value, list)
    return isinstance(value, (str, dict))


def _accepts_generic(name: str, inner: ast.expr, value: Any) -> bool:
    parts = inner.elts if isinstance(inner, ast.Tuple) else [inner]
    match name.lower():
        case "optional":
            return value is None or accepts(inner, value)
        case "union":
            return any(accepts(part, value) for part in parts)
        case "literal":
            return any(_is_literal(part, value) for part in parts)
        case "list":
            return isinstance(value, list) and all(accepts(inner, item) for item in value)
        case "tuple":
            return isinstance(value, list) and len(value) == len(parts) and all(map(accepts, parts, value))
        case "dict":
            return isinstance(value, dict) and all(accepts(parts[1], item) for item in value.values())
    return isinstance(value, (str, dict))


def _is_literal(part: ast.expr, value: Any) -> bool:
    literal = ast.literal_eval(part)
    if isinstance(literal, str) and "[" in literal:  # PEFT documents a pattern so: 'pissa_niter_[number of iters]'
        return isinstance(value, str) and value.startswith(literal.split("[")[0])
    return type(literal) is type(value) and bool(literal == value)


def _unquoted(annotation: ast.expr) -> ast.expr:
    if isinstance(annotation, ast.Constant) and isinstance(annotation.value, str):
        return ast.parse(annotation.value, mode="eval").body
    return annotation


def _choices(default: ast.expr | None) -> tuple[Any, ...]:
    """`choices` of the field's metadata, where it is a plain list."""
    for node in ast.walk(default) if default else ():
        if isinstance(node, ast.Dict):
            for key, value in zip(node.keys, node.values, strict=True):
                if isinstance(key, ast.Constant) and key.value == "choices":
                    try:
                        return tuple(ast.literal_eval(value))
                    except ValueError:
                        return ()
    return ()
