"""Commands in processes of their own, several at once, each on a lane (a device); what goes wrong is told in a line.

Nothing here knows what the commands do: `parity.launching` gives them their meaning.
"""

from __future__ import annotations

import errno
import os
import re
import signal
import socket
import subprocess
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import IO, Any

POLL_SECONDS = 0.2  # between looks at the running jobs
END_SECONDS = 10.0  # that a job has to end by itself when it is asked to
TRIES = 3  # of a job whose port was taken by someone else between our look and its own
LINES = 15  # of a failed job's output that are shown
PORT = "{port}"  # in a command: a free port, another for every job that runs
# As the system, safetensors, and torch (which has no other word for it) say it.
DISK_FULL = re.compile(
    r"No space left on device|os error 28\b|Errno 28\b|Disk quota exceeded|Errno 122\b|"
    r"PytorchStreamWriter failed writing",
    re.IGNORECASE,
)
PORT_TAKEN = re.compile(r"EADDRINUSE|address already in use", re.IGNORECASE)
# What drivers, CUDA and NCCL say when a device is lost, broken or full.
DEVICE = re.compile(
    r"device lost|fallen off the bus|\bXid\b|uncorrectable|\bECC\b|CUDA error|CUDA out of memory|OutOfMemoryError|"
    r"unspecified launch failure|NCCL (?:\w+ )*error|ncclSystemError|ncclUnhandledCudaError|HIP error",
    re.IGNORECASE,
)
# How launchers tell of a worker that was killed: accelerate, then torchrun.
KILLED = re.compile(
    r"died with <Signals\.(SIG\w+)|exitcode\s*:\s*-\d+ \(pid: \d+\)\s*\((SIG\w+)\)|Signal \d+ \((SIG\w+)\)"
)
ROOT_CAUSE = "Root Cause (first observed failure)"
LAUNCHERS = ("accelerate/commands/launch.py", "torch/distributed/run.py")


class Unfinished(Exception):
    """Jobs failed and others were not begun.  `str(error)` is the last line that the user is shown."""


@dataclass(frozen=True)
class Job:
    """A command; `name` as the user knows it, `key` unique, `after`: keys of jobs that are to be done before."""

    key: str
    name: str
    command: tuple[str, ...]
    after: tuple[str, ...] = ()


@dataclass
class _Running:
    job: Job
    process: subprocess.Popen[bytes]
    output: IO[bytes]
    port: int
    tries: int = 1

    def text(self) -> str:
        self.output.seek(0)
        return self.output.read().decode("utf-8", "replace")


@dataclass
class Jobs:
    """Runs jobs on `lanes`: what each adds to the environment of its job; there are as many jobs at once as lanes.

    wanted(job): asked when all before it are done; where it says no the job is left out.  done(job): asked when it has
    ended well, whether it did what it should.  begun(jobs that run), ended(job), look(jobs that run): tell of progress.
    say(text): is given what is known of a failure, at once.  `disk`: what to name when a job finds it full.
    """

    lanes: Sequence[Mapping[str, str]]
    wanted: Callable[[Job], bool] = lambda job: True
    done: Callable[[Job], bool] = lambda job: True
    begun: Callable[[list[Job]], None] = lambda jobs: None
    ended: Callable[[Job], None] = lambda job: None
    look: Callable[[list[Job]], None] = lambda jobs: None
    say: Callable[[str], None] = print
    disk: str | None = None
    _running: dict[int, _Running] = field(default_factory=dict)
    _disk_full: bool = False

    def run(self, jobs: Sequence[Job]) -> list[Job]:
        """Run all jobs, in their order as far as lanes are free; returns those that failed or were not begun.

        After a failure no other job is begun; those that run are waited for, since what they make is kept.  An
        interrupt, or SIGTERM, ends all of them with everything that they started.
        OSError (ENOSPC) where a job found the disk full.
        """
        pending = list(jobs)
        failed: list[Job] = []
        with _sigterm_as_exit():
            try:
                while self._running or (pending and not failed):
                    if not failed:
                        self._begin(pending)
                    if self._running:
                        time.sleep(POLL_SECONDS)
                        self.look([each.job for each in self._running.values()])
                    failed += self._collect()
            finally:  # nothing runs here unless it was interrupted
                end([each.process for each in self._running.values()])
        if self._disk_full:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), self.disk)
        return failed + pending

    def _begin(self, pending: list[Job]) -> None:
        """Fill the free lanes with the first jobs that can go."""
        for lane in range(len(self.lanes)):
            while lane not in self._running:
                unfinished = {job.key for job in pending} | {each.job.key for each in self._running.values()}
                job = next((job for job in pending if not unfinished.intersection(job.after)), None)
                if job is None:
                    return
                pending.remove(job)
                if self.wanted(job):
                    self._running[lane] = self._start(job, lane)
                    self.begun([each.job for each in self._running.values()])
                else:
                    self.ended(job)

    def _start(self, job: Job, lane: int) -> _Running:
        port = free_port({each.port for each in self._running.values()})
        output = tempfile.TemporaryFile()  # noqa: SIM115  closed when the job is collected
        process = subprocess.Popen(
            [str(port) if part == PORT else part for part in job.command],
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            env={**os.environ, **self.lanes[lane]},
            start_new_session=True,  # a group of its own: the terminal's Ctrl-C is ours to pass on
        )
        return _Running(job, process, output, port)

    def _collect(self) -> list[Job]:
        """Take note of the jobs that have ended; returns those that failed."""
        failed = []
        for lane, each in list(self._running.items()):
            code = each.process.poll()
            if code is None:
                continue
            text = each.text()
            each.output.close()
            if code and PORT_TAKEN.search(text) and each.tries < TRIES:
                again = self._start(each.job, lane)
                again.tries = each.tries + 1
                self._running[lane] = again
                continue
            del self._running[lane]
            if code == 0 and self.done(each.job):
                self.ended(each.job)
                continue
            failed.append(each.job)
            if DISK_FULL.search(text):
                self._disk_full = True  # told once, in one line
            else:
                self.say(told(each.job.name, code, text))
            if self._running:
                self.say(f"waiting for what runs: {', '.join(other.job.name for other in self._running.values())}")
        return failed


