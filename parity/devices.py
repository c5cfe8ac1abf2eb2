"""What a model would be trained on here, and how fast that is.  Looks without importing torch."""

from __future__ import annotations

import os
import platform
import shutil
import subprocess
from dataclasses import dataclass, replace
from functools import lru_cache
from itertools import takewhile
from pathlib import Path


@dataclass(frozen=True)
class Device:
    """`half`, `single`: dense products per second in bfloat16 and in float32; `train`, `measure`: shares of them that
    the work here reaches; `bandwidth` in bytes per second; `memory`: bytes."""

    name: str
    half: float
    single: float
    bandwidth: float
    memory: float
    train: float = 0.3
    measure: float = 0.6
    launch: float = 1e-3  # seconds of a block and optimiser step that starting its kernels takes at least

    def measuring(self, precision: str) -> float:
        """Products per second of measuring at a recipe's `precision`.

        TF32 is half of bfloat16 on the data sheets of all that are listed here; the share of it that is reached is
        assumed to be that of training.  CPUs are counted as if they had no bfloat16.
        """
        full = self.single * self.measure
        return full if precision == "highest" else max(full, self.half / 2 * self.train)


GIB = 2.0**30
# Makers' data sheets: dense bfloat16 (twice as much is printed there where sparsity is counted in), float32 without
# tensor cores, memory bandwidth and memory.  30 % of the peak in training is an assumption: 20 to 46 % is what large
# models reach on long rows (arXiv 2204.02311, table 3), and rows are short here; so is the launch time.
GPUS = {
    "B200": Device("B200", 2250e12, 80e12, 8.0e12, 180 * GIB),
    "H200": Device("H200", 989e12, 67e12, 4.8e12, 141 * GIB),
    "H100": Device("H100", 989e12, 67e12, 3.35e12, 80 * GIB),
    "A100": Device("A100", 312e12, 19.5e12, 2.0e12, 80 * GIB),
    "L40S": Device("L40S", 362e12, 91.6e12, 0.864e12, 48 * GIB),
    "A10G": Device("A10G", 70e12, 31e12, 0.6e12, 24 * GIB),
    "L4": Device("L4", 121e12, 30e12, 0.3e12, 24 * GIB),
    "RTX 4090": Device("RTX 4090", 165e12, 82.6e12, 1.0e12, 24 * GIB),
    "RTX 3090": Device("RTX 3090", 71e12, 35.6e12, 0.936e12, 24 * GIB),
}
LISTED = ("H100", "A100", "RTX 4090")  # told of where no GPU is found
# A core with AVX-512 (an Intel Xeon): 220 GFLOP/s in a large float32 product.  LoRA on SmolLM2-135M trained at 135
# tokens/s on two of them, 73 of 444 GFLOP/s; its suite was measured at 62 % (docs/PERFORMANCE.md).  A core without (an
# AMD EPYC at 2.4 GHz): 92 GFLOP/s, at which Gemma 3 270M was measured at 75 %; its training was no slower.
WIDE, NARROW = (220e9, 0.16, 0.6), (92e9, 0.38, 0.75)


@lru_cache
def gpus() -> tuple[Device, ...]:
    """The GPUs of this machine, as their driver lists them; those that are not in the table as an A100 of their size.

    CUDA_VISIBLE_DEVICES counts.
    """
    if shutil.which("nvidia-smi") is None or os.environ.get("CUDA_VISIBLE_DEVICES") == "":
        return ()
    query = ["nvidia-smi", "--query-gpu=name,memory.total", "--format=csv,noheader,nounits"]
    try:
        told = subprocess.run(query, capture_output=True, text=True, timeout=5, check=True).stdout
    except (OSError, subprocess.SubprocessError):
        return ()
    found = tuple(device for line in told.splitlines() if (device := listed(line)) is not None)
    visible = os.environ.get("CUDA_VISIBLE_DEVICES", "")
    return found[: sum(1 for _ in takewhile(_is_device, visible.split(",")))] if visible else found


def _is_device(id: str) -> bool:
    """Whether CUDA takes it for one: it stops at the first negative number."""
    return not id.strip().startswith("-")


def listed(line: str) -> Device | None:
    """The device of a line ``name, MiB``."""
    name, _, mebibytes = line.rpartition(",")
    if not mebibytes.strip().isdecimal():
        return None
    known = next((device for key, device in GPUS.items() if key in name), GPUS["A100"])
    memory = float(mebibytes) * 2**20
    return replace(known, name=name.strip().removeprefix("NVIDIA "), memory=memory)


def cores() -> int:
    """Processor cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def processor() -> Device:
    """The CPU, with the cores that this process may use."""
    many = cores()
    memory = float(os.sysconf("SC_PAGE_SIZE")) * os.sysconf("SC_PHYS_PAGES")
    name = f"{many} CPU core{'s' if many > 1 else ''}"
    # bfloat16 is no faster there: it was 1.2 times as fast on a CPU that has it, and far slower on one without.
    core, train, measure = WIDE if wide() else NARROW
    return Device(name, core * many, core * many, 20e9 * many, memory, train, measure, launch=0.0)


def no_bfloat16() -> bool:
    """Whether torch computes in float32 here at any precision: on x86 without AVX-512 and without a GPU."""
    return not gpus() and platform.machine() in ("x86_64", "AMD64") and not wide()


def wide() -> bool:
    """Whether the processor multiplies sixteen numbers of 32 bits at once, as far as the system tells."""
    try:
        return "avx512f" in Path("/proc/cpuinfo").read_text().split()
    except OSError:
        return False
