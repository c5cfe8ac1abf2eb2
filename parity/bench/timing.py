"""Two sides on the same work: alternating rounds, seconds, peak memory, and their statistics."""

from __future__ import annotations

import ctypes
import gc
import statistics
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

OURS, USUAL = "ours", "usual"
SAMPLE_SECONDS = 0.25  # between looks at the memory of processes that a side starts; a look takes milliseconds


@dataclass
class Side:
    """One way to do the work.  `work` does a whole round and returns its result; `prepare` and `after` are not timed.

    `threads`: of torch, set before every round.  `processes`: whether it starts some, whose memory then counts too.
    """

    work: Callable[[], Any]
    threads: int
    prepare: Callable[[], None] = lambda: None
    after: Callable[[], None] = lambda: None
    processes: bool = False
    seconds: list[float] = field(default_factory=list)
    peaks: list[int] = field(default_factory=list)  # bytes
    resting: list[int] = field(default_factory=list)  # bytes before the round: imports and model
    result: Any = None

    def round(self) -> None:
        """Do the work once; keep seconds, memory and the result."""
        import torch

        torch.set_num_threads(self.threads)
        self.prepare()
        settle_memory()
        with Memory(self.processes) as memory:
            started = time.perf_counter()
            self.result = self.work()
            if torch.cuda.is_available():
                torch.cuda.synchronize()
            self.seconds.append(time.perf_counter() - started)
        self.peaks.append(memory.peak)
        self.resting.append(memory.before)
        self.after()

    def summary(self) -> dict[str, Any]:
        """What the JSON carries of a side."""
        found: dict[str, Any] = {**spread(self.seconds), "threads": self.threads}
        if peak := max(self.peaks, default=0):
            found |= {"peak_bytes": peak, "resting_bytes": min(self.resting)}
        return found


def alternate(sides: Mapping[str, Side], repeats: int, tick: Callable[[], None] = lambda: None) -> None:
    """`repeats` rounds of every side; who begins changes from repeat to repeat, so that drift falls on all alike."""
    names = list(sides)
    for k in range(repeats):
        for name in names if k % 2 == 0 else reversed(names):
            sides[name].round()
            tick()


def spread(seconds: Sequence[float]) -> dict[str, Any]:
    """All repeats with their median, least and most."""
    return {
        "seconds": list(seconds),
        "median": statistics.median(seconds),
        "low": min(seconds),
        "high": max(seconds),
    }


def compared(sides: Mapping[str, Side]) -> dict[str, Any]:
    """Both sides and how many times as fast ours is: by the medians, and the least and most within a repeat."""
    ours, usual = sides[OURS].seconds, sides[USUAL].seconds
    each = [u / o for o, u in zip(ours, usual, strict=True)]
    return {
        "ratio": statistics.median(usual) / statistics.median(ours),
        "ratio_low": min(each),
        "ratio_high": max(each),
        OURS: sides[OURS].summary(),
        USUAL: sides[USUAL].summary(),
    }


def settle_memory() -> None:
    """Give back what an earlier round left, so that its peak is not taken for the next one's."""
    import torch

    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats()
    else:
        try:
            ctypes.CDLL("libc.so.6").malloc_trim(0)
        except (OSError, AttributeError):
            return  # another C library: its allocator decides


class Memory:
    """Context manager: `peak` bytes inside it and those `before` it; 0 where the system does not tell.

    On CUDA what torch allocated on the device; else the resident set of this process (the kernel's own peak, reset on
    entry) and, sampled and added, of the processes that it starts.
    """

    def __init__(self, processes: bool = False) -> None:
        self.before = self.peak = self._children = 0
        self._processes = processes

    def __enter__(self) -> Memory:
        import torch

        self._cuda = torch.cuda.is_available()
        if self._cuda:
            self.before = torch.cuda.memory_allocated()
            return self
        self._known = _reset_peak()
        self.before = _status("VmRSS") if self._known else 0
        self._done = threading.Event()
        self._watch = threading.Thread(target=self._sample, daemon=True)
        if self._processes:
            self._watch.start()
        return self

    def __exit__(self, *error: object) -> None:
        import torch

        if self._cuda:
            self.peak = torch.cuda.max_memory_allocated()
            return
        self._done.set()
        if self._processes:
            self._watch.join()
        self.peak = _status("VmHWM") + self._children if self._known else 0

    def _sample(self) -> None:
        import psutil

        me = psutil.Process()
        while not self._done.wait(SAMPLE_SECONDS):
            total = 0
            for child in me.children(recursive=True):
                try:
                    total += child.memory_info().rss
                except psutil.Error:
                    continue  # it has just ended
            self._children = max(self._children, total)


def _reset_peak() -> bool:
    try:
        with open("/proc/self/clear_refs", "w") as handle:
            handle.write("5")
    except OSError:
        return False
    return True


def _status(key: str) -> int:
    """A line of /proc/self/status, in bytes."""
    with open("/proc/self/status") as handle:
        for line in handle:
            if line.startswith(f"{key}:"):
                return int(line.split()[1]) * 1024
    return 0
