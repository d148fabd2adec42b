"""NumPy without its warnings, where infinity and NaN are looked for afterwards."""

from __future__ import annotations

from contextvars import Context

import numpy as np

_quiet = Context()
_quiet.run(np.seterr, all="ignore")


def quiet() -> Context:
    """A context whose `run(compute, *args)` is as `np.errstate(all="ignore")`, which takes ten times as long to enter.

    NumPy keeps its settings in a context variable; a context holds them ready. One can be entered once at a time, hence
    a copy for each.

    >>> quiet().run(np.exp, 1e3)
    np.float64(inf)
    """
    return _quiet.copy()
