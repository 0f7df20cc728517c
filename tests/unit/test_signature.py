"""A signature covers every byte, and who signed is believed only where a person said so."""

import hashlib
import random
import shutil

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from hypothesis import given, settings
from hypothesis import strategies as st
from robot_samples import golden, graph, manifest

from robokd import UserError, keys
from robokd.cli import main
from robokd.export import signature
from robokd.export.bundle import check_trust, read_bundle, write_bundle

GRAPH = graph()
MEMBERS = {"policy.onnx": GRAPH, "samples.json": golden(GRAPH)}
KEY = Ed25519PrivateKey.from_private_bytes(bytes(range(32)))
PUBLIC = KEY.public_key().public_bytes_raw()


@pytest.fixture(autouse=True)
def store(tmp_path, monkeypatch):
    monkeypatch.setenv("ROBOKD_KEYS", str(tmp_path / "keys"))
    return tmp_path / "keys"


def write(path, key=None, **changes):
    write_bundle(path, {**manifest(), **changes}, MEMBERS, key)
    return path


def refused(path) -> str:
    with pytest.raises(UserError) as caught:
        read_bundle(path)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_a_bundle_is_unsigned_untrusted_or_trusted(tmp_path):
    bundle = read_bundle(write(tmp_path / "a.robokd"))
    assert (bundle.signer, bundle.trust) == (None, "unsigned")
    bundle = read_bundle(write(tmp_path / "a.robokd", KEY))
    assert (bundle.signer, bundle.trust) == (PUBLIC.hex(), "untrusted")
    (tmp_path / "mine.pub").write_text(f"{keys.PUBLIC} {PUBLIC.hex()}\n")
    assert main(["keys", "trust", f"file={tmp_path / 'mine.pub'}"]) == 0
    assert read_bundle(bundle.path).trust == "trusted"


def test_a_key_of_another_is_not_trusted_for_this_one(tmp_path):
    assert main(["keys", "new", "name=lab"]) == 0
    assert read_bundle(write(tmp_path / "a.robokd", KEY)).trust == "untrusted"
    assert read_bundle(write(tmp_path / "a.robokd", keys.signing_key("lab"))).trust == "trusted"


def test_hardware_takes_only_what_is_trusted_and_says_which_command_cures_it(tmp_path):
    unsigned = read_bundle(write(tmp_path / "a.robokd"))
    foreign = read_bundle(write(tmp_path / "b.robokd", KEY))
    for bundle, cure in ((unsigned, "robokd keys new"), (foreign, "robokd keys trust file=<name>.pub")):
        assert cure in check_trust(bundle, is_hardware=False)
        with pytest.raises(UserError, match=cure):
            check_trust(bundle, is_hardware=True)
    # the key is of who exports; here it is only trusted
    assert "who exports it makes a key" in check_trust(unsigned, is_hardware=False)
    assert "here `robokd keys trust file=<name>.pub`" in check_trust(unsigned, is_hardware=False)
    assert PUBLIC.hex() in check_trust(foreign, is_hardware=False)
    assert main(["keys", "new"]) == 0
    trusted = read_bundle(write(tmp_path / "c.robokd", keys.signing_key()))
    assert check_trust(trusted, is_hardware=True) == check_trust(trusted, is_hardware=False) == ""


def test_trust_ends_with_the_file_that_gave_it(tmp_path, store):
    assert main(["keys", "new"]) == 0
    path = write(tmp_path / "a.robokd", keys.signing_key())
    assert read_bundle(path).trust == "trusted"
    (store / "trusted" / "default.pub").unlink()
    assert read_bundle(path).trust == "untrusted"  # though the private key is here


def test_equal_bundles_have_equal_signatures(tmp_path):
    """RFC 8032: ed25519 has no randomness of its own."""
    first, second = (write(tmp_path / name, KEY).read_bytes() for name in ("a.robokd", "b.robokd"))
    assert first == second
    assert first[-64:] == KEY.sign(first[:-64])


def test_a_content_that_is_sealed_anew_does_not_keep_its_signature(tmp_path):
    path = write(tmp_path / "a.robokd", KEY)
    data = bytearray(path.read_bytes())
    other = write(tmp_path / "b.robokd", KEY, task="other").read_bytes()
    # the hash is right, the signature is of another file
    forged = other[:-64] + bytes(data[-64:])
    path.write_bytes(forged)
    said = refused(path)
    assert "signature does not match its content: it was altered, or never signed by that key" in said
    assert PUBLIC.hex()[:16] in said
    # another's key in place of the signer's
    thief = Ed25519PrivateKey.generate().public_key().public_bytes_raw()
    path.write_bytes(other[:-96] + thief + other[-64:])
    assert "signature does not match" in refused(path)


