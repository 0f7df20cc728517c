"""numba's decorators, with one cache for kernels that stand in several files.

numba drops what it has cached of a function when that function's own file changes; a kernel into which one
of another file was compiled would go stale. Here the mark of a cached kernel is the text of all files of
this folder, and only the kernels that Python calls are cached: they hold what they call.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numba

# no "nnan" and "ninf": rays that miss may divide by zero
_FAST = {"nsz", "arcp", "contract", "reassoc", "afn"}
_njit: Any = numba.njit  # its types lack some of its options
# kernels own no memory: without counts of references (a private option, numba 0.60 to 0.68) colours take half
# the time; what would allocate does not compile
_COMMON: dict[str, Any] = {"nogil": True, "error_model": "numpy", "_nrt": False}


def _digest() -> str:
    files = sorted(Path(__file__).parent.glob("*.py"))
    return hashlib.sha256(b"\0".join(path.read_bytes() for path in files)).hexdigest()


_STAMP = _digest()


def _inner(fastmath: set[str] | bool) -> Callable[[Callable], Any]:
    # without what Python or C would call: that is a third of the time to compile
    return _njit(fastmath=fastmath, no_cfunc_wrapper=True, no_cpython_wrapper=True, **_COMMON)


def jit(function: Callable) -> Any:  # noqa: ANN401 - numba has no types
    """Compile a part of a kernel, with arithmetic that may be reordered."""
    return _inner(_FAST)(function)


def inlined(function: Callable) -> Any:  # noqa: ANN401
    """Copy a part into the one kernel that calls it: a call hands over dozens of arrays one by one."""
    return _njit(fastmath=_FAST, inline="always", **_COMMON)(function)


def exact(function: Callable) -> Any:  # noqa: ANN401
    """Compile a part of a kernel, with arithmetic in the order that is written."""
    return _inner(False)(function)


def entry(function: Callable) -> Any:  # noqa: ANN401
    """Compile a kernel that Python calls, at its first call on this machine."""
    kernel = _njit(cache=True, fastmath=_FAST, no_cfunc_wrapper=True, **_COMMON)(function)
    # no public way in numba 0.60 to 0.68; a test would notice if it ended
    kernel._cache._cache_file._source_stamp = _STAMP
    return kernel
