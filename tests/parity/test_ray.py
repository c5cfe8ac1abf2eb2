"""A micro experiment on a Ray of two nodes: the same bytes as here, also where a worker is killed.

Needs the extra `ray`, which is no part of `dev` (240 MB), and is not collected without it (see conftest.py):
``pip install '.[ray]' && pytest tests/parity/test_ray.py``.
"""

import os
import subprocess
import sys
import time

import pytest
import ray

from parity import on_ray
from recipes.errors import InputError, Outage
from recipes.load import load_recipe
from tests.micro import parity, write_recipe

FEW = ["-s", "probes=[default_identity,selection]", "-s", "judge.primary=[selection]", "-s", "seeds=5"]
TIMEOUT = 300  # seconds; a run takes a tenth of it on two idle cores


@pytest.fixture(scope="module")
def cluster():
    """Address of a Ray with two nodes of one core, on this machine; connected to it."""
    from ray.cluster_utils import Cluster

    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("RAY_USAGE_STATS_ENABLED", "0")
        made = Cluster(initialize_head=True, head_node_args={"num_cpus": 1, "object_store_memory": on_ray.OBJECTS})
        made.add_node(num_cpus=1, object_store_memory=on_ray.OBJECTS)
        patch.setenv("RAY_ADDRESS", made.address)
        on_ray.connect()
        yield made.address
        ray.shutdown()
        made.shutdown()


def test_a_killed_worker_is_survived_and_the_verdict_is_that_of_one_machine(cluster, tmp_path):
    import psutil

    recipe = write_recipe(tmp_path)
    here = parity("run", recipe, "--out", tmp_path / "here", *FEW)
    assert here.returncode == 0, here.stderr
    out = tmp_path / "there"
    command = [sys.executable, "-m", "parity.cli", "run", str(recipe), "--out", str(out), *FEW, "--on", "ray"]
    environment = {**os.environ, "WANDB_MODE": "disabled", "OMP_NUM_THREADS": "1"}
    there = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment)
    killed, until = None, time.monotonic() + TIMEOUT
    while killed is None and there.poll() is None and time.monotonic() < until:
        training = [path for path in out.glob("cells/.making-*") if (path / "data.jsonl").is_file()]
        named = [(p, (p.info["cmdline"] or [""])[0]) for p in psutil.process_iter(["cmdline"])]
        workers = [process for process, name in named if name.startswith("ray::_job")]
        if training and workers:
            killed = workers[0]
            killed.kill()
        time.sleep(0.05)
    said, told = there.communicate(timeout=TIMEOUT)
    assert there.returncode == 0, told
    assert killed is not None
    assert "on ray     2 nodes, 2 CPUs, 0 GPUs" in told
    assert said == here.stdout  # the table and nothing else
    verdicts = [next((tmp_path / name / "experiments").glob("*/verdict.json")) for name in ("here", "there")]
    assert verdicts[0].read_bytes() == verdicts[1].read_bytes()
    assert not list(out.glob(".ray-*")) and not list(out.glob("cells/.making-*"))


def job(number, folder):
    """A job of these tests, in a worker."""
    from parity.workers import count

    if number == "refuse":
        raise InputError("line 3: no such thing")
    if number == "die":
        os._exit(1)
    (folder / f"{number}").write_text(str(os.getpid()))
    count(int(number))


def spread(tmp_path, jobs, tick=lambda amount: None):
    recipe = load_recipe(write_recipe(tmp_path))
    name = "job {}".format
    run = on_ray._spread(recipe, tmp_path / "store", name, (), False, job, jobs, 2, tmp_path, tick=tick)
    return list(run)


def test_all_jobs_are_done_and_counted(cluster, tmp_path):
    counted = []
    assert sorted(spread(tmp_path, ["1", "2", "4"], counted.append)) == ["1", "2", "4"]
    assert all((tmp_path / name).is_file() for name in "124")
    assert sum(counted) <= 7  # the last look may come before the last word


def test_a_jobs_own_refusal_is_the_one_line_that_it_is_here(cluster, tmp_path):
    with pytest.raises(InputError) as refused:
        spread(tmp_path, ["refuse"])
    assert str(refused.value) == "line 3: no such thing"


def test_a_worker_that_is_lost_too_often_ends_the_run_with_what_is_missing(cluster, tmp_path, monkeypatch):
    monkeypatch.setattr(on_ray, "RETRIES", 1)
    with pytest.raises(Outage, match=r"Ray lost a worker 2 times .*missing: job die; the same command goes on"):
        spread(tmp_path, ["die"])
