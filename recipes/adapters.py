"""K LoRA adapters of one base, stacked: one forward serves K models, the k-th group of the batch seeing the k-th.

The batch is laid out group by group, [K * B, ...]; the base's weights are used once for all of it and each adapted
linear layer adds ``scale * (x A) B`` with a batched product over the groups.  Read from ordinary PEFT folders and
written as such; any model works whose adapted modules are linear maps of their first argument.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import torch

Fused = Callable[[Any, Any, Any, float], Callable[..., Any] | None]
CONFIG, WEIGHTS = "adapter_config.json", "adapter_model.safetensors"
PREFIX = "base_model.model."  # PEFT's name of the base inside its wrapper
# PEFT's settings under which an adapter is something else than scale * B A beside a linear layer, and their plain
# values.  Dropout is absent where a model is read, and refused by who trains.
PLAIN: dict[str, tuple[Any, ...]] = {
    "peft_type": ("LORA",),
    "bias": ("none",),
    "use_dora": (False, None),
    "fan_in_fan_out": (False, None),
    "lora_bias": (False, None),
    "modules_to_save": (None, []),
    "trainable_token_indices": (None, []),
    "target_parameters": (None, []),
    "layer_replication": (None, []),
    "alora_invocation_tokens": (None, []),
    "rank_pattern": (None, {}),
    "alpha_pattern": (None, {}),
    "eva_config": (None,),
    "corda_config": (None,),
    "loftq_config": (None, {}),
    "arrow_config": (None,),
    "lora_ga_config": (None,),
    "use_bdlora": (None, False),
    "velora_config": (None,),
    "monteclora_config": (None,),
    "kasa_config": (None,),
    "use_qalora": (False, None),
    "megatron_config": (None,),
    "ensure_weight_tying": (False, None),
}


class Unstackable(Exception):
    """Adapters that cannot be stacked; the text says why."""


@dataclass(frozen=True)
class Adapters:
    """Weights by module name as the base has it: A [K, in, r] and B [K, r, out]; `scale` is shared by all.

    `config`: the text of PEFT's adapter_config.json, the same for all K.
    """

    config: str
    scale: float
    a: Mapping[str, torch.Tensor]
    b: Mapping[str, torch.Tensor]

    def __len__(self) -> int:
        return len(next(iter(self.a.values())))

    def only(self, k: int) -> Adapters:
        """The k-th adapter alone, a stack of one."""
        one = slice(k, k + 1)
        a, b = ({name: weight[one] for name, weight in side.items()} for side in (self.a, self.b))
        return Adapters(self.config, self.scale, a, b)

    @contextmanager
    def on(self, model: Any, groups: slice = slice(None), fused: Fused | None = None) -> Iterator[None]:
        """Inside, `model` (the base, not a PEFT wrapper) is K models: it takes batches of K groups of equal size.

        `groups`: only these adapters, in their order.  Gradients flow into A and B.  `fused`, given a module and its
        A, B and scale, may return what to call instead of the module, layer and adapters in one.
        """
        hooks, replaced = [], []
        try:
            for name, a in self.a.items():
                module, b = model.get_submodule(name), self.b[name][groups]
                forward = fused(module, a[groups], b, self.scale) if fused else None
                if forward is None:
                    hooks.append(module.register_forward_hook(_hook(a[groups], b, self.scale)))
                else:
                    module.forward = forward
                    replaced.append(module)
            yield
        finally:
            for handle in hooks:
                handle.remove()
            for module in replaced:
                del module.forward  # the class's own again

    def state(self, k: int) -> dict[str, torch.Tensor]:
        """The k-th adapter under PEFT's names: lora_A [r, in] and lora_B [out, r]."""
        found = {}
        for name, a in self.a.items():
            found[f"{PREFIX}{name}.lora_A.weight"] = a[k].detach().T.contiguous()
            found[f"{PREFIX}{name}.lora_B.weight"] = self.b[name][k].detach().T.contiguous()
        return found

    def save(self, k: int, folder: Path) -> None:
        """Write the k-th adapter as an ordinary PEFT folder."""
        from safetensors.torch import save_file

        folder.mkdir(parents=True, exist_ok=True)
        (folder / CONFIG).write_text(self.config, encoding="utf-8")
        save_file(dict(sorted(self.state(k).items())), folder / WEIGHTS, metadata={"format": "pt"})


def stack(folders: Sequence[Path], device: Any = "cpu") -> Adapters:
    """Read the adapters of `folders` onto `device` in float32.

    Unstackable: they differ in their settings or their modules, or are not plain LoRA on linear layers.
    """
    from safetensors.torch import load_file

    configs = [(folder / CONFIG).read_text(encoding="utf-8") for folder in folders]
    different = {config for config in configs if _settings(config) != _settings(configs[0])}
    if different:
        raise Unstackable(f"{folders[0].name} and another adapter differ in their settings")
    states = [load_file(folder / WEIGHTS, device=str(device)) for folder in folders]
    return stack_states(configs[0], states)


def stack_states(config: str, states: Sequence[Mapping[str, torch.Tensor]]) -> Adapters:
    """Stack adapters given by PEFT's state dicts; see `stack`."""
    import torch

    scale = scale_of(json.loads(config))
    names = sorted(key.removesuffix(".lora_A.weight") for key in states[0] if key.endswith(".lora_A.weight"))
    if any(state.keys() != states[0].keys() for state in states) or len(states[0]) != 2 * len(names):
        raise Unstackable("adapters differ in their modules, or adapt more than linear layers")

    def stacked(which: str) -> dict[str, torch.Tensor]:
        return {
            name.removeprefix(PREFIX): torch.stack([s[f"{name}.{which}.weight"].float().T for s in states]).contiguous()
            for name in names
        }

    return Adapters(config, scale, stacked("lora_A"), stacked("lora_B"))


def scale_of(config: Mapping[str, Any]) -> float:
    """What the product of B and A is multiplied by; Unstackable unless the settings are those of plain LoRA."""
    for key, plain in PLAIN.items():
        if key in config and config[key] not in plain:
            raise Unstackable(f"lora.{key} is {config[key]!r}")
    rank = config["r"]
    return config["lora_alpha"] / (math.sqrt(rank) if config.get("use_rslora") else rank)


def _settings(config: str) -> Any:
    settings = json.loads(config)
    # Where the base lies and how PEFT lists the same modules say nothing about the adapter.
    return {k: sorted(v) if isinstance(v, list) else v for k, v in settings.items() if k != "base_model_name_or_path"}


def _hook(a: torch.Tensor, b: torch.Tensor, scale: float) -> Any:
    k = len(a)

    def add(_: Any, args: tuple[torch.Tensor, ...], out: torch.Tensor) -> torch.Tensor:
        x = args[0].reshape(k, -1, args[0].shape[-1])
        rows = out.reshape(k, -1, out.shape[-1])
        if x.dtype == a.dtype == rows.dtype:
            return rows.baddbmm_(x @ a, b, alpha=scale).view(out.shape)  # nobody else needs the layer's output
        added = (x.to(a.dtype) @ a) @ b  # as PEFT: the adapter keeps its own type, unless autocast says otherwise
        return (rows + (added * scale).to(rows.dtype)).view(out.shape)

    return add


def out_of_memory(error: BaseException) -> bool:
    """Whether this is an accelerator's or the processor's allocator that has no more memory."""
    import torch

    return isinstance(error, torch.OutOfMemoryError) or "not enough memory" in str(error)
