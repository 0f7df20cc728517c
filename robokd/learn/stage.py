"""What every stage that simulates begins with: seeds and threads, its run folder, its environment."""

from __future__ import annotations

import contextlib
import ctypes
from collections.abc import Mapping, Sequence
from typing import Any, Protocol

import torch
from torch import Tensor

from robokd.config import dump
from robokd.draws import Draws
from robokd.env.base import Setup, TaskEnv
from robokd.files import sha256_of
from robokd.learn import ranks
from robokd.memory import forget_peak_memory
from robokd.run import Run
from robokd.vision.sensor import Corruption

_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD = -1, -3  # options of mallopt(3)
_KEEP_BYTES = 1 << 30


class StageConfig(Protocol):
    """What the config of every stage that simulates has; `renderer` and `corrupt` only where it may see."""

    task: Any  # a registered part, as are sim and renderer
    sim: Any
    runs: str
    seed: int
    device: str
    threads: int


def begin(seed: int, threads: int, *, alone: bool = True) -> None:
    """Seed torch and give it its threads, the same number for the same result; begin a new memory peak.

    UserError where torchrun has started several processes of a stage that works `alone`.
    """
    if alone:
        ranks.refuse()
    torch.manual_seed(seed)
    torch.set_num_threads(ranks.own_threads(threads))
    _keep_memory()
    forget_peak_memory()


def random_state(device: str) -> dict[str, Tensor]:
    """Return where torch's random numbers are: the host's, and those that a GPU draws itself."""
    own = {"rng_cuda": torch.cuda.get_rng_state(device)} if device.startswith("cuda") else {}
    return {"rng": torch.get_rng_state(), **own}


def restore_random_state(saved: Mapping[str, Any], device: str) -> None:
    """Return to a random state; what another kind of device drew goes on from this one's seed."""
    torch.set_rng_state(saved["rng"])
    if device.startswith("cuda") and "rng_cuda" in saved:
        torch.cuda.set_rng_state(saved["rng_cuda"], device)


def create_run(config: StageConfig, stage: str, parents: Sequence[Run] = ()) -> Run:
    """Return a fresh run folder of this stage; made from its parents, and from the files of its teacher."""
    made_from = [parent.reference(getattr(config, "checkpoint", "best")) for parent in parents]
    teacher = getattr(config, "teacher", None)  # one that is opened from files names them
    made_from += [{"path": path, "sha256": sha256_of(path)} for path in getattr(teacher, "files", tuple)()]
    return Run.create(
        config.runs,
        task=config.task.name,
        stage=stage,
        config=dump(config),
        parents=made_from,
        seed=config.seed,
    )


def shared_fields(config: StageConfig) -> dict[str, str]:
    """Return what every summary says of the config."""
    sim = getattr(config.task, "suite", config.sim.name)  # who else simulates brings his own
    return {"task": config.task.name, "sim": sim, "device": config.device}


def build_env(
    config: StageConfig,
    groups: tuple[str, ...],
    stream: str,
    *,
    num_envs: int | None = None,
    space: str = "seen",
    ends: bool = True,
) -> TaskEnv:
    """Return the config's task with these groups; `stream` names whose draws it uses, `ends` see Setup."""
    count = config.num_envs if num_envs is None else num_envs  # pyright: ignore[reportAttributeAccessIssue]
    own = ranks.share(count, "num_envs") if stream == "train" and num_envs is None else count
    first = ranks.rank() * own if own < count else 0
    setup = Setup(
        num_envs=own, groups=groups, draws=Draws(config.seed, stream), space=space, device=config.device,
        threads=ranks.own_threads(config.threads), first=first, total=count, ends=ends,
        curriculum=getattr(config, "curriculum", None) if stream == "train" else None,
    )  # fmt: skip
    renderer, corrupt = getattr(config, "renderer", None), getattr(config, "corrupt", Corruption())
    return config.task.build(sim=config.sim, renderer=renderer, corrupt=corrupt, setup=setup)


def _keep_memory() -> None:
    """Let glibc keep freed memory: giving every large tensor back costs a third of a training step."""
    with contextlib.suppress(OSError, AttributeError):
        mallopt = ctypes.CDLL(None).mallopt
        for option in (_M_MMAP_THRESHOLD, _M_TRIM_THRESHOLD):
            mallopt(option, _KEEP_BYTES)
