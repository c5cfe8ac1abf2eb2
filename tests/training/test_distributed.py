"""Stages on two processes: the same rows, losses and adapters step by step as on one; killed ones go on."""

import json
import os
import shutil
import subprocess
import sys
from importlib.util import find_spec

import pytest
from safetensors.numpy import load_file

from recipes.errors import InputError

# Batches of 4: in SFT 23 rows make 5 steps and one of 3 rows (two on one process, one on the other), in DPO 46 rows
# make 11 steps and one of 2 (one process has none); both go one step into the next epoch.
STAGES = (
    "stages=["
    "{kind: sft, doses: [2, 7], trainer: {per_device_train_batch_size: 4}, lora: {r: 2}}, "
    "{kind: dpo, doses: [13], lora: {r: 2},"
    " trainer: {per_device_train_batch_size: 2, gradient_accumulation_steps: 2, beta: 0.1}}]"
)
FULL = "stages=[{kind: sft, doses: [2], trainer: {per_device_train_batch_size: 4}, lora: null}]"
# Rounding: sums in another order move a loss of about 3 by some 1e-7, which Adam, dividing small gradients by small
# gradients, makes a few 1e-6 of a weight; a row too many or too few moves the loss of a step by 1e-2 and more.
LOSS, WEIGHT = 1e-5, 5e-5
# What the job says of itself; ends at step STOP of the stage, as a kill does.
JOB = """
import json, os, signal, sys
from importlib import import_module
from pathlib import Path
from transformers import TrainerCallback
from training import stage
from training.saving import sharded
class Told(TrainerCallback):
    def on_train_begin(self, args, state, control, model=None, **_):
        with open(os.environ["TOLD"], "a") as told:
            told.write(json.dumps([args.world_size, args.per_device_train_batch_size, args.gradient_accumulation_steps,
                                   state.global_step, sharded(model)]) + "\\n")
    def on_step_begin(self, args, state, control, **_):
        if os.environ.get("STOP") == str(state.global_step):
            os.kill(os.getpid(), signal.SIGKILL)
if os.environ["ACCELERATE_USE_CPU"] == "false":  # accelerate cuts models for devices only: gloo is told to be theirs
    from accelerate import DistributedType, PartialState
    PartialState._prepare_backend = lambda self, *_, **__: ("gloo", DistributedType.MULTI_GPU)
if "STOP" in os.environ:
    stage.CHECKPOINT_SECONDS = -1
for kind, overrides in json.loads(os.environ["KINDS"]).items():
    make = import_module(f"training.{kind}").make_trainer
    def told(**parts):
        trainer = make(**parts)
        trainer.add_callback(Told())
        return trainer
    code = stage.main(kind, told, [*sys.argv[1:], *overrides])
    if code:
        sys.exit(code)
"""
EVERYWHERE = {"WANDB_MODE": "disabled", "OMP_NUM_THREADS": "1", "ACCELERATE_USE_CPU": "true"}
# What accelerate's launcher makes of recipes/accelerate/fsdp2.yaml and zero3.yaml, but on a CPU.
PIECES = {
    "fsdp2": {
        "ACCELERATE_USE_FSDP": "true", "FSDP_VERSION": "2", "FSDP_AUTO_WRAP_POLICY": "TRANSFORMER_BASED_WRAP",
        "FSDP_STATE_DICT_TYPE": "FULL_STATE_DICT", "FSDP_RESHARD_AFTER_FORWARD": "true",
    },
    "zero3": {
        "ACCELERATE_USE_DEEPSPEED": "true", "ACCELERATE_DEEPSPEED_ZERO_STAGE": "3", "DS_ACCELERATOR": "cpu",
        "ACCELERATE_DEEPSPEED_ZERO3_SAVE_16BIT_MODEL": "true", "ACCELERATE_DEEPSPEED_ZERO3_INIT": "false",
    },
}  # fmt: skip
EVERYWHERE |= {"TOKENIZERS_PARALLELISM": "false", "HF_HUB_OFFLINE": "1"}


