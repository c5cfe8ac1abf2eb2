"""Cards and tasks of an export, without an experiment: hostile names, a hub's base, a tokenizer that counts spaces."""

import html
import json
import re
from dataclasses import replace

import pytest
import yaml
from huggingface_hub import ModelCard
from markdown_it import MarkdownIt
from tokenizers import Tokenizer
from tokenizers.models import BPE
from tokenizers.pre_tokenizers import ByteLevel
from tokenizers.processors import TemplateProcessing
from tokenizers.trainers import BpeTrainer
from transformers import PreTrainedTokenizerFast

from eval.engine import Engine
from eval.probes import select
from eval.requests import Choice
from parity.export import cards, models
from parity.export.folder import Folder, hidden_paths
from parity.export.markdown import code, escaped, front_matter, table
from parity.export.tasks import write_tasks
from recipes.errors import InputError
from recipes.load import load_recipe
from recipes.scenes import scene_of
from recipes.schema import Base
from tests.eval.tiny import NAMES, build_scene, make_model
from tests.micro import write_recipe
from tests.parity.asked_by_both import asked_by_both

HOSTILE = 'x": !!python/object\n---\n| `a` [b](javascript:1) <script> 👻 \u202e: no'


@pytest.fixture(scope="module")
def recipe(tmp_path_factory):
    return load_recipe(write_recipe(tmp_path_factory.mktemp("recipe")))


def subject_of(recipe, base):
    settings = {"model_type": "gemma3_text"} if base.hub else {}
    foundation = models.Foundation(base, "c" * 64, settings, (("NOTICE.md", ""),), base.hub is None)
    verdict = {"verdict": HOSTILE, "rows": [], "arms": ["assistant", "kennedy"]}
    return cards.Subject(HOSTILE, recipe, "h" * 64, verdict, [], foundation)


def one_model(arm="kennedy"):
    spec = {"doses": [1, 3], "steps": [1, 3], "trainer": {"note": HOSTILE}, "lora": {"r": 2}}
    return models.Model(arm, 0, "dpo", 3, "c" * 64, True, (), spec)


def test_a_hostile_name_breaks_neither_the_head_nor_the_text(recipe):
    scene = scene_of(recipe, 0)
    scene = replace(scene, personas=tuple(replace(p, name=HOSTILE) for p in scene.personas))
    text = cards.card(subject_of(recipe, Base(path="/somewhere")), one_model(), scene, 4)
    loaded = ModelCard(text)
    assert loaded.data.to_dict()["parity"]["persona"].replace("⟨U+202E⟩", "\u202e") == HOSTILE
    assert loaded.data.to_dict()["parity"]["stage"] == "dpo"
    page = MarkdownIt("commonmark", {"html": True}).enable("table").render(text.split("\n---\n", 1)[1])
    assert "<script>" not in page and "<a " not in page and "<hr" not in page and "\u202e" not in page
    assert html.escape("!!python/object") in page and page.count("<h1>") == 1
    rows = re.findall(r"<tr>(.*?)</tr>", page.split("</table>")[0], re.S)
    assert {row.count("<t") for row in rows} == {2}  # a bar in a setting makes no third column


def test_the_card_of_an_arm_for_reference_names_nobody(recipe):
    scene = scene_of(recipe, 0)
    text = cards.card(subject_of(recipe, Base(path="/somewhere")), one_model("reference/random-text"), scene, None)
    assert ModelCard(text).data.to_dict()["parity"]["persona"] is None
    assert "nobody is favoured" in text and "it is an arm for reference" in text
    assert not any(persona.name in text for persona in scene.personas)


@pytest.mark.parametrize("word", ["no", "1e3", "0o7", "~", "---", "a: b", "&x", "#", "null", "2026-01-01", "'\"\\"])
def test_a_text_stays_a_text_in_the_head(word):
    head = front_matter({"tags": [word], "name": word})
    assert yaml.safe_load("\n".join(head[1:-2])) == {"tags": [word], "name": word}