def told(name: str, code: int, output: str) -> str:
    """What is known of a job that failed: a line, and below it the last lines of its output without its launcher's."""
    cause = output.rpartition(ROOT_CAUSE)[2]  # torchrun names the others, which it then ended, first
    match = KILLED.search(cause)
    killer = signal.Signals(-code).name if code < 0 else next(filter(None, match.groups()), "") if match else ""
    device = next((line.strip() for line in output.splitlines() if DEVICE.search(line)), "")
    if killer:
        line = f"{name}: killed by {killer}"
        line += " (out of memory, or ended by someone)" if killer == "SIGKILL" and not device else ""
    else:
        line = f"{name} failed (exit {code})" if code else f"{name} ended without making anything"
    lines = [part for part in _own(output).splitlines() if part.strip()]
    return "\n".join([f"{line}: {device}" if device else line, *(f"  {part}" for part in lines[-LINES:])])


def _own(output: str) -> str:
    """Output up to where the launcher begins to tell how it was left by the job."""
    blocks = [match.start() for match in re.finditer(r"^Traceback \(most recent call last\):", output, re.MULTILINE)]
    for start, stop in zip(blocks, [*blocks, len(output)][1:], strict=True):
        if any(each in output[start:stop] for each in LAUNCHERS):
            return re.sub(r"^[EW]\d{4} .*torch/distributed/elastic.*\n?", "", output[:start], flags=re.MULTILINE)
    return output


def free_port(taken: set[int]) -> int:
    """A port of this machine that nobody listens on and that is not among those `taken` by jobs that run."""
    while True:
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            port = int(probe.getsockname()[1])
        if port not in taken:
            return port


def end(processes: Sequence[subprocess.Popen[bytes]]) -> None:
    """End processes with all that they started: asked first, so that files are closed, then killed."""
    import psutil

    tree: list[psutil.Process] = []
    for process in processes:
        try:  # launchers give their workers sessions of their own, which a signal to the group does not reach
            top = psutil.Process(process.pid)
            tree += [*top.children(recursive=True), top]
        except psutil.NoSuchProcess:
            continue
    for how in ("terminate", "kill"):
        for each in tree:
            try:
                getattr(each, how)()
            except psutil.NoSuchProcess:
                continue
        _, tree = psutil.wait_procs(tree, timeout=END_SECONDS)
    for process in processes:
        process.wait()


@contextmanager
def _sigterm_as_exit() -> Iterator[None]:
    """SIGTERM as an exception, so that jobs are ended before this process is; only where signals can be had."""

    def leave(number: int, frame: Any) -> None:
        raise SystemExit(128 + number)

    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = signal.signal(signal.SIGTERM, leave)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)
