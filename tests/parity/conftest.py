"""Fixtures of the commands' tests: the environment as it was, and models such as others leave them."""

from __future__ import annotations

from importlib.util import find_spec
from pathlib import Path

import pytest

# Ray is an extra of its own, too large for `dev`.
collect_ignore = [] if find_spec("ray") else ["test_ray.py"]


@pytest.fixture(autouse=True)
def environment(monkeypatch):
    """The command sets these where they are not set; they go with the test."""
    for name in ("HF_HUB_OFFLINE", "HF_DATASETS_OFFLINE", "TOKENIZERS_PARALLELISM"):
        monkeypatch.setenv(name, "false" if name.startswith("TOK") else "1")


@pytest.fixture(scope="module")
def models(tmp_path_factory) -> Path:
    """See `make_models`."""
    from tests.parity.foreign import make_models

    return make_models(tmp_path_factory.mktemp("models"))
