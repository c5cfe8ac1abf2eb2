"""The probe suite: one module per probe, each with a `PROBE`; a new file here is a new probe."""

from __future__ import annotations

from collections.abc import Iterable
from functools import cache
from importlib import import_module
from pkgutil import iter_modules

from eval.probe import Probe
from recipes.errors import InputError, nearest

TIERS = ("world", "small", "large")


@cache
def discover() -> dict[str, Probe]:
    """All probes by name, in order of name.  ValueError where a module's probe has another name than the module."""
    found = {}
    for module in sorted(info.name for info in iter_modules(__path__) if not info.name.startswith("_")):
        probe = import_module(f"{__name__}.{module}").PROBE
        if probe.name != module:
            raise ValueError(
                f"eval/probes/{module}.py: its probe is called {probe.name!r}; a file has its probe's name"
            )
        if probe.measures[0].name != probe.name:
            raise ValueError(f"eval/probes/{module}.py: the first measure is the headline and has the probe's name")
        found[module] = probe
    return found


def select(wanted: str | Iterable[str]) -> tuple[Probe, ...]:
    """Probes of a size tier (a string: that tier and those below) or by name.  InputError for an unknown one."""
    known = discover()
    if isinstance(wanted, str):
        if wanted not in TIERS:
            raise InputError(f"probes: no tier {wanted!r}{nearest(wanted, TIERS)}")
        return tuple(p for p in known.values() if TIERS.index(p.tier) <= TIERS.index(wanted))
    names = tuple(wanted)
    for name in names:
        if name not in known:
            raise InputError(f"probes: no probe {name!r}{nearest(name, known)}")
    return tuple(known[name] for name in names)
