"""What W&B kept of a run on disk, read back without W&B's own writer: the transaction log and the files beside it.

The log has a header of 7 bytes (":W&B", 0xBEE1, version 0) and then the framing of LevelDB's log files: blocks of
32 KiB, fragments of CRC-32, length, kind (1 whole, 2 first, 3 middle, 4 last); together they are protobuf records.
"""

from __future__ import annotations

import json
import struct
import zlib
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

BLOCK, HEAD = 32768, 7


def records(path: Path) -> Iterator[Any]:
    """Every record; a log that ends in the middle of one, as a kill leaves it, yields those before."""
    from wandb.proto.wandb_internal_pb2 import Record

    data, at, held = path.read_bytes(), HEAD, b""
    assert data[:HEAD] == b":W&B" + struct.pack("<HB", 0xBEE1, 0)
    while at + HEAD <= len(data):
        left = BLOCK - at % BLOCK
        if left < HEAD:
            at += left
            continue
        crc, length, kind = struct.unpack("<IHB", data[at : at + HEAD])
        body = data[at + HEAD : at + HEAD + length]
        if len(body) < length:
            return
        assert crc == zlib.crc32(bytes([kind]) + body), path
        at, held = at + HEAD + length, held + body
        if kind in (1, 4):
            record = Record()
            record.ParseFromString(held)
            yield record
            held = b""


@dataclass
class Kept:
    """One offline run: what it was started with, its history by step, its summary, its artifacts' files."""

    folder: Path
    id: str = ""
    name: str = ""
    group: str = ""
    job: str = ""
    tags: list[str] = field(default_factory=list)
    config: dict[str, Any] = field(default_factory=dict)
    history: list[dict[str, Any]] = field(default_factory=list)
    summary: dict[str, Any] = field(default_factory=dict)
    artifacts: dict[str, Any] = field(default_factory=dict)
    axes: dict[str, str] = field(default_factory=dict)  # metric, or a pattern of them -> what it is drawn over
    started: float = 0.0
    ended: bool = False

    def table(self, key: str) -> list[dict[str, Any]]:
        """A table that was logged, as dicts."""
        told = json.loads((self.folder / "files" / self.summary[key]["path"]).read_text())
        return [dict(zip(told["columns"], row, strict=True)) for row in told["data"]]


def _items(items: Any) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for item in items:
        *outer, last = [item.key] if item.key else list(item.nested_key)
        at = found
        for key in outer:
            at = at.setdefault(key, {})
        at[last] = json.loads(item.value_json)
    return found


def read(folder: Path) -> Kept:
    """Read an offline run's folder."""
    (log,) = folder.glob("*.wandb")
    kept = Kept(folder)
    for record in records(log):
        kind = record.WhichOneof("record_type")
        if kind == "run":
            run = record.run
            kept.id, kept.name, kept.group, kept.job = run.run_id, run.display_name, run.run_group, run.job_type
            kept.tags, kept.started = list(run.tags), run.start_time.seconds + run.start_time.nanos / 1e9
            kept.config = {u.key: json.loads(u.value_json) for u in run.config.update if u.key != "_wandb"}
        elif kind == "history":
            kept.history.append(_items(record.history.item))
        elif kind == "summary":
            kept.summary |= _items(record.summary.update)
        elif kind == "metric":
            kept.axes[record.metric.name or record.metric.glob_name] = record.metric.step_metric
        elif kind == "artifact":
            kept.artifacts[record.artifact.name] = record.artifact
        elif kind == "exit":
            kept.ended = True
    return kept


def runs(root: Path) -> list[Kept]:
    """All offline runs below a folder, in the order in which they were started."""
    found = [read(folder) for folder in root.rglob("offline-run-*") if folder.is_dir()]
    return sorted(found, key=lambda run: run.started)
