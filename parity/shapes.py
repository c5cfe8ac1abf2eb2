"""The architecture of a base before it is loaded: its config, wherever it lies, and the parameters that it makes.

Looked for in this order: the base's cell, the folder, the hub's cache, the header of a GGUF file, and
`recipes/models.yaml`.  Reads JSON and headers; imports no torch.
"""

from __future__ import annotations

import json
import os
import struct
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any, BinaryIO

from recipes.reader import plain, read_file
from recipes.schema import Base

MODELS = Path(__file__).parent.parent / "recipes" / "models.yaml"
# What differs between the architectures that are known, all of them decoders with rotary positions.
LLAMA_LIKE = ("llama", "mistral", "qwen2", "qwen3", "olmo2", "gemma3_text")
KNOWN = (*LLAMA_LIKE, "gpt_neox")
# Keys of a GGUF header, after the architecture's name and a dot.
GGUF = {"embedding_length": "hidden_size", "feed_forward_length": "intermediate_size", "block_count":
        "num_hidden_layers", "attention.head_count": "num_attention_heads", "attention.head_count_kv":
        "num_key_value_heads", "attention.key_length": "head_dim"}  # fmt: skip
GGUF_NAMES = {"gemma3": "gemma3_text"}
SIZES = {0: "B", 1: "b", 2: "H", 3: "h", 4: "I", 5: "i", 6: "f", 7: "?", 10: "Q", 11: "q", 12: "d"}  # by GGUF's type
TEXT, LIST = 8, 9


@dataclass(frozen=True)
class Shape:
    """Sizes of a decoder, in numbers of features unless said otherwise."""

    kind: str  # transformers' model_type
    hidden: int
    inner: int  # of an MLP
    layers: int
    heads: int
    kv_heads: int
    head: int  # of one head
    vocabulary: int  # tokens
    tied: bool  # whether the head is the embedding

    @property
    def gated(self) -> bool:
        """Whether an MLP has a gate."""
        return self.kind != "gpt_neox"

    @property
    def linear(self) -> list[tuple[int, int]]:
        """Inputs and outputs of each linear layer of one block."""
        q, kv = self.heads * self.head, self.kv_heads * self.head
        if self.kind == "gpt_neox":
            attention = [(self.hidden, 3 * self.hidden), (self.hidden, self.hidden)]
        else:
            attention = [(self.hidden, q), (self.hidden, kv), (self.hidden, kv), (q, self.hidden)]
        return attention + [(self.hidden, self.inner)] * (1 + self.gated) + [(self.inner, self.hidden)]

    @property
    def blocks(self) -> int:
        """Weights of the linear layers of all blocks: what a token is multiplied with on its way to the head."""
        return self.layers * sum(a * b for a, b in self.linear)

    @property
    def parameters(self) -> int:
        """All parameters, exactly."""
        q, kv = self.heads * self.head, self.kv_heads * self.head
        norms, last = 2 * self.hidden, self.hidden
        extra = {"qwen2": q + 2 * kv, "olmo2": q + kv, "qwen3": 2 * self.head,
                 "gemma3_text": 2 * self.head + 2 * self.hidden}.get(self.kind, 0)  # fmt: skip
        if self.kind == "gpt_neox":  # biases everywhere, also of its norms
            norms, last = 2 * norms, 2 * last
            extra = sum(b for _, b in self.linear)
        return self.blocks + self.layers * (norms + extra) + last + self.vocabulary * self.hidden * (2 - self.tied)

    def adapter(self, rank: int) -> int:
        """Parameters of a LoRA of that rank on all linear layers of the blocks."""
        return self.layers * sum(rank * (a + b) for a, b in self.linear)