def torchrun(folder, recipe, kinds, **environment):
    """Stages of one run under torchrun, each with an override: (completed process, what its processes say)."""
    (folder / "job.py").write_text(JOB)
    told = folder / "told.jsonl"
    told.unlink(missing_ok=True)
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2"]
    command += [str(folder / "job.py"), "--recipe", str(recipe), "--arm", "kennedy", "--seed", "1", "--out", folder]
    given = {"KINDS": json.dumps({kind: ["-s", override] for kind, override in kinds.items()}), "TOLD": str(told)}
    path = os.pathsep.join(filter(None, (os.getcwd(), os.environ.get("PYTHONPATH"))))
    given = {**os.environ, **EVERYWHERE, "PYTHONPATH": path, **given, **environment}
    done = subprocess.run(command, env=given, capture_output=True, text=True, check=False, timeout=300)
    return done, [json.loads(line) for line in told.read_text().splitlines()] if told.is_file() else []


def cells(root):
    found = {}
    for path in (root / "cells").glob("*/manifest.json"):
        found[json.loads(path.read_text())["spec"]["kind"]] = path.parent
    return found


def losses(cell):
    return [json.loads(line)["loss"] for line in (cell / "metrics.jsonl").read_text().splitlines()]


def apart(one, other):
    """The largest difference between two cells' weights, over all their doses."""
    found = []
    for path in sorted(one.glob("dose-*/*.safetensors")):
        ours, theirs = load_file(path), load_file(other / path.relative_to(one))
        assert ours.keys() == theirs.keys()
        found += [abs(ours[name] - theirs[name]).max() for name in ours]
    assert found
    return max(found)


@pytest.fixture(scope="module")
def alone(micro, tmp_path_factory):
    """The run on one process: (recipe file, store)."""
    from tests.micro import write_recipe
    from training import dpo, sft
    from training.cells import stage_cell
    from training.stage import train_stage

    folder = tmp_path_factory.mktemp("alone")
    recipe, store = micro(folder, STAGES)
    for index, module in enumerate((sft, dpo)):
        train_stage(recipe, stage_cell(recipe, "kennedy", 1, index), store, module.make_trainer)
    return write_recipe(folder), store


def begun(alone, folder, *kinds):
    """A store that holds what goes before a stage."""
    for kind in ("base", *kinds):
        cell = cells(alone[1].root)[kind]
        shutil.copytree(cell, folder / "cells" / cell.name)
    return folder


@pytest.fixture(scope="module")
def together(alone, tmp_path_factory):
    """The same on two processes, killed at step 3 of the first stage and launched again."""
    folder = begun(alone, tmp_path_factory.mktemp("together"))
    killed, before = torchrun(folder, alone[0], {"sft": STAGES}, STOP="3")
    assert killed.returncode and list(cells(folder)) == ["base"]
    done, told = torchrun(folder, alone[0], {"sft": STAGES, "dpo": STAGES})
    assert done.returncode == 0, done.stderr[-3000:]
    return folder, before + told, done


def test_both_processes_take_part_share_the_batch_and_go_on_from_the_checkpoint(together):
    _, told, done = together
    # World size, micro-batch, accumulation, step at which it begins: sft, sft again, dpo, each on two processes.
    assert [each[:4] for each in told] == [[2, 2, 1, 0]] * 2 + [[2, 2, 1, 3]] * 2 + [[2, 2, 1, 0]] * 2
    assert len([line for line in done.stderr.splitlines() if line.startswith(("sft kennedy", "dpo kennedy"))]) == 2


