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


def _digest() -> str:
    files = sorted(Path(__file__).parent.glob("*.py"))
    return hashlib.sha256(b"\0".join(path.read_bytes() for path in files)).hexdigest()


_STAMP = _digest()


def _inner(fastmath: set[str] | bool) -> Callable[[Callable], Any]:
    # without what Python or C would call: that is a third of the time to compile
    njit: Any = numba.njit  # its types lack some of its options
    return njit(
        nogil=True, error_model="numpy", fastmath=fastmath, no_cfunc_wrapper=True, no_cpython_wrapper=True
    )


def jit(function: Callable) -> Any:  # noqa: ANN401 - numba has no types
    """Compile a part of a kernel, with arithmetic that may be reordered."""
    return _inner(_FAST)(function)


def inlined(function: Callable) -> Any:  # noqa: ANN401
    """Copy a part into the one kernel that calls it: a call counts references to every array it is given."""
    njit: Any = numba.njit
    return njit(nogil=True, error_model="numpy", fastmath=_FAST, inline="always")(function)


def exact(function: Callable) -> Any:  # noqa: ANN401
    """Compile a part of a kernel, with arithmetic in the order that is written."""
    return _inner(False)(function)


def entry(function: Callable) -> Any:  # noqa: ANN401
    """Compile a kernel that Python calls, at its first call on this machine."""
    njit: Any = numba.njit
    kernel = njit(cache=True, nogil=True, error_model="numpy", fastmath=_FAST, no_cfunc_wrapper=True)(
        function
    )
    # no public way in numba 0.60 to 0.68; a test would notice if it ended
    kernel._cache._cache_file._source_stamp = _STAMP
    return kernel
