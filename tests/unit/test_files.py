"""What is read from a file is plain, of a bounded size and depth, or refused in one line with the cure."""

import os

import pytest

from robokd import UserError
from robokd.files import DEEPEST, LARGEST_YAML, is_number, parse_json, read_json, read_yaml, refuse_others

BOMB = "a: &a [x, x]\n" + "".join(
    f"{b}: &{b} [*{a}, *{a}]\n" for a, b in zip("abcdefgh", "bcdefghi", strict=True)
)


def refused(read, path, content: str | bytes) -> str:
    """What the refusal says, in one line."""
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    with pytest.raises(UserError) as caught:
        read(path)
    assert "\n" not in str(caught.value)
    assert len(str(caught.value)) < 400
    return str(caught.value)


def test_plain_yaml_is_what_it_says(tmp_path):
    (tmp_path / "a.yaml").write_text("a: {b: [1, 2.5, null, true]}\nc: text\n")
    assert read_yaml(tmp_path / "a.yaml") == {"a": {"b": [1, 2.5, None, True]}, "c": "text"}


@pytest.mark.parametrize(
    ("text", "said"),
    [
        (BOMB, "a.yaml:2 is not plain YAML: aliases (*a) are not read"),
        ("a: 1\nb: 2\na: 3\n", "a.yaml:3 is not plain YAML: the key 'a' stands twice"),
        ("a: {b: 1, b: 2}\n", "a.yaml:1 is not plain YAML: the key 'b' stands twice"),
        ("<<: {a: 1}\na: 2\n", "stands twice"),
        ("1: a\n0x1: b\n", "a.yaml:2 is not plain YAML: the key 1 stands twice"),
        ("a: 1\nb: !!python/object/apply:os.system [ls]\n", "a.yaml:2 is not plain YAML"),
        ("a: [\n", "a.yaml:2 is not plain YAML"),
        ("a: " + "[" * 40 + "]" * 40, f"nested more than {DEEPEST} deep"),
        ("a: " + "[" * 3000 + "]" * 3000, f"nested more than {DEEPEST} deep"),
        ("a: 2001-99-99\n", "is not plain YAML: month must be in 1..12"),
        (b"a: \xff\n", "is not plain YAML"),
        ("- a\n", "holds a list, wanted keys and values"),
        ("", "holds a NoneType"),
        (b"#" * (LARGEST_YAML + 1), f"has {LARGEST_YAML + 1} bytes; at most {LARGEST_YAML} are read"),
    ],
)  # fmt: skip
def test_yaml_that_is_not_plain_is_refused_with_its_line(tmp_path, text, said):
    assert said in refused(read_yaml, tmp_path / "a.yaml", text)


def test_what_is_no_file_is_not_read(tmp_path):
    for read in (read_yaml, read_json):
        with pytest.raises(UserError, match="is not a file"):
            read(tmp_path)
        with pytest.raises(UserError, match="does not exist"):
            read(tmp_path / "absent")


@pytest.mark.parametrize("depth", [DEEPEST + 1, 900, 5_000, 200_000])
def test_json_that_is_nested_too_deep_is_refused_however_deep(tmp_path, depth):
    said = refused(read_json, tmp_path / "a.json", '{"a": ' * depth + "1" + "}" * depth)
    assert f"nested more than {DEEPEST} deep" in said
    with pytest.raises(ValueError, match="nested more than"):
        parse_json(b"[" * depth + b"]" * depth)


@pytest.mark.parametrize("text", [b"\xff", b'"\\ud800"', b"[" + b"1" * 5000 + b"]", b"{", b""])
def test_what_is_no_json_is_a_value_error(text):
    with pytest.raises(ValueError, match=r"."):
        parse_json(text)


def test_a_number_is_finite_and_a_whole_one_is_exact_as_a_float():
    assert all(map(is_number, (0, -1, 2.5, 1 << 53)))
    assert not any(map(is_number, (True, None, "1", float("nan"), float("inf"), (1 << 53) + 1, 10**400)))
    assert is_number(3, int)
    assert not is_number(3.0, int)


@pytest.mark.parametrize("mode", [0o720, 0o702, 0o777])
def test_what_others_can_write_is_refused_with_the_cure(tmp_path, mode):
    refuse_others(tmp_path)
    tmp_path.chmod(mode)
    with pytest.raises(UserError, match=f"can be written by others: .*`chmod go-w {tmp_path}`"):
        refuse_others(tmp_path)


def test_what_another_user_owns_is_refused_and_what_root_owns_is_not(tmp_path, monkeypatch):
    owner = os.stat
    for user, is_refused in ((os.geteuid(), False), (0, False), (54321, True)):

        def as_owned(path, *, follow_symlinks=True, user=user):
            row = list(owner(path, follow_symlinks=follow_symlinks))
            return os.stat_result([*row[:4], user, *row[5:]])

        with monkeypatch.context() as patch:
            patch.setattr(os, "stat", as_owned)
            if not is_refused:
                refuse_others(tmp_path)
                continue
            with pytest.raises(UserError, match="belongs to another user, of id 54321"):
                refuse_others(tmp_path)
