"""Jobs on lanes: devices, ports and order; failures, kills and interrupts; and one cell by the real launcher."""

import errno
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest

from parity.jobs import PORT, Job, Jobs, told
from recipes.errors import InputError
from recipes.load import load_recipe
from tests.micro import RECIPE, write_recipe

PYTHON = (sys.executable, "-S", "-E", "-c")  # without the site's packages it starts within 20 ms
# Writes when it began and ended, on what device and port.
RECORD = """
import json, os, sys, time
path, port, seconds = sys.argv[1:4]
began = time.monotonic()
time.sleep(float(seconds))
line = [os.path.basename(path), os.environ.get("CUDA_VISIBLE_DEVICES"), int(port), began, time.monotonic()]
open(path, "w").write(json.dumps(line))
"""
GPUS = [{"CUDA_VISIBLE_DEVICES": str(i)} for i in range(3)]


def record(folder, name, after=(), seconds=0.15):
    command = (*PYTHON, RECORD, str(folder / name), PORT, str(seconds))
    return Job(name, f"cell {name}", command, tuple(after))


def python(name, code, after=()):
    return Job(name, f"cell {name}", (*PYTHON, code), tuple(after))


def records(folder):
    return {line[0]: line[1:] for line in (json.loads(p.read_text()) for p in folder.iterdir())}


def test_jobs_at_once_have_devices_and_ports_of_their_own_and_chains_keep_their_order(tmp_path):
    chains = [record(tmp_path, f"{run}{stage}", [f"{run}{stage - 1}"]) for run in "abcd" for stage in range(3)]
    most, told_of = [], []
    jobs = Jobs(GPUS, begun=lambda running: most.append(len(running)), ended=told_of.append)
    assert jobs.run(chains) == []
    assert max(most) == 3 and sorted(job.key for job in told_of) == sorted(job.key for job in chains)
    found = records(tmp_path)
    assert {device for device, *_ in found.values()} == {"0", "1", "2"}
    for run in "abcd":
        for stage in (1, 2):
            assert found[f"{run}{stage}"][2] > found[f"{run}{stage - 1}"][3]
    together = [
        (one, other)
        for name, one in found.items() for another, other in found.items()
        if name < another and one[2] < other[3] and other[2] < one[3]
    ]  # fmt: skip
    assert together
    for one, other in together:
        assert one[0] != other[0] and one[1] != other[1]


def test_one_lane_runs_one_job_at_a_time_in_order(tmp_path):
    assert Jobs([{}]).run([record(tmp_path, name, seconds=0.01) for name in "cab"]) == []
    times = sorted(records(tmp_path).items(), key=lambda item: item[1][2])
    assert [name for name, _ in times] == ["c", "a", "b"]
    assert all(before[1][3] < after[1][2] for before, after in zip(times, times[1:], strict=False))


def test_after_a_failure_what_runs_ends_well_and_nothing_else_begins(tmp_path, capsys):
    jobs = [
        python("bad", "print('first line'); raise ValueError('the reason')"),
        record(tmp_path, "beside", seconds=0.6),
        record(tmp_path, "follows", ["bad"]),
        record(tmp_path, "other"),
    ]
    left = Jobs(GPUS[:2]).run(jobs)
    assert [job.key for job in left] == ["bad", "follows", "other"]
    assert list(records(tmp_path)) == ["beside"]
    said = capsys.readouterr().out
    assert said.startswith("cell bad failed (exit 1)\n") and "ValueError: the reason" in said and "first line" in said
    assert "waiting for what runs: cell beside" in said


def test_a_job_that_makes_nothing_has_failed_and_one_that_is_not_wanted_is_left_out(tmp_path, capsys):
    assert [job.key for job in Jobs([{}], done=lambda job: False).run([record(tmp_path, "a")])] == ["a"]
    assert "cell a ended without making anything" in capsys.readouterr().out
    ended = []
    jobs = Jobs([{}], wanted=lambda job: job.key != "b", ended=lambda job: ended.append(job.key))
    assert jobs.run([record(tmp_path, "b"), record(tmp_path, "c", ["b"])]) == []
    assert ended == ["b", "c"] and not (tmp_path / "b").exists()


def test_a_killed_job_is_named_with_its_signal(capsys):
    assert Jobs([{}]).run([python("x", "import os; os.kill(os.getpid(), 9)")])
    assert capsys.readouterr().out == "cell x: killed by SIGKILL (out of memory, or ended by someone)\n"


def launched(code, *launcher):
    """What a real launcher says of a worker that runs `code`."""
    command = [sys.executable, "-m", *launcher, str(code)]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "ACCELERATE_USE_CPU": "true"}
    done = subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, env=environment)
    return done.returncode, done.stdout


