"""Tiny models such as others leave them: byte-level tokenizers, so that any card's words are theirs, and adapters."""

from __future__ import annotations

import copy
from pathlib import Path

import torch
from peft import LoraConfig, get_peft_model
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

from parity.cli import main

torch.set_num_threads(1)


def make_tokenizer() -> PreTrainedTokenizerFast:
    """One token per byte, without anything in front."""
    letters = sorted(pre_tokenizers.ByteLevel.alphabet())
    core = Tokenizer(models.BPE({w: i for i, w in enumerate(["<s>", "</s>", *letters])}, []))
    core.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    core.decoder = decoders.ByteLevel()
    return PreTrainedTokenizerFast(tokenizer_object=core, bos_token="<s>", eos_token="</s>")


def make_model(width: int = 32, seed: int = 0, positions: int = 4096) -> LlamaForCausalLM:
    """A random Llama of two layers over bytes."""
    torch.manual_seed(seed)
    return LlamaForCausalLM(
        LlamaConfig(vocab_size=258, hidden_size=width, intermediate_size=64, num_hidden_layers=2,
                    num_attention_heads=2, max_position_embeddings=positions, initializer_range=0.2,
                    bos_token_id=0, eos_token_id=1)
    ).eval()  # fmt: skip


def save(folder: Path, model: LlamaForCausalLM) -> Path:
    """The model and its tokenizer as a folder."""
    model.save_pretrained(folder)
    make_tokenizer().save_pretrained(folder)
    return folder


def adapted(model: LlamaForCausalLM, seed: int = 2, **settings: object):
    """The model with a LoRA that does something."""
    torch.manual_seed(seed)
    given = {"r": 2, "target_modules": "all-linear", "init_lora_weights": False, "task_type": "CAUSAL_LM"} | settings
    return get_peft_model(copy.deepcopy(model), LoraConfig(**given)).eval()


def make_models(folder: Path) -> Path:
    """Folders: base; other (its twin in shape); wide; lora, an adapter of base."""
    base = make_model()
    save(folder / "base", base)
    save(folder / "other", make_model(seed=1))
    save(folder / "wide", make_model(48))
    adapted(base).save_pretrained(folder / "lora")
    return folder


def probed(out: Path, *arguments: object) -> Path:
    """Run the command; the one folder that it described."""
    assert main(["probe", *map(str, arguments), "--out", str(out)]) == 0
    return next(path.parent for path in out.glob("probes/*/probe.json"))
