"""How much memory this process has used at most, and how much there is left."""

from __future__ import annotations

import contextlib
import math
import resource
import sys
from pathlib import Path


def forget_peak_memory() -> None:
    """Begin a new peak: the stages of a pipeline share a process, and each is to say its own."""
    with contextlib.suppress(OSError):  # Linux only
        Path("/proc/self/clear_refs").write_text("5")


def peak_rss_mb() -> float:
    """Return the largest resident size since the start, or since `forget_peak_memory`, in MiB."""
    with contextlib.suppress(OSError):
        for line in Path("/proc/self/status").read_text().splitlines():
            if line.startswith("VmHWM:"):
                return int(line.split()[1]) / 1024  # it counts KiB
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def available_mb(device: str = "cpu") -> float:
    """Return how much memory a new process could have, in MiB; unlimited where Linux does not tell."""
    torch = sys.modules.get("torch")  # never imported for this: a robot has none
    if torch is not None and device.startswith("cuda"):
        return torch.cuda.mem_get_info(device)[0] / 2**20
    try:
        lines = Path("/proc/meminfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        return math.inf
    sizes = dict(line.split(":", 1) for line in lines)
    return int(sizes["MemAvailable"].split()[0]) / 1024  # it counts KiB


def peak_vram_mb() -> float:
    """Return the most GPU memory torch has held, in MiB; 0 where it was not used."""
    torch = sys.modules.get("torch")  # never imported for this: a robot has none
    if torch is None or not torch.cuda.is_initialized():
        return 0.0
    return torch.cuda.max_memory_allocated() / 2**20
