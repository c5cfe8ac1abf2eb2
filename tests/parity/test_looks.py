"""Looks through the front door: one lock and one folder, what was judged when, and what was not planned."""

import json

import pytest

from eval.design import design_of
from eval.lock import lock_of, write_lock
from eval.looked import UNPLANNED, looked, record, unplanned
from eval.probes import select
from parity.cli import OFFLINE, main
from parity.foresee import foresee, lines
from parity.plan import make_plan
from recipes.errors import InputError
from recipes.hashing import recipe_hash
from recipes.load import load_recipe
from recipes.scenes import scene_of
from tests.micro import RECIPE, parity, write_recipe
from training.tracking import experiment_name

SMALL = (
    "stages: [{kind: sft, doses: [1, 2], trainer: {per_device_train_batch_size: 8}, lora: {r: 2}}]\n"
    "probes: [default_identity, selection]\n"
)
PLANNED = RECIPE[: RECIPE.index("stages:")] + SMALL + "judge: {primary: [selection], match: dose, looks: [2, 3, 6]}\n"
ONCE = PLANNED.replace(", looks: [2, 3, 6]", "").replace("seeds: 2", "seeds: 6")
VERDICT = {"verdict": "undetermined", "rows": []}


def recipe(folder, text=PLANNED, *overrides):
    return load_recipe(write_recipe(folder, text), overrides)


def judged(folder, of, verdict=VERDICT):
    """A folder as judging leaves it, without the hours before: lock, verdict, looks."""
    where = folder / experiment_name(of)
    planned = of.planned
    scenes = [scene_of(planned, seed) for seed in range(planned.seeds)]
    write_lock(where, lock_of(planned, scenes, select(of.probes), []))
    said = unplanned(where, of)
    record(where, of, verdict, said)
    (where / "verdict.json").write_text(json.dumps(verdict | {"seeds": list(range(of.seeds))}))
    return where, said


def test_all_looks_of_a_plan_have_one_hash_and_old_recipes_keep_theirs(tmp_path):
    of = [recipe(tmp_path, PLANNED, f"seeds={n}") for n in (2, 3, 6, 4, 9)]
    assert len({recipe_hash(one) for one in of}) == 1
    assert recipe_hash(recipe(tmp_path, PLANNED, "judge.looks=[2,6]")) != recipe_hash(of[0])
    assert recipe_hash(recipe(tmp_path, PLANNED, "judge.spending=obrien-fleming")) != recipe_hash(of[0])
    six, seven = recipe(tmp_path, ONCE), recipe(tmp_path, ONCE, "seeds=7")
    assert recipe_hash(six) != recipe_hash(seven)
    # the hash this recipe had before there were looks: made with the code of commit 2552267
    assert recipe_hash(six)[:16] == "dc4062a146d8ae67"


def test_planned_looks_are_kept_in_order_and_judging_again_is_no_new_look(tmp_path):
    for seeds in (2, 3):
        where, said = judged(tmp_path, recipe(tmp_path, PLANNED, f"seeds={seeds}"))
        assert said == []
    first = looked(where)
    assert [look["seeds"] for look in first] == [2, 3] and {look["verdict"] for look in first} == {"undetermined"}
    row = {"pair": ["a", "c"], "probe": "p", "stage": "sft", "contrast": "delta", "primary": True, "verdict": "broken"}
    judged(tmp_path, recipe(tmp_path, PLANNED, "seeds=2"), VERDICT | {"verdict": "broken", "rows": [row]})
    assert looked(where) == first  # what was said first stays
    judged(tmp_path, recipe(tmp_path, PLANNED, "seeds=6"), VERDICT | {"verdict": "broken", "rows": [row]})
    assert looked(where)[-1]["broken"] == [["a", "c", "p", "sft", "delta"]]


def test_a_look_that_the_plan_does_not_name_is_unplanned_and_stays_so(tmp_path):
    where, said = judged(tmp_path, recipe(tmp_path, PLANNED, "seeds=4"))
    assert said == [f"{UNPLANNED}: at 4 seeds, planned were 2, 3, 6"]
    assert unplanned(where, recipe(tmp_path, PLANNED, "seeds=4")) == said
    assert unplanned(where, recipe(tmp_path, PLANNED, "seeds=6")) == []
    assert unplanned(where, recipe(tmp_path, PLANNED, "seeds=4", "judge.claim=explore")) == said  # as it was judged