@pytest.mark.parametrize(
    "launcher",
    [("accelerate.commands.launch", "--cpu"), ("torch.distributed.run", "--standalone", "--nproc_per_node", "2")],
    ids=["accelerate", "torchrun"],
)
def test_what_launchers_say_of_a_killed_or_failing_worker_is_understood(tmp_path, launcher):
    script = tmp_path / "worker.py"
    script.write_text(
        "import os, time\n"
        "if os.environ.get('RANK', '0') == '0':\n"
        "    print('CUDA error: uncorrectable ECC error encountered', flush=True)\n"
        "    os.kill(os.getpid(), 9)\n"
        "time.sleep(30)\n"
    )
    code, output = launched(script, *launcher)
    assert code
    line, *rest = told("dpo x seed 3", code, output).splitlines()
    assert line == "dpo x seed 3: killed by SIGKILL: CUDA error: uncorrectable ECC error encountered"
    assert len(rest) < 15 and not any("accelerate/commands" in part for part in rest)


def test_the_launchers_own_traceback_does_not_hide_the_workers():
    output = (
        "step 1\nTraceback (most recent call last):\n  File \"training/sft.py\", line 9\nValueError: the reason\n"
        "Traceback (most recent call last):\n  File \"/x/accelerate/commands/launch.py\", line 1\n" + "  frame\n" * 20
    )  # fmt: skip
    assert told("a", 1, output).splitlines()[-1] == "  ValueError: the reason"


def test_a_full_disk_is_told_in_one_line(tmp_path, capsys):
    code = "import errno, os; raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), '/x/dose-4/model.safetensors')"
    with pytest.raises(OSError) as caught:
        Jobs([{}], disk="/x").run([python("a", code), record(tmp_path, "b")])
    assert caught.value.errno == errno.ENOSPC and caught.value.filename == "/x"
    assert capsys.readouterr().out == "" and not list(tmp_path.iterdir())


def test_a_port_that_someone_took_is_no_failure(tmp_path):
    flag = tmp_path / "tried"
    code = (
        f"import os, sys; first = not os.path.exists({str(flag)!r}); open({str(flag)!r}, 'a').write(sys.argv[1] + ' ');"
        "sys.exit('EADDRINUSE: address already in use' if first else 0)"
    )
    assert Jobs([{}]).run([Job("a", "a", (*PYTHON, code, PORT))]) == []
    assert len(set(flag.read_text().split())) == 2


def alive(pid):
    """Whether the process runs; one that has ended may stay in the table where nobody asks for it."""
    try:
        return psutil.Process(pid).status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


@pytest.mark.parametrize("number, status", [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_an_interrupt_ends_the_jobs_and_what_they_started(tmp_path, number, status):
    """The job's child has a session of its own, as torchrun's workers have, and does not listen to SIGTERM."""
    child = "import signal, time; signal.signal(15, signal.SIG_IGN); print(1, flush=True); time.sleep(60)"
    job = (
        "import subprocess, sys, os, time\n"
        f"p = subprocess.Popen([sys.executable, '-S', '-c', {child!r}], start_new_session=True, stdout=-1)\n"
        f"p.stdout.readline(); open({str(tmp_path / 'pids')!r} + '.part', 'w').write(f'{{os.getpid()}} {{p.pid}}')\n"
        f"os.rename({str(tmp_path / 'pids')!r} + '.part', {str(tmp_path / 'pids')!r}); time.sleep(60)"
    )
    parent = (
        "import sys\nfrom parity import jobs\njobs.END_SECONDS = 0.5\n"
        f"try:\n    jobs.Jobs([{{}}]).run([jobs.Job('a', 'a', (sys.executable, '-S', '-c', {job!r}))])\n"
        "except KeyboardInterrupt:\n    sys.exit(130)\n"
    )
    process = subprocess.Popen([sys.executable, "-c", parent])
    limit = time.monotonic() + 30
    while not (tmp_path / "pids").exists() and time.monotonic() < limit:
        time.sleep(0.02)
    pids = [int(pid) for pid in (tmp_path / "pids").read_text().split()]
    assert all(map(alive, pids))
    process.send_signal(number)
    assert process.wait(20) == status
    assert not any(map(alive, pids))


def set_up(recipe_text, tmp_path, *overrides):
    from parity.launching import set_up
    from training.cells import stage_cells

    recipe = load_recipe(write_recipe(tmp_path, recipe_text), overrides)
    return set_up(recipe, list(stage_cells(recipe)))


def test_a_config_for_one_gpu_gives_each_gpu_a_job_and_one_for_all_gives_them_to_one(tmp_path, monkeypatch):
    import torch

    monkeypatch.setattr(torch.cuda, "device_count", lambda: 4)
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    single = set_up(RECIPE, tmp_path, "launch.accelerate=single")
    assert [lane["CUDA_VISIBLE_DEVICES"] for lane in single.lanes] == ["0", "1", "2", "3"] and single.processes == 1
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "5,GPU-ab,2,7")
    lanes = set_up(RECIPE, tmp_path, "launch.accelerate=single").lanes
    assert [lane["CUDA_VISIBLE_DEVICES"] for lane in lanes] == ["5", "GPU-ab", "2", "7"]
    assert len(set_up(RECIPE, tmp_path, "launch.accelerate=cpu").lanes) == 1
    for name in ("ddp", "fsdp2"):
        found = set_up(RECIPE, tmp_path, f"launch.accelerate={name}")
        assert found.processes == 4 and len(found.lanes) == 1 and "CUDA_VISIBLE_DEVICES" not in found.lanes[0]


def test_what_cannot_be_launched_is_said_before_anything_is(tmp_path, monkeypatch):
    import torch

    from parity import launching

    monkeypatch.setattr(torch.cuda, "device_count", lambda: 0)
    assert [set(lane) for lane in set_up(RECIPE, tmp_path, "launch.accelerate=single").lanes] == [{"PARITY_LAUNCHER"}]
    with pytest.raises(InputError, match="ddp needs GPUs, and none is visible"):
        set_up(RECIPE, tmp_path, "launch.accelerate=ddp")
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 3)
    with pytest.raises(InputError, match=r"8 x gradient_accumulation_steps 1 cannot be shared by 3 .*: 1, 2, 4, 8$"):
        set_up(RECIPE, tmp_path, "launch.accelerate=ddp")
    monkeypatch.setattr(launching, "find_spec", lambda name: None)
    with pytest.raises(InputError, match=r"deepspeed is not installed; run: pip install -e '\.\[deepspeed\]'"):
        set_up(RECIPE, tmp_path, "launch.accelerate=zero3")
    (tmp_path / "own.yaml").write_text("distributed_type: 'NO'\nnum_procesess: 2\n")
    with pytest.raises(InputError, match="own.yaml: accelerate cannot read it: .*num_procesess"):
        set_up(RECIPE, tmp_path, f"launch.accelerate={tmp_path / 'own.yaml'}")


