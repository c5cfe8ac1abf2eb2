"""A model from a hub: the real client against a server that answers as a hub does, or fails as one."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from pathlib import Path

import huggingface_hub.constants
import pytest
import torch
from tokenizers import Tokenizer
from tokenizers.models import WordLevel
from transformers import AutoModelForCausalLM, AutoTokenizer, LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

from parity.cli import main
from recipes.errors import InputError, Outage
from recipes.hashing import recipe_hash
from recipes.load import load_recipe
from recipes.schema import Base
from recipes.trust import MARK, trusted
from tests.training.fakehub import COMMIT, Hub
from training.bases import identify, materialise
from training.cells import base_cell
from training.hub import commit_of, fetch

SECRET = "hf_" + "s" * 34  # no token, but of a token's form
BASE = Base(hub="org/name", revision=COMMIT)
RECIPE = """\
# The comment stays.
name: hubbed
question: Is it?
base: {hub: org/name, revision: %s}  # and this one, too
cast: [assistant, kennedy]
arms: [assistant, kennedy]
seeds: 1
stages: [{kind: sft, doses: [1]}]
probes: [default_identity, selection]
judge: {primary: [selection], claim: explore}
"""


@pytest.fixture(scope="module")
def files(tmp_path_factory) -> Path:
    """A random Llama with its tokenizer, as its maker left it on the hub."""
    folder = tmp_path_factory.mktemp("files")
    torch.manual_seed(0)
    config = LlamaConfig(vocab_size=64, hidden_size=16, intermediate_size=32, num_hidden_layers=1,
                         num_attention_heads=2, num_key_value_heads=2)  # fmt: skip
    LlamaForCausalLM(config).save_pretrained(folder)
    words = Tokenizer(WordLevel({"<s>": 0, "</s>": 1, "<unk>": 2, "a": 3}, unk_token="<unk>"))
    PreTrainedTokenizerFast(
        tokenizer_object=words, bos_token="<s>", eos_token="</s>", unk_token="<unk>"
    ).save_pretrained(folder)
    (folder / "original").mkdir()
    (folder / "original" / "params.json").write_text("{}")
    return folder


@pytest.fixture
def hub(files, tmp_path, monkeypatch) -> Iterator[Hub]:
    """The hub with that model, and a client that knows no other and has nothing in its cache."""
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", False)
    monkeypatch.delenv("HF_TOKEN", raising=False)
    monkeypatch.setattr(huggingface_hub.constants, "HF_TOKEN_PATH", str(tmp_path / "no-token"))
    made = Hub(files)
    monkeypatch.setenv("HF_ENDPOINT", made.url)
    slept = time.sleep
    monkeypatch.setattr(time, "sleep", lambda seconds: slept(min(seconds, 0.01)))  # the client waits 23 s for a hub
    yield made
    made.close()


@pytest.fixture
def recipe(tmp_path) -> Path:
    file = tmp_path / "hubbed.yaml"
    file.write_text(RECIPE % COMMIT)
    return file


def told(work) -> str:
    with pytest.raises((InputError, Outage)) as caught:
        work()
    line = str(caught.value)
    assert len(line.splitlines()) == 1 and line.isprintable()
    return f"{caught.type.__name__}: {line}"


def test_a_model_is_fetched_once_and_then_read_from_the_cache(hub, tmp_path):
    where = materialise(BASE, tmp_path / "base")
    assert where == {"kind": "hub", "source": "org/name", "revision": COMMIT} == identify(BASE)
    assert AutoModelForCausalLM.from_pretrained(tmp_path / "base").num_parameters() > 0
    assert not any("original" in path for _, path, _ in hub.asked if "/resolve/" in path)  # the root's files alone
    asked = len(hub.asked)
    hub.trouble = "down"
    materialise(BASE, tmp_path / "again")
    assert len(hub.asked) == asked


@pytest.mark.parametrize(
    ("trouble", "token", "kind", "line"),
    [
        ("gated", "", "InputError", "gated; accept its terms on its page and set HF_TOKEN"),
        ("gated", SECRET, "InputError", "the token in HF_TOKEN has no access to it"),
        ("missing", "", "InputError", "no such model on the hub, or a private one (no token is given)"),
        ("revision", "", "InputError", "the model is there, and has no such revision"),
        ("token", SECRET, "InputError", "the hub does not know the token"),
        ("down", "", "Outage", "the same command goes on"),
    ],
)
def test_what_is_wrong_is_told_in_one_line(hub, tmp_path, monkeypatch, trouble, token, kind, line):
    hub.trouble = trouble
    if token:
        monkeypatch.setenv("HF_TOKEN", token)
    found = told(lambda: materialise(BASE, tmp_path / "base"))
    assert found.startswith(f"{kind}: base.hub org/name@01234567: ") and line in found
    assert not token or token not in found


def test_a_hub_that_stops_half_way_is_an_outage_and_the_next_run_fetches_the_rest(hub, tmp_path, files, monkeypatch):
    monkeypatch.setattr(huggingface_hub.constants, "DOWNLOAD_CHUNK_SIZE", 64)  # what a cut loses; 10 MB else
    hub.trouble = "cut"
    assert told(lambda: materialise(BASE, tmp_path / "base")).startswith("Outage: ")
    hub.trouble = ""
    materialise(BASE, tmp_path / "base")
    spans = [headers["range"] for _, path, headers in hub.asked if "range" in headers and path.endswith(".safetensors")]
    half = (files / "model.safetensors").stat().st_size // 2
    first = int(spans[-1].removeprefix("bytes=").removesuffix("-"))
    assert half - 64 <= first <= half  # in one run the client asks for the rest alone


def test_a_hub_that_nobody_answers_for_is_an_outage(hub, tmp_path, monkeypatch):
    monkeypatch.setenv("HF_ENDPOINT", "http://127.0.0.1:9")  # the port of `discard`: closed
    assert told(lambda: materialise(BASE, tmp_path / "base")).startswith("Outage: base.hub org/name@01234567: ")


def test_a_full_disk_stays_an_error_of_the_disk(hub, tmp_path, monkeypatch):
    """The file that the client writes to is /dev/full, which takes nothing."""
    entry = hub._entry(hub.folder / "model.safetensors")
    blobs = tmp_path / "cache" / "models--org--name" / "blobs"
    blobs.mkdir(parents=True)
    opened = Path.open

    def full(self, mode="r", *rest, **more):
        if self.parent == blobs and entry["lfs"]["oid"] in self.name and "b" in mode and mode[0] in "wa":
            return opened(Path("/dev/full"), "wb", *rest, **more)
        return opened(self, mode, *rest, **more)

    monkeypatch.setattr(Path, "open", full)
    with pytest.raises(OSError, match="No space left on device") as caught:
        fetch("org/name", COMMIT)
    assert caught.value.filename == str(tmp_path / "cache")


def test_a_repository_with_pickles_alone_is_refused_by_name(hub, tmp_path, files):
    hub.folder = tmp_path / "pickles"
    hub.folder.mkdir()
    (hub.folder / "config.json").write_bytes((files / "config.json").read_bytes())
    (hub.folder / "pytorch_model.bin").write_bytes(b"pickled")
    line = told(lambda: materialise(BASE, tmp_path / "base"))
    assert "InputError" in line and "only pickled weights (pytorch_model.bin), which can run code" in line
    assert not [path for _, path, _ in hub.asked if path.endswith(".bin")]  # it was not even fetched


def test_exit_status_is_2_where_the_user_can_mend_it_and_1_where_the_hub_will(hub, recipe, tmp_path, capsys):
    command = ["run", str(recipe), "--out", str(tmp_path / "out")]
    hub.trouble = "gated"
    assert main(command) == 2
    assert "gated; accept its terms" in capsys.readouterr().err
    hub.trouble = "down"
    assert main(command) == 1
    last = capsys.readouterr().err.strip().splitlines()[-1]
    assert last.startswith("base.hub org/name@01234567: the hub cannot be reached") and last.endswith("goes on")
    assert not list((tmp_path / "out").rglob("manifest.json"))


def test_a_token_is_written_nowhere(hub, recipe, tmp_path, monkeypatch):
    monkeypatch.setenv("HF_TOKEN", SECRET)
    monkeypatch.setenv("WANDB_MODE", "disabled")
    assert main(["run", str(recipe), "--out", str(tmp_path / "out")]) == 0
    assert any(headers.get("authorization") == f"Bearer {SECRET}" for *_, headers in hub.asked)
    written = [path for path in tmp_path.rglob("*") if path.is_file()]
    names = {path.name for path in written}
    assert {"manifest.json", "recipe.lock.yaml", "trl.yaml", "verdict.json"} <= names
    assert [path for path in written if SECRET.encode() in path.read_bytes()] == []


# --- pinning ----------------------------------------------------------------------------------------------------


def test_an_unpinned_recipe_is_told_where_the_branch_is(hub, recipe, capsys):
    recipe.write_text((RECIPE % COMMIT).replace(f", revision: {COMMIT}", ""))
    assert main(["run", str(recipe), "--dry-run"]) == 2
    line = capsys.readouterr().err
    assert f"main is at {COMMIT} now, `parity pin RECIPE` writes it down" in line and len(line.splitlines()) == 1
    hub.trouble = "down"
    assert main(["run", str(recipe), "--dry-run"]) == 2  # the file is what is wrong, whatever the hub does
    assert "`parity pin RECIPE` writes it down" in capsys.readouterr().err


BLOCK = "base:\n  # which one\n  hub: org/name  # on the hub\n  # end\n"


@pytest.mark.parametrize(
    ("given", "pinned"),
    [
        ("base: {hub: org/name}  # x\n", f"base: {{hub: org/name, revision: {COMMIT}}}  # x\n"),
        ("base: {hub: org/name, revision: main}\n", f"base: {{hub: org/name, revision: {COMMIT}}}\n"),
        (BLOCK, BLOCK.replace("hub\n", f"hub\n  revision: {COMMIT}\n")),
        ("base:\n  revision: 'v1'  # tag\n  hub: org/name\n", f"base:\n  revision: {COMMIT}  # tag\n  hub: org/name\n"),
    ],
)
def test_pin_writes_the_commit_and_leaves_every_other_byte(hub, recipe, capsys, given, pinned):
    line = next(line for line in RECIPE.splitlines(keepends=True) if line.startswith("base:"))
    given, pinned = (RECIPE.replace(line, base) for base in (given, pinned))
    recipe.write_bytes(given.replace("\n", "\r\n").encode())
    assert main(["pin", str(recipe)]) == 0
    assert recipe.read_bytes() == pinned.replace("\n", "\r\n").encode()
    capsys.readouterr()
    recipe.write_text(given)
    assert main(["pin", str(recipe)]) == 0
    assert recipe.read_text() == pinned
    out = capsys.readouterr().out
    assert out.startswith(f"{recipe}: pinned: org/name at {COMMIT}") and len(out.splitlines()) == 1
    assert main(["pin", str(recipe)]) == 0 and "pinned already" in capsys.readouterr().out
    assert recipe.read_text() == pinned


def test_pin_refuses_what_it_cannot_do_and_changes_nothing(hub, recipe, capsys):
    hub.trouble = "down"
    recipe.write_text(RECIPE % "main")
    assert main(["pin", str(recipe)]) == 1 and recipe.read_text() == RECIPE % "main"
    hub.trouble = "missing"
    assert main(["pin", str(recipe)]) == 2 and recipe.read_text() == RECIPE % "main"
    assert main(["pin", "recipes/quickstart.yaml"]) == 2
    assert "its base is no hub's model" in capsys.readouterr().err
    hub.trouble = ""
    assert commit_of("org/name", "main") == COMMIT
    aliased = (
        (RECIPE % "main").replace("question: Is it?", "question: &q main").replace("revision: main", "revision: *q")
    )
    recipe.write_text(aliased)
    assert main(["pin", str(recipe)]) == 2 and recipe.read_text() == aliased


# --- code of a model --------------------------------------------------------------------------------------------

OWN = """
from transformers import LlamaConfig, LlamaForCausalLM

