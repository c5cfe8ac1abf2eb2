"""What the README tells a user to type is what the command takes."""

import re
import shlex
from pathlib import Path

import pytest

from parity.cli import parser
from tests.micro import parity

ROOT = Path(__file__).parent.parent
README = (ROOT / "README.md").read_text()
BLOCKS = re.findall(r"```bash\n(.*?)```", README, re.DOTALL)
LINES = [line.split("#")[0].strip() for block in BLOCKS for line in block.splitlines() if line.strip()]


@pytest.mark.parametrize("line", [line for line in LINES if line.startswith("parity ")])
def test_parity_commands(line, tmp_path):
    arguments = shlex.split(line)[1:]
    parser().parse_args(arguments)
    if arguments[0] == "run":
        dry = [] if "--dry-run" in arguments else ["--dry-run"]
        done = parity(*arguments, *dry, "--out", tmp_path, cwd=ROOT)
        # A recipe whose extra is not installed says so; everything else must plan.
        assert done.returncode == 0 or "pip install" in done.stderr, done.stderr


def test_make_targets_exist_and_every_file_of_the_tree_too():
    makefile = (ROOT / "Makefile").read_text()
    targets = [line.split()[1] for line in LINES if line.startswith("make ")]
    assert targets and all(re.search(rf"^{target}:", makefile, re.MULTILINE) for target in targets)
    tree = README.split("## The tree")[1].split("```")[1]
    room, named = "", []
    for line in tree.splitlines():
        if found := re.match(r"(\w+/)", line):
            room = found[1]
        named += [room + name for name in re.findall(r"^  ([\w/]+\.\w+)", line)]
    assert len(named) > 10 and [name for name in named if not (ROOT / name).exists()] == []


def test_everything_that_is_linked_is_there():
    for link in re.findall(r"\]\(([^)#]+)\)|\((docs/[\w.]+)\)", README):
        path = next(part for part in link if part)
        assert (ROOT / path).exists(), path