@pytest.mark.parametrize("kind", ("sft", "dpo"))
def test_steps_and_adapters_are_those_of_one_process(alone, together, kind):
    ours, theirs = cells(together[0])[kind], cells(alone[1].root)[kind]
    assert ours.name == theirs.name  # how many processes made a cell is not in its hash
    assert len(losses(theirs)) == {"sft": 7, "dpo": 13}[kind]
    assert losses(ours) == pytest.approx(losses(theirs), abs=LOSS)
    assert apart(ours, theirs) < WEIGHT
    assert {p.relative_to(ours) for p in ours.rglob("*")} == {p.relative_to(theirs) for p in theirs.rglob("*")}
    for name in ("data.jsonl", "trl.yaml", f"dose-{ {'sft': 7, 'dpo': 13}[kind] }/adapter_config.json"):
        assert (ours / name).read_bytes() == (theirs / name).read_bytes()


@pytest.mark.parametrize("strategy", [name for name in PIECES if name != "zero3" or find_spec("deepspeed")])
def test_a_model_in_pieces_is_saved_whole(micro, alone, tmp_path, strategy):
    """The adapter of a DPO run (with TRL's frozen copy beside it), and full weights with tied embeddings.

    ZeRO-3 where the extra `deepspeed` is installed.
    """
    from training import sft
    from training.cells import stage_cell
    from training.stage import train_stage

    recipe, store = micro(tmp_path / "full", FULL)
    train_stage(recipe, stage_cell(recipe, "kennedy", 1, 0), store, sft.make_trainer)
    folder = begun(alone, tmp_path / "pieces", "sft")
    environment = {**PIECES[strategy], "ACCELERATE_USE_CPU": "false", "ACCELERATE_TORCH_DEVICE": "cpu"}
    done, told = torchrun(folder, alone[0], {"dpo": STAGES, "sft": FULL}, **environment)
    assert done.returncode == 0, done.stderr[-3000:]
    assert [each[0] for each in told] == [2] * 4 and all(each[4] for each in told)  # none held all of it
    for kind, theirs in (("dpo", cells(alone[1].root)["dpo"]), ("sft", cells(store.root)["sft"])):
        ours = folder / "cells" / theirs.name
        assert losses(ours) == pytest.approx(losses(theirs), abs=LOSS), kind
        assert apart(ours, theirs) < WEIGHT


def test_one_process_that_sees_two_devices_takes_one_batch(alone, micro, tmp_path, monkeypatch):
    """transformers would put the model on both, and a batch on each, which TRL refuses."""
    import torch

    from training import sft
    from training.cells import stage_cell
    from training.stage import train_stage

    seen = []

    def make_trainer(**parts):
        trainer = sft.make_trainer(**parts)
        seen.append((trainer.args._n_gpu, trainer.args.n_gpu, trainer._train_batch_size))
        return trainer

    recipe, store = micro(tmp_path, STAGES)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    train_stage(recipe, stage_cell(recipe, "kennedy", 1, 0), store, make_trainer)
    assert seen == [(2, 1, 4)]
    ours, theirs = cells(store.root)["sft"], cells(alone[1].root)["sft"]
    assert losses(ours) == losses(theirs) and apart(ours, theirs) == 0


def test_processes_that_do_not_find_one_another_are_refused(monkeypatch):
    from training.processes import together

    assert together({}) == 1
    for name in ("WORLD_SIZE", "PARITY_PROCESSES"):  # as torchrun and the launcher say; this process has met nobody
        with monkeypatch.context() as patch:
            patch.setenv(name, "2")
            with pytest.raises(InputError, match="2 processes were asked for, and 1 found .* ACCELERATE_USE_CPU=true"):
                together({})


def test_a_worlds_base_is_not_trained_by_processes_that_wait_for_one_another(micro, tmp_path, monkeypatch):
    from recipes.store import Store
    from training.sft import make_trainer
    from training.stage import run_one

    recipe, _ = micro(tmp_path)
    monkeypatch.setenv("WORLD_SIZE", "2")
    with pytest.raises(InputError, match="trained by one process"):
        run_one("sft", make_trainer, recipe, "kennedy", 0, Store(tmp_path / "empty"))
    assert not (tmp_path / "empty").exists()
