"""The `parity` command.  Parsing, planning and refusing happen before anything heavy is imported."""

from __future__ import annotations

import argparse
import errno
import json
import os
import sys
from collections.abc import Sequence
from contextlib import redirect_stdout
from pathlib import Path
from typing import TYPE_CHECKING, Any

from parity import dashboard, pin
from parity.calibrate import command as calibration
from parity.export import command as exporting
from parity.jobs import Unfinished
from recipes.errors import InputError, Outage

if TYPE_CHECKING:
    from eval.published import Again

OFFLINE = ("HF_HUB_OFFLINE", "HF_DATASETS_OFFLINE")  # set unless the recipe's base comes from a hub


def parser() -> argparse.ArgumentParser:
    """The command line."""
    top = argparse.ArgumentParser(prog="parity", description="Post-training symmetry experiments, with error bars.")
    commands = top.add_subparsers(dest="command", required=True, metavar="COMMAND")
    run = commands.add_parser("run", help="plan, train, measure, judge, report; resumes by itself")
    run.add_argument("recipe", type=Path, help="a recipe's YAML file")
    run.add_argument("-s", "--set", action="append", default=[], metavar="PATH=VALUE", help="override a setting")
    run.add_argument("--out", type=Path, default=Path("checkpoints"), help="where cells and experiments live")
    run.add_argument("--dry-run", action="store_true", help="say what would be done, and do nothing")
    run.add_argument("--on", choices=("ray",), help="spread runs over a Ray cluster whose nodes share --out")
    run.add_argument("--pilot", type=Path, metavar="EXPERIMENT", help="a folder whose variances power is told from")
    judge = commands.add_parser("judge", help="verdicts and report again, from the rows; of an export, a check")
    judge.add_argument("experiment", type=Path, help="an experiment's folder, or an export, whose rows are held "
                       "against its verdict; then nothing is written")  # fmt: skip
    show = commands.add_parser("show", help="the verdict table in the terminal")
    show.add_argument("experiment", type=Path, help="an experiment's folder")
    show.add_argument("--json", action="store_true", help="verdict.json as it is")
    unblind = commands.add_parser("unblind", help="name the personas of a blind experiment, and record it")
    unblind.add_argument("experiment", type=Path, help="an experiment's folder")
    probes = commands.add_parser("probes", help="all probes: what they measure, from where, and what they can see")
    probes.add_argument("--json", action="store_true", help="every measure, instead of the table")
    probes.add_argument(
        "--record", nargs="+", type=Path, metavar="EXPERIMENT", help="keep what planted experiments show of probes"
    )
    probe = commands.add_parser("probe", help="the suite on any causal LM: a description, without a verdict")
    probe.add_argument("model", help="a hub's name/name, a model folder, a GGUF file, or package:NAME")
    probe.add_argument(
        "--persona", nargs="+", action="extend", required=True, metavar="CARD", help="ids of the cast, or card files"
    )
    probe.add_argument("--adapter", type=Path, metavar="DIR", help="a PEFT adapter on the model")
    probe.add_argument("--probes", metavar="NAMES|TIER", help="names with commas, or a tier (default: by size)")
    probe.add_argument("--out", type=Path, default=Path("checkpoints"), help="where the description goes")
    probe.add_argument("--revision", help="of a hub's model: branch, tag or commit")
    probe.add_argument("--device", help="cpu, cuda, cuda:1 … (default: cuda where there is one)")
    probe.add_argument("--recipe", type=Path, help="binds the personas of a world's base")
    probe.add_argument("--seed", type=int, default=0, metavar="N", help="of the likes, or of the recipe's binding")
    bench = commands.add_parser("bench", help="this lab and the usual route on the same work, timed in one go")
    bench.add_argument("--json", action="store_true", help="every repeat, instead of the table")
    bench.add_argument("--only", metavar="PART,...", help="sft, dpo, score[.world|.smollm2|.gemma], verdict, growth")
    bench.add_argument("--repeats", default="5", metavar="N", help="rounds of each side (default 5)")
    bench.add_argument("--runs", default="16,32", metavar="N,...", help="runs of the sft and dpo parts")
    bench.add_argument("--seeds", default="4", metavar="N", help="seeds of the verdict part")
    bench.add_argument("--every", default="5", metavar="N", help="ask real bases each N-th choice (default 5)")
    bench.add_argument("--recipe", type=Path, help="of the world's parts (default: the quickstart's)")
    bench.add_argument("--gemma", type=Path, metavar="DIR", help="a folder with Gemma, instead of its package")
    bench.add_argument("--out", type=Path, default=Path("checkpoints"), help="where bases are kept")
    calibration.add(commands)
    dashboard.add(commands)
    pin.add(commands)
    exporting.add(commands)
    return top