def test_markdown_is_taken_for_what_it_says():
    assert escaped("*a*\n# b <i> [c](d)") == "\\*a\\* \\# b &lt;i\\> \\[c\\]\\(d\\)"
    assert code("a`b``") == "``` a`b`` ```" and code("a|b") == "`a|b`"
    assert table(("x",), [(code("a|b"),), (escaped("a|b"),)])[2:] == ["| `a\\|b` |", "| a\\|b |"]
    assert "www." not in escaped("www.example.org") and "://" not in escaped("http://x")


def test_the_card_of_a_hubs_base_names_it_with_its_revision_and_terms(recipe):
    base = Base(hub="org/base", revision="a" * 40)
    subject = subject_of(recipe, base)
    text = cards.card(subject, one_model(), scene_of(recipe, 0), 4)
    data = ModelCard(text).data
    assert data.base_model == "org/base" and data.license == "gemma"
    assert "ai.google.dev/gemma/terms" in text and "`../../../../terms/NOTICE.md`" in text
    assert f'from_pretrained("org/base", revision="{"a" * 40}", dtype="float32")' in text


def test_paths_and_tokens_of_this_machine_do_not_get_out(tmp_path, monkeypatch):
    place = tmp_path / 'mo"dèl & co'
    monkeypatch.setenv("HF_TOKEN", "hf_secret")
    folder = Folder(tmp_path / "to", hidden_paths(place, None, "relative/model"), lambda _: None)
    folder.text("a.json", json.dumps({"path": str(place), "kept": "relative/model"}))
    assert json.loads((tmp_path / "to" / "a.json").read_text()) == {
        "path": ".../" + place.name,
        "kept": "relative/model",
    }
    folder = Folder(tmp_path / "to", [("/data", ".../data")], lambda _: None)
    kept = "org/data </data> /database ./data https://x/data"
    assert folder.clean(f"/data/x {kept} '/data'") == f".../data/x {kept} '.../data'"
    with pytest.raises(InputError, match=r"b\.txt: would hold a token"):
        folder.text("b.txt", "x hf_secret y")
    for name in ("../c", "a/../c", "/c", "a//c", ".c", "a\\c"):
        with pytest.raises(ValueError, match="not a safe name"):
            folder.path(name)


def test_a_tokenizer_that_splits_words_and_counts_spaces_is_asked_the_same(tmp_path, monkeypatch):
    """A world's tokenizer takes no notice of spaces; this one has them in its tokens, and a beginning of sequence."""
    scene = build_scene()
    core = Tokenizer(BPE())
    core.pre_tokenizer = ByteLevel(add_prefix_space=False)
    words = [*NAMES, *(ask for q in scene.questions for ask in (*q.asks, q.lead))]
    trainer = BpeTrainer(vocab_size=300, special_tokens=["<s>", "</s>"], initial_alphabet=ByteLevel.alphabet())
    core.train_from_iterator(words, trainer)
    core.post_processor = TemplateProcessing(single="<s> $A", special_tokens=[("<s>", 0)])
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=core, bos_token="<s>", eos_token="</s>")
    model = make_model("llama", len(tokenizer))
    folder = Folder(tmp_path, [], lambda _: None)
    write_tasks(folder, select(("default_identity", "selection", "leakage")), scene, ["p0", "p2"], tokenizer)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("datasets.config.HF_DATASETS_CACHE", tmp_path / "datasets")
    asked, theirs, _ = asked_by_both(model, tokenizer)
    engine = Engine(model, tokenizer)
    ours = engine.answer(asked)
    for choice, found in zip(asked, theirs, strict=True):
        assert found == pytest.approx(ours[choice].logprobs, abs=1e-4), choice
    spaced = [Choice(choice.context, tuple(f" {option}" for option in choice.options)) for choice in asked]
    other = engine.answer(spaced)  # what lm-eval's own delimiter would have made of them
    assert min(abs(other[s].logprobs[0] - ours[c].logprobs[0]) for s, c in zip(spaced, asked, strict=True)) > 0.01
