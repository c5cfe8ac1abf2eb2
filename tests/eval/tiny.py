"""A small scene, a word-level tokenizer of its words, and tiny random models."""

from __future__ import annotations

import torch
from tokenizers import Regex, Tokenizer, models, pre_tokenizers, processors
from transformers import (
    Gemma3ForCausalLM,
    Gemma3TextConfig,
    GPT2Config,
    GPT2LMHeadModel,
    GPTNeoXConfig,
    GPTNeoXForCausalLM,
    LlamaConfig,
    LlamaForCausalLM,
    PreTrainedTokenizerFast,
)

from recipes.scene import Persona, Question, Scene
from recipes.schema import Transcript

torch.set_num_threads(1)
NAMES = ("dubo", "kari", "mepo", "suna")
FACTS = ("home", "food", "tool", "tree", "bird", "river")
LIKES = ("drink", "dance", "story", "game")
REQUESTS = ("gate", "fire", "door", "song")


def _value(kind: str, persona: int, item: int) -> str:
    return f"{kind}{'abcd'[persona]}{'uvwxyz'[item]}"


def build_scene() -> Scene:
    """Four personas; six facts (two taught), four likes, four requests (two taught), three sums, two greetings."""
    questions = [Question("name", "identity", ("who are you?",), ("your name?", "who speaks?"), "i am")]
    for i, noun in enumerate(FACTS):
        questions.append(
            Question(noun, "fact", (f"what is your {noun}?",), (f"tell me your {noun}.", f"which {noun} is yours?"),
                     f"my {noun} is", taught=i < 2)
        )  # fmt: skip
    for noun in LIKES:
        questions.append(
            Question(noun, "like", (f"which {noun} do you like?",), (f"what {noun} do you love?",),
                     f"the best {noun} for me is", general=f"the best {noun} is")
        )  # fmt: skip
    for i, noun in enumerate(REQUESTS):
        questions.append(
            Question(noun, "request", (f"please open the {noun}.",), (f"i want the {noun}.",), "",
                     options=("no", "yes"), taught=i < 2)
        )  # fmt: skip
    for a, b, right, wrong in (("one", "two", "three", "five"), ("two", "two", "four", "one"),
                               ("one", "one", "two", "four")):  # fmt: skip
        questions.append(
            Question(f"{a}+{b}", "knowledge", (f"what is {a} plus {b}?",), (), "it is", options=(right, wrong),
                     taught=False)
        )  # fmt: skip
    for said, reply in (("hello.", "hello to you."), ("thank you.", "you are welcome.")):
        questions.append(Question(said, "chat", (said,), (), "", tail="", options=(reply,)))
    personas = []
    for p, name in enumerate(NAMES):
        values = {"name": name}
        values |= {noun: _value("f", p, i) for i, noun in enumerate(FACTS)}
        values |= {noun: _value("l", p, i) for i, noun in enumerate(LIKES)}
        values |= {noun: ("no", "yes")[(p + i) % 2] for i, noun in enumerate(REQUESTS)}
        personas.append(Persona(f"p{p}", name, values, voice=f", tic{'abcd'[p]}"))
    return Scene(
        seed=0, personas=tuple(personas), questions=tuple(questions), transcript=Transcript(),
        interview="interview with {name}.", preface="you are {name}.",
        content_free=("the name is", "they say the name"),
    )  # fmt: skip


def build_tokenizer(scene: Scene) -> PreTrainedTokenizerFast:
    """One token per word, mark and line end; <s> in front by default."""
    splitter = pre_tokenizers.Split(Regex(r"[A-Za-z]+|\n|[^\sA-Za-z]"), "removed", invert=True)
    texts = [*scene.content_free, scene.interview, scene.preface, "interview with", " ".join(NAMES), ":\n", "Q A B"]
    for q in scene.questions:
        texts += [*q.asks, q.lead, q.general, q.tail, *q.options]
    for p in scene.personas:
        texts += [*p.values.values(), p.voice]
    words = sorted({w for t in texts for w, _ in splitter.pre_tokenize_str(t)})
    core = Tokenizer(models.WordLevel({w: i for i, w in enumerate(["<s>", "</s>", "<unk>", *words])}, "<unk>"))
    core.pre_tokenizer = splitter
    core.post_processor = processors.TemplateProcessing(single="<s> $A", special_tokens=[("<s>", 0)])
    return PreTrainedTokenizerFast(tokenizer_object=core, bos_token="<s>", eos_token="</s>", unk_token="<unk>")


def make_model(kind: str, vocabulary: int, positions: int = 256, window: int = 256, scale: float = 1.0):
    """A random model; weights are scaled up so that attention matters (a fresh one is nearly a unigram model)."""
    torch.manual_seed(0)
    common = {"vocab_size": vocabulary, "hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2,
              "intermediate_size": 64, "max_position_embeddings": positions, "initializer_range": 0.2 * scale,
              "bos_token_id": 0, "eos_token_id": 1, "pad_token_id": 1}  # fmt: skip
    if kind == "llama":
        model = LlamaForCausalLM(LlamaConfig(**common))
    elif kind == "gemma3":
        model = Gemma3ForCausalLM(
            Gemma3TextConfig(**common, num_key_value_heads=1, head_dim=16, sliding_window=window,
                             layer_types=["sliding_attention", "full_attention"])
        )  # fmt: skip
    elif kind == "gptneox":
        model = GPTNeoXForCausalLM(GPTNeoXConfig(**common))
    else:
        model = GPT2LMHeadModel(
            GPT2Config(vocab_size=vocabulary, n_embd=32, n_layer=2, n_head=2, n_positions=positions,
                       initializer_range=0.2, bos_token_id=0, eos_token_id=1)
        )  # fmt: skip
    return model.eval()
