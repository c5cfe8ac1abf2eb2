"""What must hold between the parts of a recipe, and between a recipe and what is installed.

Every check reads plain data that may still be wrong in other ways, so that the first mistake in the file is reported,
whatever its kind.  Cards, probes and accelerate configs are found by their file names; nothing is imported.
"""

from __future__ import annotations

import ast
import math
import re
from collections.abc import Iterable, Iterator
from importlib import metadata
from itertools import islice, pairwise
from pathlib import Path
from typing import Any, get_args

from recipes import fields, references, templates, trust, world
from recipes import stages as order
from recipes.errors import nearest
from recipes.explain import Violation, describe, get, mismatch
from recipes.packages import PACKAGE, extra_of
from recipes.schema import Base, Judge, Launch, Plant, Stage, World

ROOT = Path(__file__).parent
CAST = ROOT / "cast"
ACCELERATE = ROOT / "accelerate"
PROBES = ROOT.parent / "eval" / "probes"
TIERS = ("world", "small", "large")  # each runs the probes of those before it, too
GENERATED = re.compile(r"[a-z]+-[0-9]+")  # a character that only a world has, e.g. control-01


def violations(data: Any) -> Iterator[Violation]:
    """All that is wrong with plain data beyond its types, in no particular order."""
    yield from _base(data)
    yield from _cast(data)
    yield from _arms(data)
    yield from _pairs(data)
    yield from _plant(data)
    yield from _seeds(data)
    yield from _stages(data)
    yield from _probes(data)
    yield from _accelerate(data)
    yield from references.violations(data)
    yield from templates.violations(data)
    yield from trust.violations(data)


def least_seeds(alpha: float) -> int:
    """Fewest seeds at which an exact sign-flip test can reach p < alpha: the smallest p is 2 / 2**seeds.

    Of several pairs each is tested at its share of alpha.
    """
    return next(n for n in range(1, 2000) if math.ldexp(1.0, 1 - n) < alpha)


def _names(data: Any, *path: str | int) -> list[tuple[int, str]]:
    """The texts of a list, with their places in it."""
    value = get(data, *path)
    return [(i, v) for i, v in enumerate(value) if isinstance(v, str)] if isinstance(value, list) else []


def _stems(folder: Path, pattern: str) -> list[str]:
    return sorted(file.stem for file in folder.glob(pattern) if not file.stem.startswith("_"))


def _twice(key: str, names: Iterable[tuple[int, str]]) -> Iterator[Violation]:
    seen: set[str] = set()
    for i, name in names:
        if name in seen:
            yield Violation((key, i), f"{name!r} is named twice")
        seen.add(name)


def _world(data: Any) -> dict[str, Any] | None:
    """Settings of the world with their defaults, None where the base is no world."""
    given = get(data, "base", "world")
    return World().model_dump() | given if isinstance(given, dict) else None


def _base(data: Any) -> Iterator[Violation]:
    if isinstance(data.get("base"), dict) and all(key in Base.model_fields for key in data["base"]):
        given = [k for k in ("world", "hub", "path", "gguf") if data["base"].get(k) is not None]
        if len(given) != 1:
            yield Violation(
                ("base",), f"takes exactly one of world, hub, path, gguf; got {' and '.join(given) or 'none'}"
            )
        elif "hub" not in given and data["base"].get("revision") is not None:
            yield Violation(("base", "revision"), "goes with hub only")
    path, gguf = get(data, "base", "path"), get(data, "base", "gguf")
    if made := _world(data):
        yield from world.violations(made, get(data, "plant", "self_model", "facts"))
    if isinstance(path, str) and not _exists(path):
        yield Violation(("base", "path"), f"no such folder: {path!r}{_beside(path)}")
    if isinstance(gguf, str) and not gguf.startswith(PACKAGE) and not _exists(gguf):
        yield Violation(("base", "gguf"), f"no such file: {gguf!r}{_beside(gguf)}")
    if isinstance(gguf, str) and gguf.startswith(PACKAGE):
        name = gguf.removeprefix(PACKAGE)
        if not re.fullmatch(r"[A-Za-z0-9]([A-Za-z0-9._-]*[A-Za-z0-9])?", name):
            yield Violation(("base", "gguf"), f"{PACKAGE} is followed by the name of a package, got {describe(name)}")
        elif not _installed(name):
            extra = extra_of(name)
            how = f"install the extra {extra!r}: pip install -e '.[{extra}]'" if extra else f"run: pip install {name}"
            yield Violation(("base", "gguf"), f"the package {name} is not installed; {how}")


def _exists(path: str) -> bool:
    try:
        return bool(path) and Path(path).exists()
    except (OSError, ValueError):  # too long, or a null character
        return False