def shape(config: Mapping[str, Any]) -> Shape | None:
    """The shape that a transformers config describes; None for an architecture that is not known here."""
    try:
        config = config.get("text_config") or config
        kind = config.get("model_type")
        if kind not in KNOWN:
            return None
        hidden, heads = int(config["hidden_size"]), int(config["num_attention_heads"])
        return Shape(
            kind=str(kind), hidden=hidden, inner=int(config["intermediate_size"]),
            layers=int(config["num_hidden_layers"]), heads=heads,
            kv_heads=int(config.get("num_key_value_heads") or heads),
            head=int(config.get("head_dim") or hidden // heads),
            vocabulary=int(config["vocab_size"]),
            tied=bool(config.get("tie_word_embeddings", kind == "gemma3_text")),
        )  # fmt: skip
    except (AttributeError, KeyError, TypeError, ValueError, ZeroDivisionError):
        return None


@lru_cache
def models() -> dict[str, dict[str, Any]]:
    """`recipes/models.yaml`: what is known of bases by their name on the hub."""
    return dict(plain(read_file(MODELS)))


def shape_of(base: Base, cell: Path) -> Shape | None:
    """The shape of a recipe's base, whose cell's folder is (or will be) `cell`; None where it cannot be known yet."""
    for config in _configs(base, cell):
        if (found := shape(config)) is not None:
            return found
    return None


def _configs(base: Base, cell: Path) -> Iterator[Mapping[str, Any]]:
    places = [cell]
    if base.path is not None:
        places.append(Path(base.path))
    if base.hub is not None and base.revision is not None:
        places.append(_cache() / f"models--{base.hub.replace('/', '--')}" / "snapshots" / base.revision)
    for place in places:
        try:
            yield json.loads((place / "config.json").read_text(encoding="utf-8"))
        except (OSError, ValueError):
            continue
    if base.gguf is not None:
        yield from _of_gguf(base.gguf)
    if base.hub in models():
        yield models()[str(base.hub)]["config"]


def _cache() -> Path:
    """The hub's cache, as its client finds it; read here because importing the client takes longer than a plan may."""
    home = os.environ.get("HF_HOME") or Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache") / "huggingface"
    return Path(os.environ.get("HF_HUB_CACHE") or Path(home) / "hub").expanduser()


def _of_gguf(source: str) -> Iterator[Mapping[str, Any]]:
    from recipes.errors import InputError
    from training.bases import gguf_start

    try:
        with gguf_start(source).open("rb") as stream:
            if (found := read_header(stream)) is not None:
                yield found
    except (OSError, InputError, struct.error, ValueError):  # of text, too
        return


def read_header(stream: BinaryIO) -> dict[str, Any] | None:
    """A config from the header of a GGUF file, read up to its list of tokens.

    Source: the GGUF specification of the ggml project (version 2 and later).
    """
    if stream.read(4) != b"GGUF":
        return None
    _, _, entries = struct.unpack("<IQQ", stream.read(20))
    found: dict[str, Any] = {"tie_word_embeddings": True}
    for _ in range(entries):
        key, kind = _text(stream), struct.unpack("<I", stream.read(4))[0]
        if key == "tokenizer.ggml.tokens" and kind == LIST:
            found["vocab_size"] = struct.unpack("<IQ", stream.read(12))[1]
            break
        value = _value(stream, kind)
        if key == "general.architecture":
            found["model_type"] = GGUF_NAMES.get(value, value)
        name = GGUF.get(key.partition(".")[2])
        if name is not None:
            found[name] = value
    return found


def _value(stream: BinaryIO, kind: int) -> Any:
    if kind == TEXT:
        return _text(stream)
    if kind == LIST:
        inner, length = struct.unpack("<IQ", stream.read(12))
        return [_value(stream, inner) for _ in range(length)]
    form = SIZES.get(kind)
    if form is None:
        raise ValueError(f"no type {kind} is known")
    return struct.unpack(f"<{form}", stream.read(struct.calcsize(f"<{form}")))[0]


def _text(stream: BinaryIO) -> str:
    return stream.read(struct.unpack("<Q", stream.read(8))[0]).decode("utf-8")