def main(argv: Sequence[str] | None = None) -> int:
    """Run a command; returns the exit status: 0 finished, 2 wrong input, 1 anything else, 130 interrupted."""
    given = parser().parse_args(argv)
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    try:
        return COMMANDS[given.command](given)
    except InputError as error:
        print(error, file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("interrupted; the same command goes on from here", file=sys.stderr)
        return 130
    except (Outage, Unfinished) as error:
        print(error, file=sys.stderr)
        return 1
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1
    except OSError as error:
        if error.errno in (errno.ENOTDIR, errno.EEXIST, errno.EISDIR, errno.ENAMETOOLONG):
            print(f"{error.filename}: {error.strerror}", file=sys.stderr)
            return 2
        if error.errno not in (errno.ENOSPC, errno.EDQUOT, errno.EACCES, errno.EROFS):
            raise
        print(f"{error.filename or 'disk'}: {error.strerror}; mend it, and the same command goes on", file=sys.stderr)
        return 1


def _run(given: argparse.Namespace) -> int:
    from dataclasses import replace

    from parity.foresee import foresee, lines
    from parity.plan import make_plan
    from parity.progress import say
    from recipes.load import load_recipe

    recipe = load_recipe(given.recipe, given.set)
    if recipe.base.hub is None:
        for name in OFFLINE:
            os.environ.setdefault(name, "1")
    if given.on:
        from parity.on_ray import need

        need()
    plan = replace(make_plan(recipe, given.out.absolute() if given.on else given.out), on=given.on)
    plan.foreseen.update(foresee(plan, given.pilot))
    for line in (*plan.lines(), *lines(plan, plan.foreseen)):
        say(line)
    if given.dry_run:
        return 0
    with redirect_stdout(sys.stderr):  # what libraries print, on import too, must not mix with the table
        from parity.run import run

        verdict = run(plan, given.recipe, given.set)
    _print(verdict)
    say(f"report: {plan.folder / 'report.html'}")
    return 0


def _judge(given: argparse.Namespace) -> int:
    from eval.experiment import judge_experiment
    from eval.published import is_published, judge_again
    from recipes.store import Store

    if is_published(given.experiment):
        return _told_again(judge_again(given.experiment))
    _print(judge_experiment(given.experiment, Store(given.experiment.resolve().parent.parent)))
    return 0


def _told_again(again: Again) -> int:
    """A published experiment: the table of its rows, and whether they say what was published."""
    from parity.progress import say

    _print(again.verdict)
    for line in again.changed:
        say(f"changed since the lock: {line}")
    if again.otherwise:
        of = len(again.verdict["rows"])
        say(f"{len(again.otherwise)} of {of} rows are judged otherwise than published; the first: {again.otherwise[0]}")
        return 1
    say(f"all {len(again.verdict['rows'])} rows are judged as published")
    return 0


def _unblind(given: argparse.Namespace) -> int:
    from eval.blind import unblind

    unblind(given.experiment)
    return _judge(given)


def _read(experiment: Path) -> tuple[str, dict[str, Any]]:
    """The verdict of an experiment, as text and read."""
    path = experiment / "verdict.json"
    try:
        text = path.read_text(encoding="utf-8")
        verdict = json.loads(text)
        if not isinstance(verdict, dict):
            raise ValueError("no verdict")
        return text, verdict
    except (OSError, ValueError) as error:
        raise InputError(f"{path}: no readable verdict; `parity run` or `parity judge` makes it") from error


def _show(given: argparse.Namespace) -> int:
    text, verdict = _read(given.experiment)
    if given.json:
        print(text, end="")
    else:
        _print(verdict)
    return 0


def _probes(given: argparse.Namespace) -> int:
    from eval.listing import probe_table, records
    from eval.probes import discover
    from eval.sensitive import read, record

    if given.record:
        record([_read(experiment)[1] for experiment in given.record])
    probes = list(discover().values())
    if given.json:
        print(json.dumps(records(probes, read()), indent=1, ensure_ascii=False))
        return 0
    from rich.console import Console

    console = Console() if sys.stdout.isatty() else Console(width=120)
    console.print(probe_table(probes, read()))
    return 0


def _probe(given: argparse.Namespace) -> int:
    from parity.asked import Options
    from parity.checkpoint import base_of
    from parity.probe import DESCRIPTION, FOLDER, REPORT, probe
    from parity.progress import say

    if base_of(given.model, given.revision).hub is None:
        for name in OFFLINE:
            os.environ.setdefault(name, "1")
    options = Options(
        given.model, tuple(given.persona), given.adapter, given.probes, given.out, given.revision, given.device,
        given.recipe, given.seed,
    )  # fmt: skip
    with redirect_stdout(sys.stderr):
        found = probe(options)
    from rich.console import Console

    from eval.describe import WIDE, description_table

    console = Console() if sys.stdout.isatty() else Console(width=WIDE)
    console.print(description_table(found["lines"], found["name"], console.width))
    for warning in found["warnings"]:
        console.print(warning, markup=False, highlight=False)
    folder = given.out / FOLDER / found["name"]
    say(f"report: {folder / REPORT}, numbers: {folder / DESCRIPTION}")
    return 0


def _bench(given: argparse.Namespace) -> int:
    from parity.bench.parts import chosen, number, runs_of
    from parity.bench.run import Options, bench

    options = Options(
        parts=tuple(chosen(given.only)),
        repeats=number("--repeats", given.repeats),
        runs=runs_of(given.runs),
        seeds=number("--seeds", given.seeds),
        every=number("--every", given.every),
        out=given.out,
        gemma=given.gemma,
        **({"world": given.recipe} if given.recipe else {}),
    )
    os.environ["WANDB_MODE"] = "disabled"  # neither side is timed with a mirror
    for name in OFFLINE:
        os.environ.setdefault(name, "1")
    with redirect_stdout(sys.stderr):
        found = bench(options)
    if given.json:
        print(json.dumps(found, indent=1, sort_keys=True))
        return 0
    from rich.console import Console

    from parity.bench.table import tables

    console = Console() if sys.stdout.isatty() else Console(width=160)
    for each in tables(found):
        console.print(each, markup=False, highlight=False)
    return 0


def _print(verdict: dict[str, object]) -> None:
    """The verdict table on stdout, nothing else."""
    from rich.console import Console

    from eval import apart
    from eval.blind import told
    from eval.table import sentence, verdict_table

    console = Console() if sys.stdout.isatty() else Console(width=120)
    console.print(verdict_table(verdict))
    for line in (sentence(verdict), *apart.lines(verdict), *told(verdict)):
        console.print(line, markup=False, highlight=False)


COMMANDS = {"run": _run, "judge": _judge, "show": _show, "probes": _probes, "probe": _probe, "bench": _bench}
COMMANDS["calibrate"] = calibration.calibrate
COMMANDS["dashboard"] = dashboard.dashboard
COMMANDS["export"] = exporting.export
COMMANDS["unblind"] = _unblind
COMMANDS["pin"] = pin.pin

if __name__ == "__main__":
    sys.exit(main())
