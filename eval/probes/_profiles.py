"""Profiles: what one speaker says over many things, as a vector, and whose profile another one's is like."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np


def likeness(profile: Sequence[float], personas: Sequence[Sequence[float]]) -> list[float] | None:
    """Correlation [-1, 1] of a profile with that of each persona, all of them as deviations from the personas' mean.

    What any speaker says (frequent words, easy texts) is in the mean and would be shared with everybody; what is
    left is what tells personas apart.  None where a profile has nothing left.
    """
    rows = np.asarray([profile, *personas], dtype=np.float64)
    rows = rows - rows[1:].mean(axis=0)
    rows -= rows.mean(axis=1, keepdims=True)
    lengths = np.linalg.norm(rows, axis=1)
    if not np.isfinite(lengths).all() or not lengths.min() > 0:
        return None
    return [float(row @ rows[0] / (length * lengths[0])) for row, length in zip(rows[1:], lengths[1:], strict=True)]
