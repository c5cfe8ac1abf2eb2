"""One small base for all tests of training."""

import shutil

import pytest

from recipes.load import load_recipe
from recipes.store import Store
from tests.micro import write_recipe


@pytest.fixture(scope="session")
def micro(tmp_path_factory):
    """Makes a fresh store that holds the micro base: ``micro(folder, *overrides) -> (recipe, store)``."""
    from parity.train import quiet
    from training.base import make_base
    from training.cells import base_cell

    quiet()
    folder = tmp_path_factory.mktemp("base")
    path = write_recipe(folder)
    recipe = load_recipe(path)
    store = Store(folder / "out")
    make_base(recipe, store)
    base = store.cell(base_cell(recipe).hash)

    def fresh(where, *overrides):
        shutil.copytree(base, where / "cells" / base.name)
        return load_recipe(path, overrides), Store(where)

    return fresh
