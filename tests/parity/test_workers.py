"""Processes at once: one for each GPU, which sees that one alone."""

import os
import time
from pathlib import Path

import pytest

from parity import train, workers
from parity.plan import make_plan
from recipes.load import load_recipe
from recipes.schema import Recipe
from tests.micro import write_recipe

GPUS = ("3", "GPU-7f")  # ids as CUDA_VISIBLE_DEVICES has them: numbers or names


def see(name: str, folder: Path, together: int) -> None:
    """Say which GPU this process was given, once as many processes as GPUs are at work."""
    (folder / name).write_text(f"{os.environ.get('CUDA_VISIBLE_DEVICES')} {os.getpid()}")
    while len({file.read_text() for file in folder.iterdir()}) < together:
        pass


@pytest.fixture
def two_gpus(monkeypatch):
    monkeypatch.setattr(workers, "devices", lambda: GPUS)


def test_each_process_sees_a_gpu_of_its_own(two_gpus, tmp_path):
    jobs = ["one", "other", "third", "fourth"]
    assert set(workers.spread(see, jobs, 2, tmp_path, 2)) == set(jobs)
    seen = [(tmp_path / name).read_text().split() for name in jobs]
    assert {gpu for gpu, _ in seen} == set(GPUS)
    assert len({pid for _, pid in seen}) == len({(gpu, pid) for gpu, pid in seen}) == 2
    assert "CUDA_VISIBLE_DEVICES" not in os.environ or os.environ["CUDA_VISIBLE_DEVICES"] not in GPUS


def fail_first(name: str, folder: Path) -> None:
    """Work of which the first fails; the others leave a file."""
    if name == "first":
        raise ValueError(name)
    (folder / name).touch()
    time.sleep(0.05)


def test_a_failure_cancels_what_has_not_begun(tmp_path):
    jobs = ["first", *(f"job-{n}" for n in range(60))]
    with pytest.raises(ValueError, match="first"):
        list(workers.spread(fail_first, jobs, 2, tmp_path))
    assert len(list(tmp_path.iterdir())) < 30  # what was begun or handed over before the failure was seen


def test_as_many_processes_as_gpus_or_jobs(two_gpus):
    recipe = Recipe.model_construct(base=None)  # with GPUs it does not matter which
    assert [workers.workers_for(recipe, jobs) for jobs in (0, 1, 2, 3)] == [1, 1, 2, 2]


def test_without_gpus_only_small_bases_are_spread(monkeypatch, tmp_path):
    monkeypatch.setattr(workers, "devices", lambda: ())
    monkeypatch.setattr(workers, "cores", lambda: 4)
    small = load_recipe(write_recipe(tmp_path))
    assert [workers.workers_for(small, jobs) for jobs in (1, 3, 9)] == [1, 3, 4]
    large = small.model_copy(update={"base": small.base.model_copy(update={"world": None, "path": "x"})})
    assert workers.workers_for(large, 9) == 1


@pytest.mark.parametrize(("gpus", "sizes"), [(0, [8, 4]), (1, [8, 4]), (2, [6, 6]), (5, [3, 3, 3, 3]), (40, [1] * 12)])
def test_runs_of_a_real_base_are_grouped_for_all_gpus(gpus, sizes, monkeypatch, tmp_path):
    monkeypatch.setattr(workers, "devices", lambda: tuple(map(str, range(gpus))))
    recipe = load_recipe("recipes/pair-1b.yaml", ["seeds=6"])  # 2 arms x 6 seeds; nothing is fetched for a plan
    plan = make_plan(recipe, tmp_path)
    groups = list(train._groups(plan, plan.cells))
    assert [len({(cell.arm, cell.seed) for cell in group}) for group in groups] == sizes
    assert [cell for group in groups for cell in group] == list(plan.cells)
