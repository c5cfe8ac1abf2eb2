"""What of `--on ray` needs no Ray: it is refused without it, what a job is, and what a node has to have."""

import dataclasses
import os

import pytest

from parity import on_ray
from parity.cli import main
from parity.plan import make_plan
from parity.train import GROUP, _groups
from recipes.errors import InputError
from recipes.load import load_recipe
from recipes.schema import Launch
from tests.micro import write_recipe


@pytest.fixture
def recipe(tmp_path):
    return load_recipe(write_recipe(tmp_path), ["seeds=5"])


def test_without_ray_the_extra_is_named_in_a_line(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(on_ray, "find_spec", lambda name: None)
    assert main(["run", str(write_recipe(tmp_path)), "--out", str(tmp_path / "out"), "--on", "ray"]) == 2
    assert capsys.readouterr().err == "--on ray: the package ray is not installed; pip install '.[ray]'\n"
    assert not (tmp_path / "out").exists()


def test_runs_that_are_trained_together_stay_together_and_others_are_jobs_of_their_own(recipe, tmp_path):
    plan = make_plan(recipe, tmp_path)
    groups = list(_groups(plan, plan.cells))
    assert on_ray.apart(recipe, groups) == groups and len(groups) == 2  # 10 runs in groups of 8
    assert len({(c.arm, c.seed) for c in groups[0]}) == GROUP
    alone = recipe.model_copy(update={"launch": Launch(backend="inline")})
    jobs = on_ray.apart(alone, groups)
    assert len(jobs) == 10 and sorted(c.hash for job in jobs for c in job) == sorted(c.hash for c in plan.cells)
    for job in jobs:  # the stages of one run, in their order
        assert len({(c.arm, c.seed) for c in job}) == 1 and [c.stage for c in job] == [0, 1]


def test_a_job_asks_for_what_it_can_use(recipe):
    class Ray:
        def __init__(self, *nodes):
            self.held = [{"Alive": True, "Resources": node} for node in nodes] + [{"Alive": False, "Resources": {}}]

        def nodes(self):
            return self.held

    processes = Ray({"CPU": 8.0}, {"CPU": 4.0})
    real = recipe.model_copy(update={"base": recipe.base.model_copy(update={"world": None, "hub": "org/base"})})
    assert on_ray.resources(processes, recipe, True) == {"num_cpus": 1}  # a world: a thread a process
    assert on_ray.resources(processes, real, True) == {"num_cpus": 4}
    gpus = Ray({"CPU": 8.0}, {"CPU": 64.0, "GPU": 8.0}, {"CPU": 32.0, "GPU": 4.0})
    assert on_ray.resources(gpus, real, True) == {"num_gpus": 1, "num_cpus": 1}
    many = real.model_copy(update={"launch": Launch(backend="process", accelerate="ddp")})
    assert on_ray.resources(gpus, many, True) == {
        "num_gpus": 4,
        "num_cpus": 1,
    }  # any node will do
    assert on_ray.resources(gpus, many, False) == {"num_gpus": 1, "num_cpus": 1}  # measuring takes one


def test_a_node_without_the_folder_or_with_other_versions_is_named(tmp_path):
    seal = tmp_path / "seal"
    seal.write_text("mine")
    ticket = on_ray.Ticket(((str(seal), "mine"),), on_ray.program(), ".", ())
    on_ray.check(ticket)
    node = os.uname().nodename
    other = {**ticket.versions, "peft": "0.1"}
    with pytest.raises(InputError, match=rf"node {node} has peft {ticket.versions['peft']}, and 0\.1 is here"):
        on_ray.check(dataclasses.replace(ticket, versions=other))
    seal.write_text("another's")  # a folder of the same name that is not the same folder
    with pytest.raises(InputError, match=f"node {node} does not see {tmp_path}"):
        on_ray.check(ticket)
    absent = str(tmp_path / "recipe.yaml")
    with pytest.raises(InputError, match=f"does not see {absent}"):
        on_ray.check(on_ray.Ticket(((absent, None),), ticket.versions, ".", ()))


def test_what_is_begun_again_is_not_counted_twice():
    board = on_ray.Board()
    for job, attempt, amount in ((0, "a", 3), (1, "b", 2), (0, "a", 1), (0, "c", 2)):
        board.add(job, attempt, amount)
    assert board.total() == 2 + 2  # of the second attempt at job 0, and job 1
