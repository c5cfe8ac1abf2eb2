"""The README of an export: the verdict, the files, how to load and to measure them, how to pass them on."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from eval.blind import told
from eval.table import lines, sentence
from eval.wording import failures
from parity.export.cards import Subject, base_words, head, limits, terms, verdict_lines
from parity.export.folder import SUMS
from parity.export.markdown import code, escaped, table
from parity.export.models import BASE_FOLDER, Model
from parity.export.tasks import Task

MOST_MODELS = 200  # of a table; a large cast has thousands


def overview(
    subject: Subject, models: Sequence[Model], tasks: Sequence[Task], failed: Sequence[Mapping[str, Any]], seed: int
) -> str:
    """README.md of the whole; `seed`: whose questions the tasks ask."""
    adapters = any(model.adapter for model in models)
    text = head(subject, [model.stage for model in models], "peft" if adapters else "transformers")
    text += [f"# {escaped(subject.name)}", "", f"Question: {escaped(subject.recipe.question)}", ""]
    text += [escaped(sentence(dict(subject.verdict))), ""]
    text += [line for words in told(subject.verdict) for line in (escaped(words), "")]
    text += table(
        ("what", "which"),
        [
            ("base", base_words(subject.foundation)),
            ("recipe", f"{code(subject.recipe.name)}, hash {code(subject.recipe_hash)}"),
            ("arms", ", ".join(map(code, subject.recipe.arms))),
            ("seeds", str(len(subject.verdict.get("seeds") or []))),
        ],
    )
    text += ["", "## Verdict", "", *verdict_lines(lines(subject.verdict)), ""]
    if failed:
        text += [f"- {escaped(line)}" for line in failures({"failed": list(failed)})] + [""]
    text += ["T: did training favour the persona at all. Δ: did the first gain more in its own arm than the second in "
             "its own. Λ: did training spill differently onto the other. Intervals of 95 % unless verdict.json says "
             "otherwise.", ""]  # fmt: skip
    text += [
        "## Files",
        "",
        *_files(subject, models, tasks),
        "",
        *_models(models),
        *_tasks(subject, models, tasks, seed),
    ]
    text += ["## Pass it on", "", f"    sha256sum -c {SUMS}        # nothing was lost or changed",
             "    parity judge .                 # the rows give this verdict; needs no model",
             "    hf upload OWNER/NAME .         # huggingface-cli upload, in older versions", "",
             "## What it does not show", "", *(f"- {line}" for line in limits(subject))]  # fmt: skip
    return "\n".join([*text, *terms(subject.foundation)]) + "\n"


def _files(subject: Subject, models: Sequence[Model], tasks: Sequence[Task]) -> list[str]:
    found = [
        ("adapters/ARM/seed-N/STAGE-DOSE/", "a PEFT adapter with its card"),
        ("models/ARM/seed-N/STAGE-DOSE/", "a whole model with its card"),
        (f"{BASE_FOLDER}/", "the base that they belong to"),
        ("rows.parquet", "every measurement: cell, arm, seed, stage, dose, probe, measure, item, persona, value, …"),
        ("verdict.json", "the verdicts, with all figures"),
        ("report.html", "the report, to be opened in a browser"),
        ("recipe.lock.yaml", "everything that was fixed before training"),
        ("tasks/", "the probes' choices as tasks of lm-evaluation-harness"),
        (SUMS, "SHA-256 of every file"),
    ]
    kinds = {"adapters": any(m.adapter for m in models), "models": any(not m.adapter for m in models),
             BASE_FOLDER: subject.foundation.exported, "tasks": bool(tasks)}  # fmt: skip
    return table(("file", "what"), [(code(n), w) for n, w in found if kinds.get(n.split("/")[0], True)])


def _models(models: Sequence[Model]) -> list[str]:
    if not models:
        return []
    shown = [(code(m.arm), str(m.seed), code(m.stage), str(m.dose), f"[card]({m.name}/README.md)") for m in models]
    left = len(shown) - MOST_MODELS
    more = ["", f"{left} more lie beside them."] if left > 0 else []
    return ["## Models", "", *table(("arm", "seed", "stage", "dose", "where"), shown[:MOST_MODELS]), *more, ""]


def _tasks(subject: Subject, models: Sequence[Model], tasks: Sequence[Task], seed: int) -> list[str]:
    """How to measure again with lm-evaluation-harness, and what that leaves out."""
    if not tasks:
        return []
    base = subject.foundation
    at = f"pretrained={base.base.hub},revision={base.base.revision}" if base.base.hub else f"pretrained={BASE_FOLDER}"
    # The last stage and dose of the first arm, of the seed whose questions the tasks ask.
    asked = [m for m in models if m.adapter and m.seed == seed]
    first = next((m for m in reversed(asked) if m.arm == asked[0].arm), None)
    worn = ",trust_remote_code=True" if base.base.trust_remote_code else ""
    worn += f",peft={first.name}" if first else ""
    put = "" if base.base.hub or base.exported else f", once the base lies in {code(BASE_FOLDER)}"
    group = f"parity__{first.arm}" if first and first.arm in subject.recipe.arms else "parity"
    precision = subject.recipe.precision
    off = f"but for what `precision: {precision}` rounds, some hundredths of a logit"
    rounding = "to rounding" if precision == "highest" else off
    counted: dict[str, int] = {}
    for task in tasks:
        counted[task.probe.name] = counted.get(task.probe.name, 0) + len(task.documents)
    absent = [n for n in subject.probes if n not in counted]
    lacking = f" No tasks: {', '.join(map(code, absent))}, which ask for more than plain choices." if absent else ""
    return [
        "## Measure it again", "",
        f"In this folder, with lm-evaluation-harness (tried with 0.4.13){put}:", "",
        f"    lm_eval run --model hf --model_args {at},dtype=float32{worn} --include_path tasks --tasks {group} "
        "--log_samples --output_path results", "",
        f"The tasks ask what the probes ask in seed {seed}: its adapters are those to ask. The log-likelihood of every "
        f"option is the one that our rows were made from, {rounding}. `parity__ARM` asks for the options of one arm's "
        "persona, `parity_all` what concerns no persona, `parity_neutral` what has no one target. Left out is what is "
        f"asked under edits, after further training, or of the base alone.{lacking}", "",
        *table(("probe", "choices"), [(code(name), str(count)) for name, count in counted.items()]), "",
    ]  # fmt: skip
