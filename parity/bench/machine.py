"""What the benchmark ran on, and the rate at which it multiplies matrices: the physical limit of dense models."""

from __future__ import annotations

import os
import platform
import time
from importlib import metadata
from typing import Any

PACKAGES = ("torch", "transformers", "trl", "peft", "lm_eval")
SIZE, SIZE_CUDA = 2048, 8192  # side of the square matrices: large enough for full speed, small enough to repeat
BEST_OF = 8


def describe() -> dict[str, Any]:
    """Processor, cores, device, memory and versions."""
    import torch

    from parity.devices import cores

    versions = {}
    for name in PACKAGES:
        try:
            versions[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            continue
    cuda = torch.cuda.is_available()
    return {
        "processor": _processor(),
        "cores": cores(),
        "default_threads": torch.get_num_threads(),
        "device": torch.cuda.get_device_name() if cuda else "cpu",
        "memory_bytes": memory_bytes(),
        "load_average": list(os.getloadavg()),
        "versions": versions,
    }


def memory_bytes() -> int:
    """The machine's main memory."""
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")


def _processor() -> str:
    try:
        with open("/proc/cpuinfo") as handle:
            names = [line.split(":", 1)[1].strip() for line in handle if line.startswith("model name")]
    except OSError:
        names = []
    return names[0] if names else platform.processor() or platform.machine()


def matmul_rate(threads: int) -> float:
    """FLOP/s of a large float32 matrix product with `threads` threads, the best of several."""
    import torch

    cuda = torch.cuda.is_available()
    size, device = (SIZE_CUDA, "cuda") if cuda else (SIZE, "cpu")
    torch.set_num_threads(threads)
    a, b = torch.randn(size, size, device=device), torch.randn(size, size, device=device)
    out = torch.empty_like(a)
    best = float("inf")
    for _ in range(BEST_OF + 1):
        started = time.perf_counter()
        torch.mm(a, b, out=out)
        if cuda:
            torch.cuda.synchronize()
        best = min(best, time.perf_counter() - started)
    return 2 * size**3 / best


def device() -> str:
    """Where models go: the GPU where there is one."""
    import torch

    return "cuda" if torch.cuda.is_available() else "cpu"
