"""What `parity probe` refuses, in one line and with nothing written: wrong input, pickles, code, others' adapters."""

from __future__ import annotations

import json
import re
import shutil
from pathlib import Path

import huggingface_hub.constants
import polars as pl
import pytest

from parity.cli import main
from recipes.load import load_recipe
from recipes.store import Store
from tests.micro import write_recipe
from tests.parity.foreign import probed
from training.base import make_base

ROOT = Path(__file__).parents[2]


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["base", "--persona", "nova"], "two or more"),
        (["base", "--persona", "nova", "nova"], "given twice"),
        (["base", "--persona", "nova", "marn"], "did you mean 'maren'"),
        (["base", "--persona", "nova", "./no.yaml"], "no card ./no.yaml"),
        (["base", "--persona", "nova", "maren", "--probes", "selektion"], "did you mean 'selection'"),
        (["base", "--persona", "nova", "maren", "--probes", ""], "a tier or names"),
        (["base", "--persona", "nova", "maren", "--seed", "-1"], "--seed"),
        (["base", "--persona", "nova", "maren", "--revision", "main"], "goes with a hub"),
        (["base", "--persona", "nova", "maren", "--device", "toaster"], "--device toaster"),
        (["gone", "--persona", "nova", "maren"], "is not there"),
        (["base/config.json", "--persona", "nova", "maren"], "is a file, and no GGUF file"),
        (["base", "--persona", "nova", "maren", "--adapter", "gone"], "no such folder"),
        (["base", "--persona", "nova", "maren", "--adapter", "other"], "not a PEFT adapter"),
        (["wide", "--persona", "nova", "maren", "--adapter", "lora"], "an adapter of another base"),
        (["lora", "--persona", "nova", "maren"], "a PEFT adapter; name it by --adapter"),
        (["", "--persona", "nova", "maren"], "no config.json"),
        (["base", "--persona", "nova", "maren", "--recipe", "recipes/gemma.yaml"], "no world"),
    ],
)
def test_wrong_input_is_one_line_exit_2_and_nothing_written(arguments, said, models, tmp_path, capsys):
    given = [str(models / a) if k == 0 or arguments[k - 1] == "--adapter" else a for k, a in enumerate(arguments)]
    if "--recipe" in given:
        cards = tmp_path / "cards.yaml"
        text = (ROOT / given[-1]).read_text()
        cards.write_text(re.sub(r"(?m)^base: .*$", "base: {hub: org/base}", text))  # its own needs a package
        given[-1] = str(cards)
    assert main(["probe", *given, "--out", str(tmp_path / "out")]) == 2
    told = capsys.readouterr()
    assert said in told.err and len(told.err.strip().splitlines()) == 1 and told.out == ""
    assert not (tmp_path / "out").exists()


def changed(folder: Path, target: Path, file: str, **settings: object) -> Path:
    """A copy of a folder with some settings of a JSON file changed."""
    shutil.copytree(folder, target)
    held = json.loads((target / file).read_text()) | settings
    (target / file).write_text(json.dumps(held))
    return target


def refused(capsys, out: Path, *arguments: object) -> str:
    assert main(["probe", *map(str, arguments), "--persona", "nova", "maren", "--out", str(out)]) == 2
    assert not out.exists()
    (line,) = capsys.readouterr().err.strip().splitlines()
    return line


def test_nothing_is_unpickled(models, tmp_path, capsys):
    model, adapter = tmp_path / "model", tmp_path / "adapter"
    for source, target, weights in ((models / "base", model, "model"), (models / "lora", adapter, "adapter_model")):
        shutil.copytree(source, target)
        (target / f"{weights}.safetensors").rename(target / f"{weights}.bin")
    assert "only pickled weights (model.bin)" in refused(capsys, tmp_path / "out", model)
    line = refused(capsys, tmp_path / "out", models / "base", "--adapter", adapter)
    assert "only pickled weights (adapter_model.bin)" in line


def test_code_that_comes_with_a_model_is_not_run(models, tmp_path, capsys):
    marker = tmp_path / "ran"
    auto = {"AutoConfig": "evil.Evil", "AutoModelForCausalLM": "evil.Evil"}
    folder = changed(models / "base", tmp_path / "evil", "config.json", model_type="evil", auto_map=auto)
    changed(folder, tmp_path / "worse", "tokenizer_config.json", auto_map={"AutoTokenizer": ["evil.Evil", None]},
            tokenizer_class="Evil")  # fmt: skip
    for name in ("evil", "worse"):
        (tmp_path / name / "evil.py").write_text(f"open({str(marker)!r}, 'w')\nclass Evil: pass\n")
        assert "cannot be loaded" in refused(capsys, tmp_path / "out", tmp_path / name)
    odd = changed(
        models / "base", tmp_path / "odd", "tokenizer_config.json", auto_map={"AutoTokenizer": ["evil.Evil", None]}
    )
    (odd / "evil.py").write_text(f"open({str(marker)!r}, 'w')\nclass Evil: pass\n")
    asked = ("--persona", "nova", "maren", "--probes", "capability", "--out", str(tmp_path / "read"))
    assert main(["probe", str(odd), *asked]) == 0  # its own kind of tokenizer is known, and read without the code
    assert not marker.exists()
    capsys.readouterr()
    for k, settings in enumerate(({"attn_implementation": "someone/kernel"}, {"x": [{"_attn_implementation": "a/b"}]})):
        folder = changed(models / "base", tmp_path / f"kernel-{k}", "config.json", **settings)
        assert "wants code of a hub" in refused(capsys, tmp_path / "out", folder)


