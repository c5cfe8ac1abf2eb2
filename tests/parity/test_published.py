"""An export is judged again from its rows alone, through the real command, and a changed one is told."""

import json

import polars as pl
import pytest

from parity.cli import main
from tests.micro import write_recipe


@pytest.fixture(scope="module")
def export(tmp_path_factory):
    """(experiment, its export without models) of a micro experiment with few probes."""
    folder = tmp_path_factory.mktemp("published")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("WANDB_MODE", "disabled")
        few = ["-s", "probes=[default_identity,selection,capability]", "-s", "judge.primary=[selection]"]
        assert main(["run", str(write_recipe(folder)), "--out", str(folder / "out"), *few]) == 0
    (experiment,) = (folder / "out" / "experiments").iterdir()
    to = folder / "export"
    assert main(["export", str(experiment), "--to", str(to), "--no-models"]) == 0
    return experiment, to


def test_the_rows_give_the_published_verdict_and_nothing_is_written(export, capsys):
    experiment, to = export
    before = {path.name: path.read_bytes() for path in to.iterdir()}
    assert main(["show", str(experiment)]) == 0
    table = capsys.readouterr().out
    assert main(["judge", str(to)]) == 0
    again = capsys.readouterr()
    assert again.out == table and again.err.endswith("rows are judged as published\n")
    assert before == {path.name: path.read_bytes() for path in to.iterdir()}


def test_rows_or_a_verdict_that_were_changed_are_told(export, capsys):
    _, to = export
    rows, verdict = (to / "rows.parquet").read_bytes(), (to / "verdict.json").read_text()
    pl.read_parquet(to / "rows.parquet").with_columns(pl.col("value") * 2).write_parquet(to / "rows.parquet")
    assert main(["judge", str(to)]) == 1
    assert (
        "rows are judged otherwise than published; the first: default_identity T sft dose: " in capsys.readouterr().err
    )
    (to / "rows.parquet").write_bytes(b"no")
    assert main(["judge", str(to)]) == 2 and "not a whole export" in capsys.readouterr().err
    (to / "rows.parquet").write_bytes(rows)
    told = json.loads(verdict)
    told["rows"][-1]["verdict"] = "broken"
    (to / "verdict.json").write_text(json.dumps(told))
    assert main(["judge", str(to)]) == 1 and ", published 'broken'" in capsys.readouterr().err
    (to / "verdict.json").write_text("[]")
    assert main(["judge", str(to)]) == 2 and "not a whole export" in capsys.readouterr().err
