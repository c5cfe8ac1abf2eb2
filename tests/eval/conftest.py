"""Fixtures of the engine's and the probes' tests: a scene, its tokenizer, and a tiny random model."""

from __future__ import annotations

from dataclasses import replace

import pytest

from eval.engine import Engine
from eval.items import choice
from recipes.scene import Scene
from tests.eval.tiny import build_scene, build_tokenizer, make_model


@pytest.fixture(scope="session")
def scene() -> Scene:
    """The scene."""
    return build_scene()


@pytest.fixture(scope="session")
def tokenizer(scene):
    """Its tokenizer."""
    return build_tokenizer(scene)


@pytest.fixture(scope="session")
def llama(tokenizer):
    """A tiny random Llama."""
    return make_model("llama", len(tokenizer))


@pytest.fixture(scope="session")
def engine(llama, tokenizer):
    """An engine on it."""
    return Engine(llama, tokenizer)


@pytest.fixture
def choices(scene):
    """Requests of mixed lengths that share prefixes, with options of one to four tokens."""
    found = []
    for q in scene.questions:
        for text in q.asks:
            found.append(choice(scene, q, scene.choice(q, text)))
            found.append(choice(scene, q, scene.choice(q, text, header=scene.header(scene.personas[1]))))
    return [replace(c, options=(*c.options, " it is one")) for c in found]
