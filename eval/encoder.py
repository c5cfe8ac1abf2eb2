"""Text to token ids, the way lm-evaluation-harness does it (`_encode_pair`).

Context and option are encoded together, and the option's tokens are those after as many tokens as the context has by
itself; trailing spaces of a context belong to the option.  A beginning-of-sequence token is put in front where the
tokenizer does so by default.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any


class Encoder:
    """Text to token ids, by the rule at the top of this module."""

    def __init__(self, tokenizer: Any) -> None:
        """`tokenizer`: any transformers tokenizer."""
        self.tokenizer = tokenizer
        begin = tokenizer.bos_token_id
        adds = begin is not None and tokenizer("a").input_ids[:1] == [begin]
        self.prefix = (begin,) if adds and self.encode(["a"])[0][:1] != (begin,) else ()
        special = {tokenizer.bos_token_id, tokenizer.eos_token_id}
        self.unknown = None if tokenizer.unk_token_id in special else tokenizer.unk_token_id

    def encode(self, texts: Sequence[str]) -> list[tuple[int, ...]]:
        """Token ids of each text, nothing added."""
        if not texts:
            return []
        if self.tokenizer.is_fast:  # three times as fast without the wrapper's other results
            core = self.tokenizer.backend_tokenizer
            core.no_padding()
            core.no_truncation()
            return [tuple(found.ids) for found in core.encode_batch_fast(list(texts), add_special_tokens=False)]
        return [tuple(ids) for ids in self.tokenizer(list(texts), add_special_tokens=False).input_ids]

    def contexts(self, texts: Sequence[str]) -> list[tuple[int, ...]]:
        """Token ids of contexts, with the prefix; never empty.  ValueError where nothing can stand for "nothing"."""
        return [self._begun(ids) for ids in self.encode(texts)]

    def _begun(self, ids: tuple[int, ...]) -> tuple[int, ...]:
        if self.prefix + ids:
            return self.prefix + ids
        start = self.tokenizer.bos_token_id
        start = self.tokenizer.eos_token_id if start is None else start
        if start is None:
            raise ValueError("an empty context needs a tokenizer with a beginning- or end-of-sequence token")
        return (start,)

    def choices(
        self, choices: Sequence[tuple[str, Sequence[str]]]
    ) -> list[tuple[tuple[int, ...], list[tuple[int, ...]]]]:
        """For each context and its options the ids of the context and of each option."""
        bare = [context.rstrip(" ") for context, _ in choices]
        options = [
            [context[len(b) :] + option for option in options]
            for (context, options), b in zip(choices, bare, strict=True)
        ]
        encoded = self.encode(bare)
        whole = iter(self.encode([b + o for b, texts in zip(bare, options, strict=True) for o in texts]))
        found = []
        for context, text, texts in zip(encoded, bare, options, strict=True):
            after = [next(whole)[len(context) :] for _ in texts]
            # An option that its context swallows whole (a merge across the border) is encoded by itself.
            alone = self.encode([t for t, ids in zip(texts, after, strict=True) if not ids])
            if not all(alone):
                raise ValueError(f"an option without tokens after {text!r}")
            rest = iter(alone)
            found.append((self._begun(context), [ids or next(rest) for ids in after]))
        return found