def test_seeds_added_after_a_verdict_without_a_plan_are_an_unplanned_look(tmp_path):
    first, said = judged(tmp_path, recipe(tmp_path, ONCE))
    assert said == []
    second, said = judged(tmp_path, recipe(tmp_path, ONCE, "seeds=8"))
    assert second != first and said == [f"{UNPLANNED}: judged before at 6 seeds without this plan ({first.name})"]
    assert unplanned(first, recipe(tmp_path, ONCE)) == []  # it was there first, whatever came after
    afterthought = recipe(tmp_path, PLANNED, "seeds=3")  # a plan made after a look
    names = [line.split("(")[1] for line in unplanned(tmp_path / experiment_name(afterthought), afterthought)]
    assert sorted(names) == sorted(f"{one.name})" for one in (first, second))


def test_what_is_no_earlier_look(tmp_path):
    explored = recipe(tmp_path, ONCE, "seeds=2", "judge.claim=explore")  # spends no alpha
    judged(tmp_path, explored)
    other = recipe(tmp_path, ONCE, "base.world.seed=1")  # another experiment of the same name
    judged(tmp_path, other)
    (tmp_path / "micro-00000000").mkdir()
    (tmp_path / "micro-00000000" / "verdict.json").write_text("{}")  # no lock of ours
    mine = recipe(tmp_path, ONCE)
    assert unplanned(tmp_path / experiment_name(mine), mine) == []
    old = tmp_path / experiment_name(mine)  # judged before looks were kept
    old.mkdir()
    (old / "verdict.json").write_text("{}")
    judged(tmp_path, recipe(tmp_path, ONCE, "seeds=7"))
    assert unplanned(old, mine) == []


@pytest.mark.parametrize("text", ["", "{", "[]", '{"looks": [{"seeds": 2}]}', '{"looks": 3}'])
def test_looks_that_cannot_be_read_are_refused_in_one_line(tmp_path, text):
    (tmp_path / "looks.json").write_text(text)
    with pytest.raises(InputError, match="looks.json: unreadable") as error:
        looked(tmp_path)
    assert "\n" not in str(error.value)


