"""`parity probe`: a checkpoint from elsewhere is described, whole and again to the same bytes, or refused in a line."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import polars as pl
import pytest
import torch

from eval.cells import COLUMNS
from eval.engine import Engine
from eval.measure import Suite
from eval.probes import select
from parity.asked import Options, scene_for
from parity.cli import main
from tests.parity.foreign import adapted, make_model, make_tokenizer, probed, save
from training import bases

ROOT = Path(__file__).parents[2]
VERDICTS = re.compile(r"\b(broken|symmetric|undetermined|insensitive|saturated)\b")
PROBES = ("selection", "capability", "self_entropy")  # of personas, of the arm, and one that has texts written
CLOSE = 1e-4  # of a log-odds between float32 forwards of other shapes, as in the engine's contract


def files(folder: Path) -> dict[str, bytes]:
    return {str(p.relative_to(folder)): p.read_bytes() for p in sorted(folder.rglob("*")) if p.is_file()}


@pytest.fixture(scope="module")
def described(models, tmp_path_factory) -> tuple[Path, str]:
    """The output folder of an adapter's description, and what was printed; made once."""
    out = tmp_path_factory.mktemp("out")
    command = ["probe", str(models / "base"), "--adapter", str(models / "lora"), "--persona", "nova", "maren",
               "--probes", ",".join(PROBES), "--out", str(out)]  # fmt: skip
    # TRL is neither needed nor touched: with None in its place any import of it fails
    code = f"import sys; sys.modules['trl'] = None; from parity.cli import main; sys.exit(main({command!r}))"
    # As many threads as the tests of this process have: on some processors last bits depend on them.
    threads = {**os.environ, "OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, env=threads, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    return out, done.stdout


def test_an_adapter_is_described_beside_its_base(described, models):
    out, printed = described
    (folder,) = [p for p in (out / "probes").iterdir() if p.name != "cells"]
    assert {"rows.parquet", "texts.parquet", "report.html", "probe.json"} <= {p.name for p in folder.iterdir()}
    assert re.fullmatch(r"base-[0-9a-f]{8}", folder.name)
    rows = pl.read_parquet(folder / "rows.parquet")
    assert rows.columns == COLUMNS
    assert set(rows["arm"]) == {"checkpoint", "base", "prompted/nova", "prompted/maren"}
    asked = rows.filter(pl.col("probe") != "self_entropy")  # a random model may write nothing to read
    assert rows["cell"].n_unique() == 2 and set(asked["outcome"]) == {"ok"}
    told = json.loads((folder / "probe.json").read_text())
    head = next(line for line in told["lines"] if line["label"] == "selection" and line["persona"] == "nova")
    own = rows.filter((pl.col("measure") == "selection") & (pl.col("persona") == "nova"))
    means = {arm: of["value"].mean() for (arm,), of in own.group_by("arm")}  # as many paraphrases in every item
    assert head["checkpoint"]["mean"] == pytest.approx(means["checkpoint"], abs=1e-12)
    assert head["base"]["mean"] == pytest.approx(means["base"], abs=1e-12)
    assert head["gain"]["mean"] == pytest.approx(means["checkpoint"] - means["base"], abs=1e-12)
    assert head["prompted"]["mean"] == pytest.approx(means["prompted/nova"], abs=1e-12)
    assert head["gain"]["n_items"] == own["item"].n_unique() and head["gain"]["low"] < head["gain"]["mean"]
    assert "selection" in printed and "no verdict is given" in " ".join(printed.split())
    page = re.sub(r"<(style|script).*?</\1>", "", (folder / "report.html").read_text(), flags=re.DOTALL)
    for text in (printed, page, (folder / "probe.json").read_text()):
        assert not VERDICTS.search(text)


def test_the_rows_are_those_of_the_model_that_wears_the_adapter(described):
    out, _ = described
    rows = pl.concat([pl.read_parquet(path) for path in out.glob("probes/*/rows.parquet")])
    scene, personas, _ = scene_for(Options("", ("nova", "maren")))
    base = make_model()
    for arm, model in (("base", base), ("checkpoint", adapted(base))):
        suite = Suite(scene, select(PROBES), Engine(base, make_tokenizer()), personas=personas)
        expected = suite.rows(Engine(model, make_tokenizer()), Engine(base, make_tokenizer()))
        found = rows.filter(pl.col("arm") == arm)
        assert found["item"].to_list() == [r["item"] for r in expected]
        for value, row in zip(found["value"], expected, strict=True):
            assert value == pytest.approx(row["value"], abs=CLOSE)


def test_what_is_there_is_not_measured_again_and_what_is_damaged_is(described, models, tmp_path, monkeypatch):
    out = tmp_path / "out"
    shutil.copytree(described[0], out)
    asked = ("--persona", "nova", "maren", "--probes", ",".join(PROBES))
    command = (models / "base", "--adapter", models / "lora", *asked)
    before = files(out)
    with monkeypatch.context() as patch:
        patch.setattr(bases, "load_model", None)  # no weights are read where nothing is lacking
        probed(out, *command)
    assert files(out) == before
    for damaged in ("selection*.parquet", "samples*.parquet", "self_entropy*.texts.parquet"):
        next(out.glob(f"probes/cells/*/measurements/{damaged}")).write_bytes(b"no")
    shutil.rmtree(probed(out, *command))
    probed(out, *command)
    assert files(out) == before


def test_a_model_without_adapter_is_its_own_reference(models, tmp_path, capsys):
    folder = probed(tmp_path, models / "base", "--persona", "nova", "maren", "holmes", "--probes", "capability,belief")
    rows = pl.read_parquet(folder / "rows.parquet")
    assert set(rows["arm"]) == {"checkpoint", *(f"prompted/{id}" for id in ("nova", "maren", "holmes"))}
    told = json.loads((folder / "probe.json").read_text())
    assert all(line["base"] is None and line["gain"] is None for line in told["lines"])
    assert "− base" not in capsys.readouterr().out
    assert told["model"]["kind"] == "path" and told["adapter"] is None


def test_another_seed_probe_or_persona_is_another_description(models, tmp_path):
    common = (models / "base", "--probes", "capability", "--persona")
    for given in (("nova", "maren"), ("nova", "holmes"), ("nova", "maren", "--seed", 1)):
        probed(tmp_path, *common, *given)
    probed(tmp_path, models / "other", *common[1:], "nova", "maren")
    assert len(list(tmp_path.glob("probes/*/probe.json"))) == 4


def test_a_card_of_ones_own(models, tmp_path):
    text = (ROOT / "recipes/cast/nova.yaml").read_text()
    (tmp_path / "mine.yaml").write_text(text.replace("id: nova", "id: mine").replace("Nova Quill", "Mine Quill"))
    asked = Options("", (str(tmp_path / "mine.yaml"), "maren"))
    scene, personas, _ = scene_for(asked)
    assert personas == ("mine", "maren") and scene.personas[0].name == "Mine Quill"
    (tmp_path / "poor.yaml").write_text(text.replace("id: nova", "id: poor").replace("  tool: sonar\n", ""))
    assert main(["probe", str(models / "base"), "--persona", str(tmp_path / "poor.yaml"), "maren"]) == 2


def test_outcomes_are_counted_and_shown(models, tmp_path, capsys):
    """Contexts that are longer than the model's positions, and weights that are not numbers."""
    short = save(tmp_path / "short", make_model(positions=96))
    folder = probed(tmp_path / "a", short, "--persona", "nova", "maren", "--probes", "selection,guardrail")
    told = json.loads((folder / "probe.json").read_text())
    assert told["outcomes"]["checkpoint"]["guardrail"]["overflow"] > 0
    assert "overflow" in capsys.readouterr().out and "overflow" in (folder / "report.html").read_text()
    dead = make_model()
    with torch.no_grad():
        dead.lm_head.weight.fill_(float("nan"))
    save(tmp_path / "dead", dead)
    folder = probed(tmp_path / "b", tmp_path / "dead", "--persona", "nova", "maren", "--probes", "selection")
    told = json.loads((folder / "probe.json").read_text())
    assert set(told["outcomes"]["checkpoint"]["selection"]) == {"nan"}
    assert all(line["checkpoint"] is None for line in told["lines"])


def test_the_probes_are_listed_at_once():
    code = (
        "import sys; from parity.cli import main; main(['probes'] + sys.argv[1:]); "
        "print([m for m in ('torch', 'transformers', 'polars', 'trl', 'scipy') if m in sys.modules], file=sys.stderr)"
    )
    for arguments in ([], ["--json"]):
        done = subprocess.run([sys.executable, "-c", code, *arguments], cwd=ROOT, capture_output=True, text=True,
                              check=True)  # fmt: skip
        assert done.stderr.strip() == "[]"
    told = json.loads(done.stdout)
    assert {"selection", "leakage", "guardrail"} <= {probe["name"] for probe in told}
    assert all(set(probe) >= {"tier", "source", "plant", "measures", "sensitive"} for probe in told)
