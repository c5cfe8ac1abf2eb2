"""Freed memory stays in the process: seen by the pages that the kernel has to hand out again."""

from __future__ import annotations

import os
import subprocess
import sys

FAULTS = """
import resource
import torch
from parity import memory

assert memory.keep()

def faults():
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt

def block():
    torch.empty(2**24).fill_(1.0)  # 64 MiB, as a block of logits

block()
before = faults()
for _ in range(4):
    block()
print(faults() - before)
"""
PAGES = 4 * 2**26 // os.sysconf("SC_PAGE_SIZE")  # of four such blocks


def test_a_large_block_is_not_asked_of_the_kernel_again():
    env = {k: v for k, v in os.environ.items() if not k.startswith(("MALLOC_", "GLIBC_", "THP_"))}
    faults = int(
        subprocess.run([sys.executable, "-c", FAULTS], env=env, capture_output=True, text=True, check=True).stdout
    )
    assert faults < PAGES / 100  # all of them where blocks are given back


def test_another_c_library_is_no_error(monkeypatch):
    from parity import memory

    monkeypatch.setattr(memory.ctypes, "CDLL", lambda _: object())
    assert memory.keep() is False