def test_two_looks_of_one_plan_through_the_command(tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("WANDB_MODE", "disabled")
    for name in (*OFFLINE, "TOKENIZERS_PARALLELISM"):  # what the command sets, so that it is taken back
        monkeypatch.setenv(name, "1" if name in OFFLINE else "false")
    path, out = str(write_recipe(tmp_path, PLANNED)), str(tmp_path / "out")
    assert main(["run", path, "--out", out]) == 0
    (folder,) = (tmp_path / "out" / "experiments").iterdir()
    lock = (folder / "recipe.lock.yaml").read_bytes()
    first = json.loads((folder / "verdict.json").read_text())
    assert [look["seeds"] for look in first["looks"]] == [2] and first["seeds"] == [0, 1]
    capsys.readouterr()
    assert main(["run", path, "--out", out, "-s", "seeds=3"]) == 0
    assert "2 to train" in capsys.readouterr().err  # one stage of two arms
    assert list((tmp_path / "out" / "experiments").iterdir()) == [folder]  # the same folder
    assert (folder / "recipe.lock.yaml").read_bytes() == lock and b'"seeds": 6' in lock
    second = json.loads((folder / "verdict.json").read_text())
    assert second["seeds"] == [0, 1, 2] and second["post_hoc"] == [] and second["recipe_hash"] == first["recipe_hash"]
    assert [look["seeds"] for look in second["looks"]] == [2, 3]
    assert [look["seeds"] for look in looked(folder)] == [2, 3]
    primary = [row for row in second["rows"] if row["primary"]]
    assert primary and all(row["bound"] <= 1 and row["equivalence_level"] < 0.05 for row in primary)
    assert all(row["seed_sd"] > 0 for row in primary if row["estimate"] is not None)
    before = (folder / "verdict.json").read_bytes()
    assert main(["judge", str(folder)]) == 0 and (folder / "verdict.json").read_bytes() == before


def test_the_plan_says_looks_and_that_power_is_unknown_or_known_from_a_pilot(tmp_path):
    plan = make_plan(recipe(tmp_path), tmp_path / "out")
    absent = tmp_path / "no calibration"
    found = foresee(plan, calibration=absent)
    assert [look["seeds"] for look in found["looks"]] == [2, 3, 6] and found["power"] is None
    assert found["smallest_p"] == 2 / 2**6 and found["minutes"] > 0  # of the last look
    said = list(lines(plan, found))
    assert said[0].startswith("looks      at 2, 3, 6 seeds;") and "now 2" in said[0]
    assert said[-1].startswith("power      unknown")

    row = {"probe": "selection", "stage": "sft", "match": "dose", "contrast": "delta", "margin": 1.0, "n_seeds": 4}
    rows = [row | {"seed_sd": 0.5}, row | {"contrast": "lambda", "seed_sd": 0.25}, row | {"contrast": "T"}]
    rows += [row | {"probe": "leakage", "seed_sd": 9.0}, row | {"match": "strength", "seed_sd": 9.0}]  # not primary
    pilot = tmp_path / "pilot-1"
    pilot.mkdir()
    (pilot / "verdict.json").write_text(json.dumps({"rows": rows, "seeds": [0, 1, 2, 3]}))
    once = make_plan(recipe(tmp_path, ONCE), tmp_path / "out")
    told = foresee(once, pilot, absent)["power"]
    assert told["weakest"] == "selection Δ after sft" and told["contrasts"] == 2 and told["margin_in_sd"] == 2.0
    assert told["seeds_for_equivalence"] == 3  # (2.93 / 2)^2 = 2.1
    assert told["seeds"] == 6 and 0 < told["margin"] < told["twice_margin"] <= 1
    assert [line.split()[0] for line in lines(once, {"looks": [], "power": told})] == ["power", "seeds", "variances"]
    assert "pilot-1, 4 seeds" in told["source"]
    # a verdict of before seed_sd was in it: half of the interval is 3.182 (t of 3 degrees) * .5 / sqrt(4) = .7956
    old = rows[0] | {"seed_sd": None, "low": -0.7956, "high": 0.7956, "level": 0.95}
    (pilot / "verdict.json").write_text(json.dumps({"rows": [old]}))
    assert foresee(once, pilot, absent)["power"]["margin_in_sd"] == pytest.approx(2.0, abs=1e-3)
    calibration = tmp_path / "calibration.json"
    content = {"schema": 1, "variances": rows, "recipe": once.recipe.model_dump(mode="json")}
    calibration.write_text(json.dumps(content))
    assert foresee(once, calibration=calibration)["power"]["source"] == "docs/calibration.json"
    wider = make_plan(recipe(tmp_path, ONCE, "base.world.width=64"), tmp_path / "out")
    longer = make_plan(recipe(tmp_path, ONCE, "stages.0.doses=[1,3]"), tmp_path / "out")
    assert [foresee(one, calibration=calibration)["power"] for one in (wider, longer)] == [None, None]
    calibration.write_text(json.dumps(content | {"recipe": {"of": "another version"}}))
    assert foresee(once, calibration=calibration)["power"] is None
    once.folder.mkdir(parents=True)
    (once.folder / "verdict.json").write_text(json.dumps({"rows": rows, "seeds": [0]}))
    assert foresee(once, calibration=calibration)["power"]["source"] == "its own earlier verdict, 1 seeds"


@pytest.mark.parametrize(
    ("text", "says"), [(None, "no readable verdict.json"), ("{", "no readable"), ('{"rows": []}', "no contrast of")]
)
def test_a_pilot_that_tells_nothing_is_one_line_and_exit_2(tmp_path, text, says):
    if text is not None:
        (tmp_path / "verdict.json").write_text(text)
    done = parity("run", write_recipe(tmp_path), "--dry-run", "--out", tmp_path / "out", "--pilot", tmp_path)
    assert done.returncode == 2 and says in done.stderr and len(done.stderr.strip().splitlines()) == 1


def test_designs_that_cannot_be_or_can_never_reach_their_claim_are_one_line(tmp_path):
    for override, says in (
        ("judge.looks=[8,7]", "looks must rise"), ("judge.looks=[2,4]", "4 seeds can never be significant"),
        ("judge.looks=[0,6]", "greater than 0"), ("judge.spending=haybittle", "pocock"),
    ):  # fmt: skip
        with pytest.raises(InputError, match=says) as error:
            recipe(tmp_path, PLANNED, override)
        assert "\n" not in str(error.value)
    assert recipe(tmp_path, PLANNED, "judge.looks=[2,4]", "judge.claim=explore").judge.looks == (2, 4)
    assert design_of(recipe(tmp_path), select(("default_identity", "selection")), {}).looks == (2, 3, 6)