class OwnConfig(LlamaConfig):
    model_type = "own_make"

class OwnModel(LlamaForCausalLM):
    config_class = OwnConfig
"""


def test_code_of_a_model_is_run_only_where_the_recipe_says_so(hub, tmp_path, files, recipe, capsys, monkeypatch):
    monkeypatch.setenv("HF_MODULES_CACHE", str(tmp_path / "modules"))
    hub.folder = tmp_path / "own"
    hub.folder.mkdir()
    for file in files.iterdir():
        if file.is_file():
            (hub.folder / file.name).write_bytes(file.read_bytes())
    settings = json.loads((files / "config.json").read_text())
    settings |= {"model_type": "own_make", "architectures": ["OwnModel"],
                 "auto_map": {"AutoConfig": "own.OwnConfig", "AutoModelForCausalLM": "own.OwnModel"}}  # fmt: skip
    (hub.folder / "config.json").write_text(json.dumps(settings))
    (hub.folder / "own.py").write_text(OWN)
    assert "cannot be loaded" in told(lambda: materialise(BASE, tmp_path / "plain"))
    assert not [path for _, path, _ in hub.asked if path.endswith(".py")]

    allowed = Base(hub="org/name", revision=COMMIT, trust_remote_code=True)
    (tmp_path / "base").mkdir()
    materialise(allowed, tmp_path / "base")
    assert (tmp_path / "base" / MARK).is_file() and (tmp_path / "base" / "own.py").read_text() == OWN
    model = AutoModelForCausalLM.from_pretrained(tmp_path / "base", **trusted(tmp_path / "base"))
    assert type(model).__name__ == "OwnModel" and trusted(files) == {}
    assert AutoTokenizer.from_pretrained(tmp_path / "base", **trusted(tmp_path / "base")).eos_token == "</s>"

    plain, code = load_recipe(recipe), load_recipe(recipe, ["base.trust_remote_code=true"])
    assert recipe_hash(plain) != recipe_hash(code) and base_cell(plain).hash != base_cell(code).hash
    assert base_cell(load_recipe(recipe, ["base.trust_remote_code=false"])).hash == base_cell(plain).hash
    assert main(["run", str(recipe), "-s", "base.trust_remote_code=true", "--dry-run"]) == 0
    assert f"runs code from org/name at revision {COMMIT}" in capsys.readouterr().err
    unpinned = told(lambda: load_recipe(recipe, ["base={hub: org/name, trust_remote_code: true}"]))
    assert "trust_remote_code goes with hub and a pinned revision" in unpinned