def test_an_adapter_that_says_it_is_of_another_base(models, tmp_path, capsys):
    """Of the same shapes, so that only what it says can tell."""
    file = "adapter_config.json"
    other = changed(models / "lora", tmp_path / "a", file, base_model_name_or_path=str(models / "other"))
    line = refused(capsys, tmp_path / "out", models / "base", "--adapter", other)
    assert "an adapter of another base" in line and str(models / "other") in line
    shutil.copytree(models / "base", tmp_path / "moved")
    same = changed(models / "lora", tmp_path / "b", file, base_model_name_or_path=str(tmp_path / "moved"))
    probed(tmp_path / "out", models / "base", "--adapter", same, "--persona", "nova", "maren", "--probes", "capability")


def test_adapters_that_are_not_a_change_beside_the_base(models, tmp_path, capsys):
    file = "adapter_config.json"
    for k, (settings, said) in enumerate([
        ({"init_lora_weights": "pissa"}, "changed its base"),
        ({"megatron_config": {}, "megatron_core": "os"}, "Megatron"),
        ({"peft_type": "NONE SUCH"}, "does not go onto"),
        ({"target_modules": ["q_proj"]}, "absent from the model"),
    ]):  # fmt: skip
        adapter = changed(models / "lora", tmp_path / str(k), file, **settings)
        assert said in refused(capsys, tmp_path / "out", models / "base", "--adapter", adapter)


def test_a_hub_model_is_read_in_the_cache_and_named_by_its_commit(models, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(tmp_path / "cache"))
    asked = ("org/name", "--persona", "nova", "maren", "--probes", "capability")
    assert main(["probe", *asked, "--out", str(tmp_path / "out")]) == 2
    assert "org/name@main: " in capsys.readouterr().err and not (tmp_path / "out").exists()
    commit, cache = "0123456789abcdef0123456789abcdef01234567", tmp_path / "cache" / "models--org--name"
    shutil.copytree(models / "base", cache / "snapshots" / commit)
    (cache / "refs").mkdir()
    (cache / "refs" / "main").write_text(commit)
    folder = probed(tmp_path / "out", *asked)
    told = json.loads((folder / "probe.json").read_text())
    assert told["model"] == {"given": "org/name", "kind": "hub", "source": "org/name", "revision": commit}
    assert folder.name.startswith("name-")
    foreign = changed(models / "lora", tmp_path / "a", "adapter_config.json", base_model_name_or_path="org/other")
    assert main(["probe", *asked, "--adapter", str(foreign), "--out", str(tmp_path / "no")]) == 2
    assert "an adapter of another base, org/other" in capsys.readouterr().err


@pytest.fixture(scope="module")
def world(tmp_path_factory) -> tuple[Path, Path]:
    """The recipe of a micro world and the cell of its base."""
    folder = tmp_path_factory.mktemp("world")
    recipe = write_recipe(folder)
    cell = make_base(load_recipe(recipe, []), Store(folder))
    return recipe, Store(folder).cell(cell.hash)


def test_a_world_has_words_of_its_own(world, tmp_path, capsys):
    recipe, cell = world
    assert "base of a world" in refused(capsys, tmp_path / "out", cell)
    shutil.copytree(cell, tmp_path / "copy", ignore=shutil.ignore_patterns("manifest.json"))
    assert "does not know 'Nova Quill'" in refused(capsys, tmp_path / "out", tmp_path / "copy")
    other = write_recipe(tmp_path, recipe.read_text().replace("seed: 0", "seed: 1"), "other.yaml")
    command = ["probe", str(cell), "--persona", "assistant", "kennedy", "--probes", "selection", "--out"]
    assert main([*command, str(tmp_path / "out"), "--recipe", str(other)]) == 2
    assert "not the base of micro" in capsys.readouterr().err
    assert main([*command, str(tmp_path / "out"), "--recipe", str(recipe), "--persona", "nova"]) == 2
    assert "'nova' is not in the cast" in capsys.readouterr().err
    folder = probed(tmp_path / "out", *command[1:-1], "--recipe", recipe, "--seed", 1)
    rows = pl.read_parquet(folder / "rows.parquet")
    assert set(rows["outcome"]) == {"ok"} and set(rows["persona"]) == {"assistant", "kennedy"}
    assert folder.name.startswith(f"cell-{cell.name[:8]}-") and set(rows["seed"]) == {1}
