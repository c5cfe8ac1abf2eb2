"""Models on a hub: the files of a commit, which commit a branch is at, and in one line what went wrong.

Wrong input (a gated, private, missing or pickled model, a commit that is not there) is an InputError.  A hub that
cannot be reached, or stops half-way, is an Outage: files that came whole are kept and the same command goes on.
Only files in the repository's root are fetched.  The client itself reads the token in HF_TOKEN; nothing here ever
holds it.
"""

from __future__ import annotations

import errno
import os
import re
from pathlib import Path
from typing import NoReturn

from recipes.errors import InputError, Outage, one_line

COMMIT = re.compile(r"[0-9a-f]{40}")
# What a model folder may hand over: settings, safetensors and tokenizer files; nothing that is code or a pickle.
WANTED = ("*.json", "*.safetensors", "*.model", "*.txt", "NOTICE*", "LICENSE*")
ELSEWHERE = ("*/*", "consolidated*")  # the same weights once more, in another layout or for other programs
CODE = "*.py"
PICKLED = (".bin", ".pt", ".pth", ".ckpt")
PATIENCE = 3.0  # seconds for a question that a plan can do without: it has to answer at once


def fetch(hub: str, revision: str, code: bool = False) -> Path:
    """The folder of a model's files at a commit (or branch), from the ordinary cache when they are there.

    `code`: with the Python files in it, which are not run here.  InputError or Outage, see above; OSError where the
    disk is full.
    """
    from huggingface_hub import constants, snapshot_download

    said = f"base.hub {hub}@{revision[:8]}"
    wanted = [*WANTED, CODE] if code else list(WANTED)
    try:
        folder = Path(
            snapshot_download(
                hub, revision=revision, allow_patterns=wanted, ignore_patterns=list(ELSEWHERE), endpoint=_endpoint()
            )
        )
    except Exception as error:
        _refuse_full_disk(error, constants.HF_HUB_CACHE)
        raise _told(said, hub, error) from error
    if not any(folder.glob("*.safetensors")) and (pickled := _pickled(hub, folder.name)):
        raise InputError(f"{said}: only pickled weights ({pickled}), which can run code; safetensors are needed")
    return folder


def commit_of(hub: str, revision: str | None, patience: float = 10.0) -> str:
    """The commit, 40 hex digits, that a branch or tag (None: the main branch) is at now."""
    from huggingface_hub import HfApi

    try:
        sha = HfApi(endpoint=_endpoint()).model_info(hub, revision=revision, timeout=patience).sha
    except Exception as error:
        raise _told(f"base.hub {hub}", hub, error) from error
    if sha is None or not COMMIT.fullmatch(sha):
        raise Outage(f"base.hub {hub}: the hub does not say at which commit {revision or 'main'} is")
    return sha


def refuse_unpinned(hub: str, revision: str | None) -> NoReturn:
    """InputError, with the commit that the branch is at where the hub can be asked."""
    how = "`parity pin RECIPE` writes it down"
    try:
        now = how if _offline() else f"{revision or 'main'} is at {commit_of(hub, revision, PATIENCE)} now, {how}"
    except Outage:
        now = how
    except InputError as error:  # there is nothing to pin it to
        now = str(error).partition(": ")[2]
    got = f"got {revision!r}"
    raise InputError(f"base.revision: pin {hub} to a commit (40 hex digits), a branch moves; {got}; {now}")


def _endpoint() -> str | None:
    """HF_ENDPOINT as it is now; None: the client's own."""
    return os.environ.get("HF_ENDPOINT") or None


def _pickled(hub: str, commit: str) -> str | None:
    """A pickled file of weights in the repository, by the listing that the download left in the cache."""
    from huggingface_hub import get_cached_repo_tree
    from huggingface_hub.errors import CachedRepoTreeNotFoundError

    try:
        names = sorted(file.path for file in get_cached_repo_tree(hub, revision=commit))
    except (CachedRepoTreeNotFoundError, OSError, ValueError):
        return None
    return next((name for name in names if Path(name).suffix in PICKLED), None)


def _refuse_full_disk(error: BaseException, cache: str) -> None:
    """The error of a full disk with the place of the cache in it, whatever the client wraps it in."""
    seen: BaseException | None = error
    while seen is not None:
        for code in (errno.ENOSPC, errno.EDQUOT):
            if getattr(seen, "errno", None) == code or f"(os error {code})" in str(seen):
                raise OSError(code, os.strerror(code), cache) from error
        seen = seen.__cause__ or seen.__context__


def _told(said: str, hub: str, error: BaseException) -> InputError | Outage:
    """What became of a request, in one line that says what to do."""
    from huggingface_hub import errors

    given = "the token in HF_TOKEN" if os.environ.get("HF_TOKEN") else "no token is given"
    response = getattr(error, "response", None)
    status = getattr(response, "status_code", None)
    if isinstance(error, errors.GatedRepoError):
        rest = f"{given} has no access to it" if status == 403 else f"{given}"
        return InputError(f"{said}: gated; accept its terms on its page and set HF_TOKEN to a token of that account "
                          f"({rest})")  # fmt: skip
    if status == 401 and response is not None and "credentials" in response.headers.get("X-Error-Message", ""):
        return InputError(f"{said}: the hub does not know the token; set HF_TOKEN to a valid one, or unset it")
    if isinstance(error, errors.RepositoryNotFoundError):
        return InputError(f"{said}: no such model on the hub, or a private one ({given})")
    if isinstance(error, errors.RevisionNotFoundError):
        return InputError(f"{said}: the model is there, and has no such revision")
    if isinstance(error, errors.HFValidationError):
        return InputError(f"{said}: {_short(error)}")
    if _offline():
        return InputError(f"{said}: not in the hub's cache, and HF_HUB_OFFLINE forbids fetching it")
    if status is not None and 400 <= status < 500 and status not in (408, 429):
        return InputError(f"{said}: the hub refuses it: {_short(error)}")
    what = f"it answers {status}" if status else _short(error)
    return Outage(one_line(f"{said}: the hub cannot be reached ({what}); files that came whole are kept, and the "
                           "same command goes on"))  # fmt: skip


def _offline() -> bool:
    from huggingface_hub import constants

    return bool(constants.HF_HUB_OFFLINE)


def _short(error: BaseException) -> str:
    return one_line(f"{type(error).__name__}: {' '.join(str(error).split())}", 200)
