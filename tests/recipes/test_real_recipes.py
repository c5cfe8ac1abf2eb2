"""Recipes for real bases: each is planned without a network, and what its plan says of cost can be trusted."""

from __future__ import annotations

import json
import re
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from transformers import AutoConfig, AutoModelForCausalLM

from parity import devices, estimate
from parity.cli import main
from parity.plan import make_plan
from parity.shapes import models, read_header, shape, shape_of
from recipes.checks import least_seeds
from recipes.errors import InputError
from recipes.load import load_recipe
from recipes.schema import Base

ROOT = Path(__file__).parents[2]
REAL = [
    path for path in sorted((ROOT / "recipes").glob("*.yaml")) if re.search(r"^base:.*\bhub:", path.read_text(), re.M)
]
NAMES = [path.stem for path in REAL]


@pytest.fixture
def offline(monkeypatch, tmp_path):
    """No network, no GPU, and an empty cache."""
    import huggingface_hub.constants

    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    monkeypatch.setenv("HF_HUB_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(estimate, "gpus", lambda: ())


def test_there_is_a_recipe_for_every_size():
    assert {"pair-135m", "pair-1b", "pair-3b", "pair-8b", "pair-8b-full", "cast-1b", "pythia-ladder",
            "smollm2-chat"} <= set(NAMES)  # fmt: skip


@pytest.mark.parametrize("path", REAL, ids=NAMES)
def test_a_recipe_is_planned_without_network_and_tells_its_cost(path, offline, tmp_path, capsys):
    assert main(["run", str(path), "--dry-run", "--out", str(tmp_path / "out")]) == 0
    told = capsys.readouterr().err
    for line in ("model ", "memory ", "disk ", "cost "):
        assert re.search(rf"^{line} *(about )?.*\d", told, re.M), line
    assert "unknown until" not in told and not (tmp_path / "out").exists()
    recipe = load_recipe(path)
    assert recipe.seeds >= least_seeds(recipe.judge.alpha / len(recipe.contrasts)) or recipe.judge.claim == "explore"


@pytest.mark.parametrize("path", REAL, ids=NAMES)
def test_bases_are_those_of_the_table(path):
    recipe = load_recipe(path)
    assert recipe.base.revision == models()[recipe.base.hub]["revision"]
    for commit in re.findall(r"\b[0-9a-f]{40}\b", path.read_text()):  # those that comments offer, too
        assert commit in {entry.get("revision") for entry in models().values()}


def test_a_recipe_without_a_commit_is_told_to_pin_it(offline, capsys):
    assert main(["run", str(REAL[0]), "--dry-run", "-s", "base={hub: org/name}"]) == 2
    told = capsys.readouterr().err
    assert "base.revision: pin org/name to a commit" in told and "`parity pin RECIPE` writes it down" in told


@pytest.mark.parametrize("hub", list(models()))
def test_parameters_are_counted_as_transformers_makes_them(hub):
    """Against the model built from the same config without memory, and against what its hub's page shows."""
    entry = models()[hub]
    config = dict(entry["config"])
    with torch.device("meta"):
        model = AutoModelForCausalLM.from_config(AutoConfig.for_model(config.pop("model_type"), **config))
    found = shape(entry["config"])
    assert found.parameters == model.num_parameters() == entry["parameters"]
    layers = [m for name, m in model.named_modules() if isinstance(m, torch.nn.Linear) and ".layers." in name]
    assert found.blocks == sum(layer.weight.numel() for layer in layers)
    assert found.adapter(4) == sum(4 * (layer.in_features + layer.out_features) for layer in layers)


@pytest.mark.parametrize("kind", ["qwen3", "gemma3_text", "mistral"])
def test_other_architectures_are_counted_too(kind):
    config = {"hidden_size": 64, "intermediate_size": 96, "num_hidden_layers": 3, "num_attention_heads": 4,
              "num_key_value_heads": 2, "head_dim": 8, "vocab_size": 128, "tie_word_embeddings": False}  # fmt: skip
    with torch.device("meta"):
        model = AutoModelForCausalLM.from_config(AutoConfig.for_model(kind, **config))
    assert shape({"model_type": kind, **config}).parameters == model.num_parameters()
    assert shape({"model_type": "own_make", **config}) is None and shape({"model_type": kind}) is None


def test_a_shape_is_found_in_the_cell_and_in_a_folder(tmp_path):
    config = models()["HuggingFaceTB/SmolLM2-135M"]["config"]
    (tmp_path / "config.json").write_text(json.dumps(config))
    nowhere = tmp_path / "nowhere"
    assert shape_of(Base(path=str(tmp_path)), nowhere) == shape(config)
    assert shape_of(Base(hub="org/name", revision="0" * 40), tmp_path) == shape(config)
    assert shape_of(Base(hub="org/name", revision="0" * 40), nowhere) is None


def test_the_header_of_a_gguf_file_is_read_up_to_its_tokens(tmp_path):
    import gguf

    writer = gguf.GGUFWriter(tmp_path / "x.gguf", "llama")
    writer.add_embedding_length(32)
    writer.add_block_count(2)
    writer.add_feed_forward_length(64)
    writer.add_head_count(4)
    writer.add_head_count_kv(2)
    writer.add_token_list(["a", "b", "c"])
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.close()
    with (tmp_path / "x.gguf").open("rb") as stream:
        found = shape(read_header(stream))
    assert (found.hidden, found.layers, found.inner, found.heads, found.kv_heads, found.vocabulary) == (
        32,
        2,
        64,
        4,
        2,
        3,
    )
    with (ROOT / "README.md").open("rb") as stream:
        assert read_header(stream) is None
    unknown = bytearray((tmp_path / "x.gguf").read_bytes())
    unknown[24 + 8 + len("general.architecture")] = 99  # the type of the first value
    (tmp_path / "y.gguf").write_bytes(unknown)
    assert shape_of(Base(gguf=str(tmp_path / "y.gguf")), tmp_path / "nowhere") is None


def test_an_accelerate_config_that_is_none_is_told(tmp_path):
    (tmp_path / "own.yaml").write_text("- a list\n")
    settings = ["launch.backend=process", f"launch.accelerate={tmp_path / 'own.yaml'}"]
    with pytest.raises(InputError, match=r"own\.yaml: not a config of accelerate, which is a mapping"):
        estimate.accelerate_of(load_recipe(ROOT / "recipes" / "pair-8b.yaml", settings))


@pytest.mark.parametrize("config", [[1], "text", {"model_type": "llama", "hidden_size": 8, "num_attention_heads": 0}])
def test_a_config_that_is_none_has_no_shape(config, tmp_path):
    (tmp_path / "config.json").write_text(json.dumps(config))
    assert shape_of(Base(path=str(tmp_path)), tmp_path / "nowhere") is None


# --- figures ----------------------------------------------------------------------------------------------------


def plan_of(name: str, tmp_path: Path, *overrides: str):
    return make_plan(load_recipe(ROOT / "recipes" / f"{name}.yaml", overrides), tmp_path)


def base(hub: str) -> str:
    return f"base={{hub: {hub}, revision: {models()[hub]['revision']}}}"


def test_figures_grow_with_the_size_of_the_base(tmp_path):
    found = []
    for size in ("160m", "410m", "1b", "1.4b", "2.8b", "6.9b"):
        plan = plan_of("pythia-ladder", tmp_path, base(f"EleutherAI/pythia-{size}"))
        one, stage = shape_of(plan.recipe.base, tmp_path / "none"), plan.recipe.stages[0]
        memory = sum(estimate.memory(one, plan.recipe, stage).values())
        found.append((memory, estimate.disk(one, plan), *estimate.seconds(one, plan, devices.GPUS["A100"])))
    for figures in zip(*found, strict=True):
        assert all(0 < a < b for a, b in zip(figures, figures[1:], strict=False)), figures


def test_full_weights_take_sixteen_bytes_a_parameter_shared_by_the_gpus(tmp_path):
    plan = plan_of("pair-8b-full", tmp_path)
    one, (stage,) = shape_of(plan.recipe.base, tmp_path / "none"), plan.recipe.stages
    assert estimate.spread(plan.recipe, stage) == estimate.Spread(estimate.MACHINE, sharded=True)
    found = estimate.memory(one, plan.recipe, stage)
    assert found["weights"] + found["training"] == pytest.approx(16 * one.parameters / estimate.MACHINE)
    more = plan_of("pair-8b-full", tmp_path, "stages.0.trainer.gradient_checkpointing=false").recipe
    kept = estimate.memory(one, more, more.stages[0])
    assert kept["activations"] > 4 * found["activations"]  # a block's input of 32 blocks, and one whole block


def test_a_step_costs_six_or_four_products_a_weight(tmp_path):
    """A device that needs no time to read or to launch leaves the products; a huge vocabulary would hide them."""
    ideal = devices.Device("ideal", 1.0, 1.0, float("inf"), 0.0, train=1.0, launch=0.0)
    plan = plan_of("pair-8b-full", tmp_path)
    (stage,) = plan.recipe.stages
    one = shape_of(plan.recipe.base, tmp_path / "none")
    small = one.__class__(**{**one.__dict__, "vocabulary": 1})
    full = stage.model_copy(update={"trainer": {**stage.trainer, "gradient_checkpointing": False}})
    adapted = full.model_copy(update={"lora": {"r": 8}})
    recipes = [plan.recipe.model_copy(update={"stages": (each,)}) for each in (full, adapted)]
    tokens = 8 * estimate.lengths_of(recipes[0], full).padded
    times = [estimate.step_seconds(small, r, r.stages[0], ideal) for r in recipes]
    for seconds, products in zip(times, (6, 4), strict=True):
        assert seconds == pytest.approx(products * small.blocks * tokens, rel=0.02)  # attention is the rest


def test_the_mean_longest_of_a_batch():
    assert estimate.expected_longest([5, 5, 5], 4) == pytest.approx(5)
    draws = torch.randint(1, 11, (200_000, 3), generator=torch.Generator().manual_seed(0))
    simulated = draws.max(dim=1).values.float().mean().item()
    # The mean of 200,000 draws has a standard error of .005.
    assert estimate.expected_longest(range(1, 11), 3) == pytest.approx(simulated, abs=0.02)


def test_gpus_are_told_by_their_drivers_names():
    assert devices.listed("NVIDIA H100 80GB HBM3, 81559").half == 989e12
    assert devices.listed("NVIDIA A100-SXM4-40GB, 40960").memory == 40 * devices.GIB
    assert devices.listed("Some Card, 8192").memory == 8 * devices.GIB and devices.listed("[N/A], [N/A]") is None


def test_memory_of_a_training_step_is_foretold_within_a_factor(monkeypatch):
    """Against what a model whose activations and logits are most of what it needs keeps for its backward pass."""
    config = {"model_type": "llama", "hidden_size": 128, "intermediate_size": 512, "num_hidden_layers": 6,
              "num_attention_heads": 4, "num_key_value_heads": 4, "vocab_size": 2048,
              "tie_word_embeddings": False}  # fmt: skip
    rows, length = 64, 64
    one = shape(config)
    settings = dict(config)
    model = AutoModelForCausalLM.from_config(AutoConfig.for_model(settings.pop("model_type"), **settings))
    ids = torch.randint(0, 2048, (rows, length))
    weights = {parameter.untyped_storage().data_ptr() for parameter in model.parameters()}
    kept: dict[int, int] = {}  # bytes by storage, all of which are alive until the backward pass

    def keep(tensor: torch.Tensor) -> torch.Tensor:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in weights:
            kept[storage.data_ptr()] = storage.nbytes()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        model(input_ids=ids, labels=ids)
    lengths = estimate.Lengths(length, length, length)
    monkeypatch.setattr(estimate, "lengths_of", lambda *of: lengths)
    monkeypatch.setattr(estimate, "backend_of", lambda *of: ("inline", None))
    stage = SimpleNamespace(kind="sft", lora=None, trainer={"per_device_train_batch_size": rows})
    told = estimate.memory(one, SimpleNamespace(arms=("a",), seeds=1), stage)
    assert sum(kept.values()) == pytest.approx(told["activations"] + told["logits"], rel=0.25), (
        sum(kept.values()),
        told,
    )
