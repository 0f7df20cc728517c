"""The proof that an exported graph says what the torch policy says, on observations of real episodes."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import onnxruntime
import torch
from torch import Tensor, nn

MAX_ABS = 1e-5  # rad for commands, 1 for actions


def parity(graph: bytes, module: nn.Module, samples: Sequence[dict[str, Tensor]]) -> dict[str, float]:
    """Return the largest absolute difference of each output over the samples {input: (1, ...)}."""
    session = onnxruntime.InferenceSession(graph, providers=["CPUExecutionProvider"])
    names = [output.name for output in session.get_outputs()]
    worst = dict.fromkeys(names, 0.0)
    for sample in samples:
        with torch.no_grad():
            wanted = module(**sample)
        got = session.run(names, {name: value.numpy() for name, value in sample.items()})
        for name, left, right in zip(names, wanted, got, strict=True):
            worst[name] = max(worst[name], float(np.abs(left.numpy() - right).max()))
    return worst