def _beside(path: str) -> str:
    """The nearest name in the folder where the path would be."""
    folder = Path(path).parent
    try:
        hint = nearest(Path(path).name, sorted(f.name for f in folder.iterdir()))
    except (OSError, ValueError):
        return ""
    return hint if hint.startswith(" (did") else ""


def _installed(name: str) -> bool:
    try:
        metadata.distribution(name)
    except metadata.PackageNotFoundError:
        return False
    return True


def _cast(data: Any) -> Iterator[Violation]:
    cast, world = _names(data, "cast"), _world(data)
    cards = _stems(CAST, "*.yaml")
    yield from _twice("cast", cast)
    for i, name in cast:
        generated = GENERATED.fullmatch(name) is not None
        if name not in cards and generated and world is None:
            yield Violation(("cast", i), f"{name!r} has no card: only base.world makes characters of its own")
        elif name not in cards and not generated:
            yield Violation(("cast", i), f"no card {name!r}{nearest(name, cards)}")
    if world is not None and isinstance(world["characters"], int) and len(cast) > world["characters"]:
        yield Violation(("cast",), f"{len(cast)} characters, but base.world has only {world['characters']}")


def _arms(data: Any) -> Iterator[Violation]:
    cast, arms = [name for _, name in _names(data, "cast")], _names(data, "arms")
    yield from _twice("arms", arms)
    for i, name in arms:
        if name not in cast:
            yield Violation(("arms", i), f"{name!r} is not in the cast{nearest(name, cast)}")
            return


def _pairs(data: Any) -> Iterator[Violation]:
    arms = [name for _, name in _names(data, "arms")]
    pairs = data.get("pairs")
    seen: set[frozenset[str]] = set()
    for i, pair in enumerate(pairs if isinstance(pairs, list) else []):
        names = [name for _, name in _names(data, "pairs", i)]
        strangers = [j for j, name in enumerate(names) if name not in arms]
        if not isinstance(pair, list) or len(names) < len(pair):
            continue  # the types say what is wrong
        if len(pair) != 2:
            yield Violation(("pairs", i), f"a pair is two arms, got {len(pair)}")
        elif strangers:
            j = strangers[0]
            yield Violation(("pairs", i, j), f"{names[j]!r} is not an arm{nearest(names[j], arms)}")
            return
        elif names[0] == names[1]:
            yield Violation(("pairs", i), f"{names[0]!r} is paired with itself")
        elif frozenset(names) in seen:
            yield Violation(("pairs", i), f"the pair {names[0]} and {names[1]} is named twice")
        seen.add(frozenset(names))


def _plant(data: Any) -> Iterator[Violation]:
    plant = data.get("plant")
    if not isinstance(plant, dict):
        return
    kinds = [kind for kind in Plant.model_fields if plant.get(kind) is not None]
    if len(kinds) != 1 and all(key in Plant.model_fields for key in plant):
        yield Violation(
            ("plant",), f"takes exactly one of {', '.join(Plant.model_fields)}; got {' and '.join(kinds) or 'none'}"
        )
    arms, made = [name for _, name in _names(data, "arms")], _world(data)
    for kind in kinds:
        arm = get(plant, kind, "arm")
        if isinstance(arm, str) and arm not in arms:
            yield Violation(("plant", kind, "arm"), f"{arm!r} is not an arm{nearest(arm, arms)}")
        if kind in ("prior", "self_model") and made is None:
            yield Violation(("plant", kind), "is planted in the corpus: it needs base.world")
        elif kind in ("prior", "self_model") and made and isinstance(made["characters"], int):
            others = made["characters"] - made["characters"] // 2
            if (cast := len(_names(data, "cast"))) - 1 > others:
                yield Violation(("plant", kind), f"leaves {others} characters for the other {cast - 1} of the cast")


def _seeds(data: Any) -> Iterator[Violation]:
    judge, looks = data.get("judge") or {}, get(data, "judge", "looks")
    seeds = looks[-1] if looks and isinstance(looks, list) else data.get("seeds")  # the last look has the most
    if not isinstance(judge, dict) or isinstance(seeds, bool) or not isinstance(seeds, int) or seeds < 1:
        return
    alpha, claim = judge.get("alpha", Judge().alpha), judge.get("claim", Judge().claim)
    if isinstance(alpha, bool) or not isinstance(alpha, (int, float)) or not 0 < alpha < 1 or claim != "verdict":
        return
    pairs = data.get("pairs") or _names(data, "arms")[1:]
    many = max(1, len(pairs)) if isinstance(pairs, list) else 1
    smallest = min(1.0, many * math.ldexp(1.0, 1 - seeds))
    if smallest >= alpha:  # a verdict needs p < alpha
        over = f" over {many} pairs" if many > 1 else ""
        yield Violation(
            ("seeds",),
            f"{seeds} seeds can never be significant: the smallest p{over} is {smallest:g}, alpha is {alpha:g}; "
            f"take at least {least_seeds(alpha / many)}, or set judge.claim: explore",
        )


