"""YAML as a recipe has it: version 1.2, no tags, no surprises of size, and every mistake in one line."""

from __future__ import annotations

import re
from io import StringIO
from pathlib import Path

from hypothesis import assume, example, given, settings
from hypothesis import strategies as st
from ruamel.yaml import YAML
from ruamel.yaml.error import YAMLError

from recipes.errors import InputError
from recipes.load import load_recipe
from recipes.reader import MAX_BYTES, Place, plain, read_text
from tests.recipes.trial import GOOD, X, refused


def test_merge_keys_give_what_is_not_given(lab: Path) -> None:
    X.write_text(GOOD.replace("{r: 4}", "&l {r: 4, lora_alpha: 8}").replace("[1, 3],", "[1, 3], lora: {<<: *l, r: 2},"))
    assert load_recipe(X).stages[1].lora == {"r": 2, "lora_alpha": 8}


def test_a_mistake_inside_an_anchor_is_told_where_it_was_written(lab: Path) -> None:
    X.write_text(GOOD.replace("{r: 4}", "&l {rr: 4}").replace("[1, 3],", "[1, 3], lora: *l,"))
    assert refused().startswith("recipes/x.yaml:14: stages.0.lora.rr: ")


def test_aliases_that_grow_without_bound_are_refused_at_once(lab: Path) -> None:
    """Nine levels of ten aliases would be 10**9 values."""
    levels = "".join(f"l{i}: &l{i} [{', '.join([f'*l{i - 1}'] * 10)}]\n" for i in range(1, 10))
    for text in (
        f"l0: &l0 [x]\n{levels}",
        "a: &a [*a]",
        "[" * 100_000,
        "- " * 5000,
        "a: &m {b: 1}\n" + "c: {<<: *m}\n" * 10**4,
    ):
        X.write_text(text)
        refused()


def test_files_that_are_no_recipe(lab: Path) -> None:
    (lab / "recipes" / "planted-dose.yaml").touch()
    assert refused(Path("recipes/planted-dsoe.yaml")).endswith("no such file (did you mean 'planted-dose.yaml'?)")
    assert refused(Path("quickstart")).endswith("no such file (did you mean 'recipes/quickstart.yaml'?)")
    assert refused(Path("recipes")) == "recipes: is a folder"
    assert refused(Path("/dev/zero")) == "/dev/zero: is not a file"
    assert "no such file" in refused(Path("a\nb\0.yaml"))
    for content, message in (
        (b"", ": is empty"),
        (b"# nothing\n---\n", ": is empty"),
        (b"- a\n", ":1: a recipe is a mapping, got a list"),
        (b"name: a\nquestion: caf\xe9\n", ":2: not UTF-8: byte 0xe9"),
        (b"name: a\nb: \x00\n", ":2: not YAML: "),
        (b"#" * (MAX_BYTES + 1), ": larger than 1 MiB"),
        (b"%YAML 1.1\n---\na: no\n", ": recipes are YAML 1.2"),
        (b'a: "\\uD800"\n', ":1: text with half of a surrogate pair"),
        (b'a: "\\UFFFFFFFF"\n', ": not YAML: "),
    ):
        X.write_bytes(content)
        assert message in refused()


def test_a_byte_order_mark_is_no_part_of_the_first_key(lab: Path) -> None:
    X.write_bytes(b"\xef\xbb\xbf" + GOOD.encode())
    assert load_recipe(X).name == "trial"


def test_yaml_is_that_of_version_1_2(lab: Path) -> None:
    text = "[no, on, 010, 0o10, 1e-3, 2020-01-01, '3', ~, true, 1:30, =, .5]"
    node = read_text(text, lambda line, column: Place("", ()))
    assert node is not None
    assert plain(node) == ["no", "on", 10, 8, 0.001, "2020-01-01", "3", None, True, "1:30", "=", 0.5]


# Values that YAML itself can hold; floats of few digits, because their text is compared, not their rounding.
VALUES = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**62), 2**62) | st.floats(-1e6, 1e6) | st.text(max_size=12),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=6), inner, max_size=3),
    max_leaves=8,
)


@given(VALUES)
@example({":0": None})  # ruamel writes it as `{:0: null}` and cannot read that itself
@settings(max_examples=100, deadline=None)
def test_what_ruamel_writes_and_reads_is_read_back(value: object) -> None:
    out = StringIO()
    yaml = YAML(typ="safe", pure=True)
    yaml.allow_unicode = False
    yaml.dump({"value": value}, out)
    try:
        assume(YAML(typ="safe", pure=True).load(out.getvalue()) == {"value": value})
    except YAMLError:
        assume(False)
    node = read_text(out.getvalue(), lambda line, column: Place("", ()))
    assert node is not None and plain(node) == {"value": value}


@given(
    st.text(alphabet=st.sampled_from(list("ab1:-[]{},&*!|>'\"%@`#?\\ \n\t.~<=é\x00\ud800")), max_size=40) | st.text()
)
@settings(max_examples=400, deadline=None)
def test_any_text_is_read_or_refused_in_one_line(text: str) -> None:
    try:
        node = read_text(text, lambda line, column: Place(f"x:{line}", (line, column)))
    except InputError as error:
        assert re.match(r"x:\d+: ", str(error)) and len(str(error).splitlines()) == 1
    else:
        if node is not None:
            plain(node)
