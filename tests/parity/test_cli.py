"""The front door answers without anything heavy, and says what is wrong in one line."""

import subprocess
import sys
from pathlib import Path

import pytest

from tests.micro import parity, write_recipe

ROOT = Path(__file__).parents[2]
HEAVY = ("torch", "transformers", "trl", "peft", "accelerate", "wandb", "datasets", "matplotlib", "scipy", "polars")


@pytest.mark.parametrize("arguments", [["--help"], ["run", "recipes/quickstart.yaml", "--dry-run"]])
def test_nothing_heavy_is_imported(arguments):
    code = (
        f"import sys\nfrom parity.cli import main\ntry:\n    main({arguments!r})\nexcept SystemExit:\n    pass\n"
        f"print([m for m in {HEAVY!r} if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stdout.strip().endswith("[]"), done.stdout


def test_a_dry_run_says_what_would_be_done_and_does_nothing(tmp_path):
    done = parity("run", ROOT / "recipes" / "quickstart.yaml", "--dry-run", "--out", tmp_path / "out")
    assert done.returncode == 0 and done.stdout == ""
    assert "64 = 2 arms x 16 seeds x 2 stages; 64 to train" in done.stderr
    assert not (tmp_path / "out").exists() and "\ndoses " not in done.stderr
    few = parity("run", ROOT / "recipes" / "quickstart.yaml", "--dry-run", "-s", "stages.1.doses=[4, 40]")
    assert "\ndoses      2 in dpo: with fewer than 5 " in few.stderr


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["judge", "nowhere"], "no experiment is here"),
        (["show", "nowhere"], "no readable verdict"),
        (["run", "recipes/quickstrt.yaml"], "quickstart.yaml"),
        (["run", "recipes/quickstart.yaml", "-s", "seedz=3"], "seeds"),
    ],
)
def test_wrong_input_is_one_line_and_exit_2(arguments, said):
    done = parity(*arguments, cwd=ROOT)
    assert done.returncode == 2
    assert len(done.stderr.strip().splitlines()) == 1 and said in done.stderr


def test_every_shipped_recipe_plans(tmp_path):
    for recipe in sorted((ROOT / "recipes").glob("*.yaml")):
        if "base:" not in recipe.read_text():
            continue  # the question bank
        done = parity("run", recipe, "--dry-run", "--out", tmp_path / "out")
        extra_missing = done.returncode == 2 and "pip install" in done.stderr
        assert done.returncode == 0 or extra_missing, done.stderr


def test_a_micro_recipe_is_a_recipe(tmp_path):
    assert parity("run", write_recipe(tmp_path), "--dry-run", "--out", tmp_path / "out").returncode == 0
