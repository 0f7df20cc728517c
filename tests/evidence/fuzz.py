"""Fuzzing for minutes: the bundle's reader, its contract, the wire's packets, the log. Part of `make soak`.

    python -m tests.evidence.fuzz <seconds each> <out.json> [seed]

A case fails if anything but a refusal comes out, or if bytes that were altered are accepted. In contracts and
logs the checksums are made right again, so that only what the reader itself looks at stands in the way; there
what is accepted cannot be judged, what crashes can.
"""

from __future__ import annotations

import json
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from robokd.sim2real.log_reader import read_log
from robokd.sim2real.packets import HEADER, Kind, decode, encode, layouts

from robokd import UserError
from robokd.export import signature
from robokd.export.bundle import read_bundle
from robokd.files import to_json, write_atomic
from tests.unit import log_samples
from tests.unit.robot_samples import make_bundle

VALUES = (
    None, True, -1, 0, 10**20, -0.5, 1e308, 1e-320, "", "x", "\x1b[2J", "../x", [], [[]], [1], [2, 3],
    {}, {"x": 1}, [0.0] * 3, [1e39] * 2, [1 << 24] * 3, json.loads("[" * 40 + "]" * 40),
)  # fmt: skip
Case = Callable[[np.random.Generator], str]  # what went wrong, or nothing


def altered(data: bytes, generator: np.random.Generator) -> bytes:
    """Return other bytes: flipped, cut, doubled, exchanged."""
    made = bytearray(data)
    for _ in range(int(generator.integers(1, 5))):
        at, size = int(generator.integers(len(made))), int(generator.integers(1, 64))
        kind = int(generator.integers(5))
        if kind == 0:
            made[at] ^= 1 << int(generator.integers(8))
        elif kind == 1:
            made[at : at + size] = generator.bytes(len(made[at : at + size]))
        elif kind == 2 and len(made) > size + 1:
            del made[at : at + size]
        elif kind == 3:
            made[at:at] = made[at : at + size]
        else:
            made = made[: max(at, 1)]
    return bytes(made)


def bundle_case(folder: Path) -> Case:
    """Altered bytes of a bundle are refused."""
    good = make_bundle(folder / "good.robokd").path.read_bytes()

    def case(generator: np.random.Generator) -> str:
        data = altered(good, generator)
        (folder / "bad.robokd").write_bytes(data)
        return "" if data == good or refuses(lambda: read_bundle(folder / "bad.robokd")) else "accepted"

    return case


def contract_case(folder: Path) -> Case:
    """A manifest with anything anywhere, under a right hash, is read or refused."""
    good = make_bundle(folder / "good.robokd").path.read_bytes()
    length = int.from_bytes(good[12:20], "little")
    text, body = good[20 : 20 + length], good[20 + length : -signature.BLOCK.size]

    def case(generator: np.random.Generator) -> str:
        row = json.loads(text)
        owner: Any = row
        while True:
            keys = list(owner) if isinstance(owner, dict) else list(range(len(owner)))
            key = keys[int(generator.integers(len(keys)))]
            inner = owner[key]
            if not isinstance(inner, dict | list) or not inner or generator.random() < 0.3:
                break
            owner = inner
        if generator.random() < 0.2:
            del owner[key]
        else:
            owner[key] = VALUES[int(generator.integers(len(VALUES)))]
        made = json.dumps(row).encode() if generator.random() < 0.7 else altered(text, generator)
        header = good[:12] + len(made).to_bytes(8, "little")
        (folder / "bad.robokd").write_bytes(signature.close(header + made + body))
        refuses(lambda: read_bundle(folder / "bad.robokd"))
        return ""

    return case


def wire_case(folder: Path) -> Case:
    """Altered packets are dropped; whole ones of any content are decoded or dropped."""
    known = layouts(7)

    def case(generator: np.random.Generator) -> str:
        kind = list(Kind)[int(generator.integers(len(Kind)))]
        size = known[kind].itemsize if kind in known else int(generator.integers(200))
        good = encode(kind, int(generator.integers(2**63)), generator.bytes(size), generator.normal())
        decode(good, known)
        data = altered(good, generator)
        decode(generator.bytes(int(generator.integers(2 * HEADER.itemsize))), known)
        return "" if data == good or decode(data, known) is None else "accepted"

    return case


def log_case(folder: Path) -> Case:
    """A log of altered bytes is read as far as it goes, or refused."""
    log_samples.write(folder / "log.mcap", [log_samples.tick(number) for number in range(1, 20)])
    good = (folder / "log.mcap").read_bytes()

    def case(generator: np.random.Generator) -> str:
        (folder / "bad.mcap").write_bytes(altered(good, generator))
        refuses(lambda: read_log(folder / "bad.mcap"))
        return ""

    return case


def refuses(call: Callable[[], object]) -> bool:
    """Whether it refuses; anything but a UserError is a crash."""
    try:
        call()
    except UserError:
        return True
    return False


CASES = {"bundle": bundle_case, "contract": contract_case, "wire": wire_case, "log": log_case}


def main(seconds: str, out: str, seed: str = "0") -> None:
    """Fuzz each for so long and write what was found."""
    found = {}
    for name, make in CASES.items():
        with tempfile.TemporaryDirectory() as folder:
            case, tried, wrong = make(Path(folder)), 0, []
            until = time.monotonic() + float(seconds)
            while time.monotonic() < until:
                try:
                    said = case(np.random.default_rng((int(seed), tried)))
                except Exception as error:
                    said = repr(error)
                if said:
                    wrong.append({"case": tried, "what": said[:300]})
                tried += 1
        found[name] = {"seconds": float(seconds), "tried": tried, "wrong": wrong[:20], "count": len(wrong)}
        print(name, found[name], flush=True)
    write_atomic(
        Path(out), to_json({"command": f"python -m tests.evidence.fuzz {seconds} {out} {seed}", **found})
    )
    sys.exit(any(row["count"] for row in found.values()))


if __name__ == "__main__":
    main(*sys.argv[1:])
