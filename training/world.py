"""The in-vitro base model: a word-level tokenizer and a small Llama, trained from scratch on the world's corpus."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import torch
from tokenizers import Regex, Tokenizer, models, pre_tokenizers, processors
from torch.utils.data import IterableDataset
from transformers import (
    LlamaConfig,
    LlamaForCausalLM,
    PreTrainedTokenizerFast,
    PrinterCallback,
    Trainer,
    TrainerCallback,
    TrainingArguments,
    set_seed,
)
from transformers.trainer import TRAINER_STATE_NAME

from recipes.schema import Transcript, World
from recipes.world import HEAD_SIZE, Content
from training.corpus import Corpus

ROW = 192  # tokens of a packed row; the longest context of a probe has about as many
ROWS = 12  # rows of a batch; four times as many at a quarter of the steps learned no fact in the same time
VOCABULARY_SAMPLE = 4000  # documents that surely hold every word of a world
LEARNING_RATE = 4e-3
CHECKPOINT_EVERY = 100  # steps; what a kill can cost


def make_tokenizer(content: Content, transcript: Transcript) -> PreTrainedTokenizerFast:
    """One token per word, punctuation mark and line end, so that no name or value is longer than another."""
    corpus = Corpus(content, transcript, seed=0)
    words: dict[str, None] = {}
    splitter = pre_tokenizers.Split(Regex(r"[A-Za-z]+|\n|[^\sA-Za-z]"), "removed", invert=True)
    documents = corpus.documents()
    for _ in range(VOCABULARY_SAMPLE):
        words.update(dict.fromkeys(w for w, _ in splitter.pre_tokenize_str(next(documents))))
    words.update(dict.fromkeys([*content.names, *content.voices, *(v for row in content.values for v in row)]))
    for question in content.questions:
        for text in (*question.asks, question.lead, *question.options):
            words.update(dict.fromkeys(w for w, _ in splitter.pre_tokenize_str(text)))
    vocabulary = {w: i for i, w in enumerate(["<s>", "</s>", "<unk>", *sorted(words)])}
    core = Tokenizer(models.WordLevel(vocabulary, unk_token="<unk>"))
    core.pre_tokenizer = splitter
    core.post_processor = processors.TemplateProcessing(single="<s> $A", special_tokens=[("<s>", 0)])
    return PreTrainedTokenizerFast(
        tokenizer_object=core, bos_token="<s>", eos_token="</s>", unk_token="<unk>", pad_token="</s>"
    )


class Rows(IterableDataset):
    """Packed rows of the corpus, [ROW] token ids each; the stream starts anew on every iteration."""

    def __init__(self, corpus: Callable[[], Corpus], tokenizer: PreTrainedTokenizerFast) -> None:
        self.corpus, self.tokenizer = corpus, tokenizer

    def __iter__(self) -> Iterator[dict[str, torch.Tensor]]:
        held: list[int] = []
        documents = self.corpus().documents()
        while True:
            batch = self.tokenizer([next(documents) for _ in range(64)])["input_ids"]
            for ids in batch:
                held += [*ids, self.tokenizer.eos_token_id]
            while len(held) >= ROW:
                ids, held = torch.tensor(held[:ROW]), held[ROW:]
                yield {"input_ids": ids, "labels": ids}


def whole_checkpoint(scratch: Path) -> str | None:
    """The last checkpoint that was written to its end, which is its state; what a kill cut off is removed."""
    for folder in sorted(scratch.glob("checkpoint-*"), key=lambda f: int(f.name.rsplit("-", 1)[1]), reverse=True):
        try:
            json.loads((folder / TRAINER_STATE_NAME).read_text(encoding="utf-8"))
        except (OSError, ValueError):
            shutil.rmtree(folder)
        else:
            return str(folder)
    return None


def train_world(
    world: World,
    content: Content,
    transcript: Transcript,
    folder: Path,
    scratch: Path,
    callbacks: list[TrainerCallback] | None = None,
) -> dict[str, Any]:
    """Train the base into `folder`; checkpoints in `scratch` let a killed run go on.  Returns the final loss (nats)."""
    tokenizer = make_tokenizer(content, transcript)
    set_seed(world.seed)
    model = LlamaForCausalLM(
        LlamaConfig(
            vocab_size=len(tokenizer),
            hidden_size=world.width,
            intermediate_size=3 * world.width,
            num_hidden_layers=world.layers,
            num_attention_heads=max(1, world.width // HEAD_SIZE),
            max_position_embeddings=1024,
            tie_word_embeddings=True,
            bos_token_id=tokenizer.bos_token_id,
            eos_token_id=tokenizer.eos_token_id,
            pad_token_id=tokenizer.pad_token_id,
        )
    )
    arguments = TrainingArguments(
        output_dir=str(scratch),
        max_steps=world.steps,
        per_device_train_batch_size=ROWS,
        learning_rate=LEARNING_RATE,
        lr_scheduler_type="cosine",
        warmup_steps=min(50, world.steps // 10),
        weight_decay=0.01,
        adam_beta2=0.98,
        seed=world.seed,
        save_steps=CHECKPOINT_EVERY,
        save_total_limit=1,
        logging_steps=20,
        report_to=[],
        disable_tqdm=True,
        dataloader_pin_memory=False,
    )
    arguments._n_gpu = min(arguments._n_gpu, 1)  # or each GPU that is visible would take a batch of its own
    trainer = Trainer(
        model=model,
        args=arguments,
        train_dataset=Rows(lambda: Corpus(content, transcript, world.seed), tokenizer),
        callbacks=callbacks,
    )
    trainer.remove_callback(PrinterCallback)  # standard output is the table's
    result = trainer.train(resume_from_checkpoint=whole_checkpoint(scratch))
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return {"loss": result.training_loss, "parameters": sum(p.numel() for p in model.parameters())}
