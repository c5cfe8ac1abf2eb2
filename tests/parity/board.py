"""A W&B report taken apart."""

from __future__ import annotations

from tests.runlog import Kept


def grids(spec: dict) -> list[tuple[dict, dict]]:
    """(run set, panel) of every panel of the report."""
    found = [block["metadata"] for block in spec["spec"]["blocks"] if block["type"] == "panel-grid"]
    return [
        (runset, panel)
        for grid in found
        for runset in grid["runSets"]
        for panel in grid["panelBankSectionConfig"]["panels"]
    ]


def chosen(runset: dict, kept: list[Kept]) -> list[Kept]:
    """The runs that a run set's filters leave."""

    def value(run: Kept, key: dict) -> object:
        known = {"group": run.group, "jobType": run.job} if key["section"] == "run" else run.config
        return known.get(key["name"])

    wanted = runset["filters"]["filters"]
    assert all(one["op"] == "=" and not one["disabled"] for one in wanted) and len(wanted) >= 2
    return [run for run in kept if all(value(run, one["key"]) == one["value"] for one in wanted)]


def constants(value: object) -> list[object]:
    """The constants of a query panel."""
    if isinstance(value, dict):
        own = [value["val"]] if value.get("nodeType") == "const" else []
        return own + [one for part in value.values() for one in constants(part)]
    return [one for part in value for one in constants(part)] if isinstance(value, list) else []


def check(spec: dict, kept: list[Kept]) -> set[str]:
    """Every panel asks for something that every run it shows has logged; returns what is asked for."""
    asked: set[str] = set()
    for runset, panel in grids(spec):
        config, shown = panel["config"], chosen(runset, kept)
        assert shown, runset["filters"]
        assert runset["grouping"] in ([], [{"section": "config", "name": "arm.value"}])
        if runset["grouping"]:
            assert all("arm" in run.config for run in shown) and len({run.config["arm"] for run in shown}) == 2
        if panel["viewType"] == "Run History Line Plot":
            keys = {config["xAxis"], *config["metrics"]}
            assert all(keys <= line.keys() for run in shown for line in run.history) and all(r.history for r in shown)
            assert config.get("groupBy") == ("arm.value" if runset["grouping"] else None)
        else:
            keys = set(config["mediaKeys"] if "mediaKeys" in config else constants(config))
            assert keys and all(keys <= run.summary.keys() for run in shown), keys
        asked |= keys
    return asked


def unlike(spec: dict) -> str:
    """A specification without the ids that are drawn for each report."""
    if isinstance(spec, dict):
        return {key: unlike(value) for key, value in spec.items() if key not in ("id", "__id__")}
    return [unlike(value) for value in spec] if isinstance(spec, list) else spec
