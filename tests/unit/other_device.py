"""An iteration of DAgger on a device that is none: tensors are said to be there and hold no numbers.

What would fail on a GPU fails here: operands on two devices, a number that the host asks for, a copy between
host and device that is waited for. To be run as a program, because the device stays with the process:
`python tests/unit/other_device.py loss=[action_huber] …`. It cannot tell that kernels exist or what they
compute, and has no bfloat16; that is for the tests marked `gpu`.
"""

from __future__ import annotations

import sys
import tempfile
from pathlib import Path
from types import SimpleNamespace

import torch
from drift import drifting
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from torch.utils.backend_registration import _DummyBackendModule, _setup_privateuseone_for_python_backend

from robokd.teachers.ppo import PpoTeacher

DEVICE = "other:0"
COPIES = {"copy_": 1, "_to_copy": 0}  # operators -> which argument is copied


class OtherModule(_DummyBackendModule):
    """As much of torch.cuda as autocast asks for."""

    def get_amp_supported_dtype(self) -> list[torch.dtype]:
        """Return what convolutions may run in."""
        return [torch.bfloat16]


class Said(FakeTensorMode):
    """Tensors without numbers; none is computed on the side either."""

    def may_turn_const(self, t: Tensor) -> bool:
        """Return that it may not."""
        return False


class Watch(TorchDispatchMode):
    """Refuses copies between host and device that are waited for, once it `is_strict`."""

    is_strict = False

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        kwargs = kwargs or {}
        name = func.overloadpacket.__name__
        if str(func) == "aten._fused_adamw_.tensor_lr":  # torch knows what it computes only by running it
            devices = {one.device for one in tree_leaves((args, kwargs)) if isinstance(one, Tensor)}
            assert devices == {torch.device(DEVICE)}, devices
            return None
        out = func(*args, **kwargs)
        if self.is_strict and name in COPIES:
            source, target = args[COPIES[name]].device.type, out.device.type
            is_sent = source == "cpu" and (kwargs.get("non_blocking") or args[2:] == (True,))
            assert source == target or is_sent, f"{func} from {source} to {target} would be waited for"
        return out


def replaced(self: nn.Module, fn, recurse: bool = True) -> nn.Module:
    """Stand in for nn.Module._apply, which would swap what a tensor without numbers cannot swap."""
    for child in self.children():
        child._apply(fn)
    for name, value in self._parameters.items():
        if value is not None:
            self._parameters[name] = nn.Parameter(fn(value.detach()), value.requires_grad)
    for name, value in self._buffers.items():
        if value is not None:
            self._buffers[name] = fn(value)
    return self


def main(words: list[str]) -> None:
    """Go through three rounds, the last of them under guard: by then all constants have been carried over."""
    _setup_privateuseone_for_python_backend("other", OtherModule())
    torch._C._set_only_lift_cpu_tensors(True)  # torch.tensor(…, device=…) copies, and does not make
    nn.Module._apply, PpoTeacher.sha256, Tensor.pin_memory = replaced, lambda self: "", lambda self: self
    with tempfile.TemporaryDirectory() as folder, Said(allow_non_fake_inputs=True), Watch() as watch:
        engine = drifting(DEVICE, "student.bfloat16=false", *words)
        engine.run = SimpleNamespace(path=Path(folder))
        for number in range(3):
            watch.is_strict = number == 2
            driven = engine._collect(0.5)
            rewards = engine.rewards
            means = engine._fit(number, 1e-3) if rewards is None else engine._reinforce(rewards, number)
        devices = {str(one.device) for one in (driven, *(total for total, _ in means._sums.values()))}
        assert devices == {DEVICE}, devices
        print("nobody waited")


if __name__ == "__main__":
    main(sys.argv[1:])