@pytest.mark.parametrize("name", ["ddp", "fsdp2", "zero3"])
def test_shipped_configs_say_to_accelerate_what_they_promise(name, monkeypatch):
    """Through accelerate's own launcher up to the environment that it would give its workers."""
    from accelerate.commands.launch import _validate_launch_command, launch_command_parser
    from accelerate.utils import launch

    from recipes.checks import ACCELERATE

    arguments = ["--config_file", str(ACCELERATE / f"{name}.yaml"), "--num_processes", "4", "--main_process_port", "1"]
    given, defaults, _ = _validate_launch_command(launch_command_parser().parse_args([*arguments, "script.py"]))
    assert given.num_processes == 4 and given.mixed_precision == "no"
    assert (given.multi_gpu, given.use_fsdp, given.use_deepspeed) == (name == "ddp", name == "fsdp2", name == "zero3")
    if name == "zero3":
        given.deepspeed_fields_from_accelerate_config = ",".join(defaults.deepspeed_config)
        _, environment = launch.prepare_deepspeed_cmd_env(given)
        assert environment["ACCELERATE_DEEPSPEED_ZERO_STAGE"] == "3"
        assert environment["ACCELERATE_DEEPSPEED_ZERO3_SAVE_16BIT_MODEL"] == "true"
        assert "ACCELERATE_GRADIENT_ACCUMULATION_STEPS" not in environment  # the stage's
        return
    environment = launch.prepare_multi_gpu_env(given)
    if name == "fsdp2":
        from accelerate.utils import FullyShardedDataParallelPlugin

        for key, value in environment.items():
            if key.startswith("FSDP_"):
                monkeypatch.setenv(key, value)
        plugin = FullyShardedDataParallelPlugin()
        assert plugin.fsdp_version == 2 and plugin.reshard_after_forward is True
        assert plugin.auto_wrap_policy.__name__ == "transformer_auto_wrap_policy"
        assert "FULL_STATE_DICT" in str(plugin.state_dict_type) and not plugin.activation_checkpointing


# As `ddp`, for two processes of a CPU.
TWO = "{distributed_type: MULTI_GPU, num_processes: 2, num_machines: 1, machine_rank: 0, use_cpu: true}"


def test_the_real_launcher_makes_a_cell_with_two_processes(tmp_path, monkeypatch):
    from parity.launching import launch
    from parity.train import Making, quiet
    from recipes.store import Store
    from training.base import make_base
    from training.cells import stage_cell

    quiet()
    (tmp_path / "two.yaml").write_text(TWO)
    path = write_recipe(tmp_path, RECIPE.replace("steps: 30", "steps: 2"))
    overrides = (f"launch.accelerate={tmp_path / 'two.yaml'}", "launch.backend=process")
    recipe = load_recipe(path, overrides)
    store = Store(tmp_path / "out")
    make_base(recipe, store)
    monkeypatch.setenv("WANDB_MODE", "disabled")
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    cell = stage_cell(recipe, "kennedy", 1, 0)
    ticks, notes = [], []
    launch(Making(recipe, store.root, path, overrides), [cell], ticks.append, notes.append)
    store.check(cell.hash)
    assert sum(ticks) == cell.spec["steps"][-1] and notes == ["sft kennedy seed 1"]
    assert not list(Path(store.root / "cells").glob(".making-*"))
