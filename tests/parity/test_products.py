"""What probes cost on one model: every shipped probe is in the table, and costs add up as its columns say."""

from __future__ import annotations

from pathlib import Path

import pytest

from eval.probes import TIERS, select
from parity import devices, products
from parity.devices import NARROW, WIDE, no_bfloat16, processor
from parity.products import ASKED, products_of
from parity.shapes import Shape

GEMMA = Shape("gemma3_text", 640, 2048, 18, 4, 1, 256, 262144, tied=True)


def test_every_shipped_probe_is_in_the_table():
    assert set(ASKED) == {probe.name for probe in select(list(TIERS)[-1])}


def test_a_head_costs_by_the_places_it_scores_and_blocks_by_tokens():
    (probe,) = select(["guardrail"])
    asked = ASKED["guardrail"]
    body, head = 2 * GEMMA.blocks, 2 * 640 * 262144
    found = [products_of(GEMMA, [probe], arms)["guardrail"] for arms in (1, 2, 5)]
    two = body * asked.tokens + head * asked.places
    assert found == [two, two, two + 3 * (body * asked.more_tokens + head * asked.more_places)]
    # Of a small model with many words the head is the larger part: what counting tokens alone gets wrong.
    assert head * asked.places > 0.4 * two
    assert products_of(None, [probe], 2) == {"guardrail": asked.tokens + asked.places}


def test_a_probe_that_is_not_in_the_table_costs_something(monkeypatch):
    monkeypatch.setattr(products, "ASKED", {})
    assert products_of(GEMMA, select(["geometry"]), 2)["geometry"] > 0


@pytest.mark.parametrize(("flags", "expected"), [("fma avx2 avx512f", WIDE), ("fma avx2", NARROW), (None, NARROW)])
def test_a_core_is_as_fast_as_its_units_are_wide(flags, expected, monkeypatch):
    def read(path: Path) -> str:
        if flags is None:
            raise FileNotFoundError(path)
        return f"flags\t\t: {flags}\n"

    monkeypatch.setattr(Path, "read_text", read)
    monkeypatch.setattr(devices, "cores", lambda: 2)
    monkeypatch.setattr(devices, "gpus", lambda: ())
    monkeypatch.setattr(devices.platform, "machine", lambda: "x86_64")
    assert no_bfloat16() == (expected is NARROW)
    found = processor()
    assert (found.single, found.train, found.measure) == (2 * expected[0], *expected[1:])
