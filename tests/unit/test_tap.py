"""What the tap does to commands: each kind of fault, where the plan says, and nothing else."""

import math

import numpy as np
import pytest
from robokd.sim2real.packets import Kind, decode, encode, layouts
from robokd.sim2real.tap import KINDS, Breakage, Breaker

SIZE = 2
KNOWN = layouts(SIZE)


def command(number: int, sent_s: float | None = None) -> bytes:
    row = np.zeros((), KNOWN[Kind.COMMAND])
    row["number"], row["target"] = number, (0.1 * number, -1)
    return encode(Kind.COMMAND, number, row.tobytes(), sent_s)


def passed(
    kind: str, count: int = 2, *, numbers: int = 12
) -> tuple[list[list[tuple[float, bytes]]], Breaker]:
    """What becomes of commands 1, 2, …, hit from the third on, every fourth."""
    breaker = Breaker(Breakage(kind=kind, count=count, first=3, every=4, delay_s=0.5), SIZE)
    return [breaker.pass_on(command(one, float(one)), float(one)) for one in range(1, numbers + 1)], breaker


def read(data: bytes) -> tuple[int, list[float], float]:
    packet = decode(data, KNOWN)
    assert packet is not None
    return int(packet.row["number"]), packet.row["target"].tolist(), packet.sent_s


@pytest.mark.parametrize("kind", KINDS)
def test_what_is_not_hit_passes_as_it_was_and_what_is_hit_is_noted(kind):
    sendings, breaker = passed(kind)
    assert [(note["kind"], note["number"]) for note in breaker.notes] == [(kind, 3), (kind, 7)]
    for number in (1, 2, 5, 6, 9, 10, 11, 12):  # 11 would be the third
        assert (float(number), command(number, float(number))) in sendings[number - 1]


def test_each_kind_does_what_it_says():
    assert passed("drop")[0][2] == []
    assert passed("delay")[0][2] == [(3.5, command(3, 3.0))]
    assert passed("duplicate")[0][2] == [(3.0, command(3, 3.0))] * 2
    overtaken = passed("reorder")[0]
    assert overtaken[2] == []
    assert [read(data)[0] for _, data in overtaken[3]] == [4, 3]
    assert read(passed("freeze")[0][2][0][1])[:2] == read(command(2))[:2]
    assert any(math.isnan(one) for one in read(passed("nan")[0][2][0][1])[1])
    number, _, sent_s = read(passed("clock_jump")[0][2][0][1])
    assert number == 3
    assert abs(sent_s - 3.0) >= 1.0
    assert decode(passed("bit_flip")[0][2][0][1], KNOWN) is None


def test_other_packets_and_rubbish_pass_untouched():
    breaker = Breaker(Breakage(kind="drop", count=99, first=0, every=1), SIZE)
    token = np.zeros((), KNOWN[Kind.RELEASE])
    for data in (encode(Kind.RELEASE, 1, token.tobytes()), b"rubbish", b""):
        assert breaker.pass_on(data, 1.0) == [(1.0, data)]