def test_a_signature_that_is_stripped_leaves_an_unsigned_bundle_and_no_half_of_one(tmp_path):
    path = write(tmp_path / "a.robokd", KEY)
    data = path.read_bytes()
    body = data[: -signature.BLOCK.size]
    path.write_bytes(signature.close(body))
    assert read_bundle(path).trust == "unsigned"  # which hardware refuses
    digest = hashlib.sha256(body).digest()
    for kind, public, signed, why in (
        (b"unsigned", PUBLIC, bytes(64), "it says that it is unsigned and carries a signature"),
        (b"unsigned", bytes(32), data[-64:], "it says that it is unsigned and carries a signature"),
        # OpenSSL takes this one: the key is a point of small order
        (b"ed25519\0", bytes(32), bytes(64), "signature does not match"),
        (b"ed25519\0", b"\x01" + bytes(31), b"\x01" + bytes(63), "signature does not match"),
        (b"ed25519\0", b"\x01" + bytes(30) + b"\x80", b"\x01" + bytes(63), "signature does not match"),
        (b"ed25519\0", PUBLIC, bytes(64), "signature does not match"),
        (b"ed25519\0", b"\xff" * 32, data[-64:], "signature does not match"),
        (b"rsa\0\0\0\0\0", PUBLIC, data[-64:], "its closing block begins with"),
    ):
        path.write_bytes(body + signature.BLOCK.pack(kind, digest, public, signed))
        assert why in refused(path)


def test_a_store_that_is_damaged_trusts_nobody(tmp_path, store):
    path = write(tmp_path / "a.robokd", KEY)
    (store / "trusted").mkdir(parents=True)
    (store / "trusted" / "a.pub").write_text("?")
    assert "a.pub is not a key" in refused(path)


@given(content=st.binary(max_size=300), is_signed=st.booleans())
@settings(max_examples=100)
def test_any_content_comes_back_as_it_was_closed(tmp_path_factory, content, is_signed):
    data = signature.close(content, KEY if is_signed else None)
    assert data[: -signature.BLOCK.size] == content
    assert signature.check(tmp_path_factory.getbasetemp(), data) == (PUBLIC.hex() if is_signed else None)


def flip(path, count: int, seed: int) -> None:
    """Flip bits all over the file, one at a time; every one must be refused."""
    data = bytearray(path.read_bytes())
    generator = random.Random(seed)
    # every bit of the block that closes the file and of what opens it, and some of the rest
    ends = [*range(8 * 24), *range(8 * (len(data) - signature.BLOCK.size), 8 * len(data))]
    places = generator.sample(ends, min(len(ends), count // 2))
    places += [generator.randrange(8 * len(data)) for _ in range(count - len(places))]
    for place in places:
        data[place // 8] ^= 1 << place % 8
        path.write_bytes(data)
        with pytest.raises(UserError):
            read_bundle(path)
        data[place // 8] ^= 1 << place % 8
    path.write_bytes(data)
    read_bundle(path)


@pytest.mark.parametrize("key", [None, KEY])
def test_every_bit_that_is_flipped_is_found(tmp_path, key):
    flip(write(tmp_path / "a.robokd", key), 250, seed=0)


@pytest.mark.slow
@pytest.mark.parametrize("key", [None, KEY])
def test_ten_thousand_flipped_bits_are_found(tmp_path, key):
    flip(write(tmp_path / "a.robokd", key), 10_000, seed=1)


def test_a_copy_is_as_good_as_the_file(tmp_path):
    path = write(tmp_path / "a.robokd", KEY)
    copy = shutil.copy(path, tmp_path / "b.robokd")
    assert read_bundle(copy).sha256 == read_bundle(path).sha256


@pytest.mark.parametrize("place", [".", "trusted", "trusted/default.pub"])
def test_a_store_that_others_can_write_trusts_nobody(tmp_path, store, place):
    keys.command(["new"])
    signed = write(tmp_path / "b.robokd", keys.signing_key())
    (store / place).chmod(0o777)
    for look in (lambda: read_bundle(signed), lambda: keys.command(["list"])):
        with pytest.raises(UserError, match=r"can be written by others: .*`chmod go-w "):
            look()
    (store / place).chmod(0o755)
    assert read_bundle(signed).trust == "trusted"