def _stages(data: Any) -> Iterator[Violation]:
    stages = data.get("stages")
    kinds = get_args(Stage.model_fields["kind"].annotation)
    yield from order.violations(stages if isinstance(stages, list) else [])
    for i, stage in enumerate(stages if isinstance(stages, list) else []):
        if not isinstance(stage, dict):
            continue
        kind: Any = stage.get("kind")
        doses = stage["doses"] if isinstance(stage.get("doses"), list) else []
        whole = all(isinstance(n, int) and not isinstance(n, bool) for n in doses)
        for j, (before, after) in enumerate(pairwise(doses if whole else []), 1):
            if after <= before:
                yield Violation(("stages", i, "doses", j), f"doses must rise; {after} follows {before}")
        trainer, lora = [v if isinstance(v, dict) else {} for v in (stage.get("trainer"), stage.get("lora"))]
        for checked in (fields.check(kind, trainer), fields.check(kind, {}, lora)) if kind in kinds else ():
            for found in islice(checked, 1):
                yield Violation(("stages", i, *found.path), found.message)


def _probes(data: Any) -> Iterator[Violation]:
    known, probes = _stems(PROBES, "*.py"), data.get("probes", "world")
    if isinstance(probes, str) and probes not in TIERS:
        hint = f" (for one probe write [{probes}])" if probes in known else nearest(probes, TIERS)
        yield Violation(("probes",), f"no tier {probes!r}{hint}")
        return
    if not isinstance(probes, (str, list)):
        yield Violation(("probes",), mismatch(f"a tier ({', '.join(TIERS)}) or a list of probes", probes))
        return
    for i, name in enumerate(probes if isinstance(probes, list) else []):
        if not isinstance(name, str):
            yield Violation(("probes", i), mismatch("the name of a probe", name))
        elif name not in known:
            yield Violation(("probes", i), f"no probe {name!r}{nearest(name, known)}")
    if probes == []:
        yield Violation(("probes",), "names no probe")
    yield from _primary(data, probes, known)


def _primary(data: Any, probes: str | list[Any], known: list[str]) -> Iterator[Violation]:
    given = get(data, "judge", "primary") is not None
    for i, name in _names(data, "judge", "primary") if given else enumerate(Judge().primary):
        # The default is not in the file: what made it wrong there is the choice of probes.
        path = ("judge", "primary", i) if given else ("probes",)
        absent = f"{name!r} is not run" if given else f"judge.primary is not set; by default it has {name!r}, not run"
        tier, gate = _declared(name) if name in known else (None, False)
        if name not in known:
            if given:
                yield Violation(path, f"no probe {name!r}{nearest(name, known)}")
        elif gate:
            yield Violation(path, f"{name!r} is the gate that arms are matched on: it cannot be judged")
        elif isinstance(probes, list) and name not in probes:
            yield Violation(path, f"{absent}{nearest(name, map(str, probes))}")
        elif isinstance(probes, str) and tier in TIERS and TIERS.index(tier) > TIERS.index(probes):
            yield Violation(path, f"{absent}: it is of the tier {tier}")
    margins = get(data, "judge", "margins")
    for name in margins if isinstance(margins, dict) else ():
        if name.split(".")[0] not in known:
            yield Violation(("judge", "margins", name), f"no probe {name.split('.')[0]!r}{nearest(name, known)}")


def _declared(name: str) -> tuple[str | None, bool]:
    """`tier` and `gate` of a probe as its file states them in the call of Probe."""
    try:
        tree = ast.parse((PROBES / f"{name}.py").read_bytes())
    except SyntaxError:  # the suite will say so better
        return None, False
    calls = [n for n in ast.walk(tree) if isinstance(n, ast.Call) and getattr(n.func, "id", "") == "Probe"]
    said = {k.arg: k.value.value for call in calls for k in call.keywords if isinstance(k.value, ast.Constant)}
    return (str(said["tier"]) if "tier" in said else None), said.get("gate") is True


def _accelerate(data: Any) -> Iterator[Violation]:
    launch = data.get("launch") or {}
    name = launch.get("accelerate", Launch().accelerate) if isinstance(launch, dict) else None
    known = _stems(ACCELERATE, "*.yaml")
    if isinstance(name, str) and name not in known and not (name.endswith((".yaml", ".yml")) and _exists(name)):
        hint = _beside(name) if "/" in name else nearest(name, known)
        yield Violation(("launch", "accelerate"), f"no accelerate config {name!r}{hint}")
