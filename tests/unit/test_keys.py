"""Keys are made once, stay private, and are trusted by a person only."""

import pytest

from robokd import UserError, keys
from robokd.cli import main


@pytest.fixture(autouse=True)
def store(tmp_path, monkeypatch):
    folder = tmp_path / "deep" / "keys"
    monkeypatch.setenv("ROBOKD_KEYS", str(folder))
    return folder


def refused(*words) -> str:
    with pytest.raises(UserError) as caught:
        keys.command(words)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_a_new_key_is_private_and_trusted_here(store):
    said = keys.command(["new", "name=lab"])
    assert "robokd keys trust file=lab.pub" in said
    assert (store / "lab.key").stat().st_mode & 0o777 == 0o600
    assert store.stat().st_mode & 0o077 == 0
    public = keys.signing_key("lab").public_key().public_bytes_raw()
    assert (store / "lab.pub").read_text() == f"robokd-public-key {public.hex()}\n"
    assert keys.trusted() == {public.hex(): "lab"}
    assert sorted(file.name for file in store.iterdir()) == ["lab.key", "lab.pub", "trusted"]


def test_keys_differ_and_are_not_overwritten(store):
    keys.command(["new", "name=a"])
    keys.command(["new", "name=b"])
    content = (store / "a.key").read_bytes()
    assert content != (store / "b.key").read_bytes()
    assert "key 'a' exists" in refused("new", "name=a")
    assert (store / "a.key").read_bytes() == content
    assert not list(store.rglob("*.tmp"))


def test_the_key_that_signs_is_the_one_named_or_the_default_one(store):
    assert keys.signing_key() is None
    assert "no key named 'lba'" in _no_key("lba")
    keys.command(["new", "name=lab"])
    assert keys.signing_key() is None
    assert "Did you mean 'lab'? Known: lab" in _no_key("lba")
    keys.command(["new"])
    default = keys.signing_key()
    assert default is not None
    assert default.private_bytes_raw() == keys.signing_key("default").private_bytes_raw()


def _no_key(name) -> str:
    with pytest.raises(UserError) as caught:
        keys.signing_key(name)
    return str(caught.value)


def test_another_s_key_is_trusted_under_the_name_of_its_file_or_one_that_is_given(
    tmp_path, store, monkeypatch
):
    keys.command(["new", "name=lab"])
    monkeypatch.setenv("ROBOKD_KEYS", str(tmp_path / "other"))
    assert keys.trusted() == {}
    public = keys._read(store / "lab.pub", keys.PUBLIC).hex()
    assert "as 'lab'" in keys.command(["trust", f"file={store / 'lab.pub'}"])
    assert keys.trusted() == {public: "lab"}
    assert "trusted already, as 'lab'" in keys.command(["trust", f"file={store / 'lab.pub'}", "name=again"])
    keys.command(["new", "name=mine"])
    taken = refused("trust", f"file={_public(tmp_path / 'third' / 'lab.pub')}")
    assert "is another key; choose another name=" in taken
    assert "as 'theirs'" in keys.command(["trust", f"file={tmp_path / 'third' / 'lab.pub'}", "name=theirs"])
    assert sorted(keys.trusted().values()) == ["lab", "mine", "theirs"]
    assert "is another's key under this name" in refused("new", "name=theirs")


def _public(path):
    path.parent.mkdir()
    path.write_text(f"{keys.PUBLIC} {'ab' * 32}\n")
    return path


def test_what_is_no_public_key_is_not_trusted(tmp_path, store):
    keys.command(["new", "name=lab"])
    assert "is a private key: give the .pub" in refused("trust", f"file={store / 'lab.key'}")
    for content in (b"", b"\xff\xfe", b"robokd-public-key 12\n", b"robokd-public-key " + b"g" * 64):
        (tmp_path / "a.pub").write_bytes(content)
        assert "is not a key: wanted one line" in refused("trust", f"file={tmp_path / 'a.pub'}")
    (tmp_path / "a.pub").write_text(f"{keys.PUBLIC} {'ab' * 32} and more\n")
    assert "is not a key" in refused("trust", f"file={tmp_path / 'a.pub'}")
    (tmp_path / "a.pub").write_text(f"{keys.PUBLIC} {'00' * 31}80\n")
    assert "a key that anybody can sign for" in refused("trust", f"file={tmp_path / 'a.pub'}")
    assert "No such file" in refused("trust", f"file={tmp_path / 'absent.pub'}")
    assert "a.pub" in refused("trust", f"file={tmp_path / 'absent.pub'}")  # which is there
    assert "Is a directory" in refused("trust", f"file={tmp_path}")
    assert list(keys.trusted().values()) == ["lab"]


def test_a_private_key_that_others_can_read_signs_nothing(store):
    keys.command(["new", "name=lab"])
    (store / "lab.key").chmod(0o644)
    assert "can be read by others: chmod 600" in _no_key("lab")
    assert "can be read by others" in refused("list")


def test_a_damaged_store_is_named_and_not_passed_over(store):
    keys.command(["new", "name=lab"])
    (store / "trusted" / "lab.pub").write_text("something else\n")
    with pytest.raises(UserError, match=r"trusted/lab\.pub is not a key"):
        keys.trusted()
    (store / "lab.key").write_text("something else\n")
    assert "lab.key is not a key" in _no_key("lab")


def test_the_list_shows_both_kinds(store):
    assert "none; `robokd keys new` makes one" in keys.command(["list"])
    keys.command(["new", "name=lab"])
    public = keys._read(store / "lab.pub", keys.PUBLIC).hex()
    said = keys.command(["list"])
    assert said.count(public) == 2
    secret = (store / "lab.key").read_text().split()[1]
    assert secret not in said


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["nwe"], "no keys command named 'nwe'. Did you mean 'new'?"),
        (["new", "nmae=a"], "keys new has no key 'nmae'. Did you mean 'name'? Keys: name"),
        (["new", "a"], "'a' is not key=value"),
        (["new", "name=a", "name=b"], "name is given twice"),
        (["new", "name=../a"], "name must be letters, digits"),
        (["new", "name="], "name must be letters, digits"),
        (["new", "name=" + "a" * 65], "name must be letters, digits"),
        (["list", "name=a"], "keys list has no key 'name'. Keys: none"),
        (["trust"], "keys trust needs file=<name>.pub"),
        (["trust", "file="], "keys trust needs file=<name>.pub"),
    ],
)
def test_a_mistake_is_one_line_that_says_what_exists(words, said, store, capsys):
    assert said in refused(*words)
    assert main(["keys", *words]) == 2
    assert capsys.readouterr().err.count("\n") == 1
    assert not store.exists()


def test_a_store_that_cannot_be_made_is_named(tmp_path, monkeypatch):
    (tmp_path / "file").touch()
    monkeypatch.setenv("ROBOKD_KEYS", str(tmp_path / "file" / "keys"))
    assert "cannot make" in refused("new")
    assert keys.trusted() == {}


def test_the_store_is_in_the_home_folder_unless_told(tmp_path, monkeypatch):
    monkeypatch.delenv("ROBOKD_KEYS")
    monkeypatch.setenv("HOME", str(tmp_path))
    assert keys.store() == tmp_path / ".config" / "robokd" / "keys"


def test_help_and_the_command_line(store, capsys):
    for words in ([], ["--help"]):
        assert main(["keys", *words]) == 0
        assert "robokd keys trust file=" in capsys.readouterr().out
    assert main(["keys", "new"]) == 0
    assert (store / "default.key").is_file()


def test_a_file_whose_name_is_none_of_a_key_is_trusted_under_one_that_is_given(tmp_path):
    file = _public(tmp_path / "third" / "my key.pub")
    assert "no key can be named 'my key'" in refused("trust", f"file={file}")
    assert "name=" in refused("trust", f"file={file}")
    assert "as 'theirs'" in keys.command(["trust", f"file={file}", "name=theirs"])


def test_a_name_that_was_not_used_is_said_not_to_be(tmp_path):
    file = _public(tmp_path / "third" / "alice.pub")
    keys.command(["trust", f"file={file}"])
    assert keys.command(["trust", f"file={file}"]).endswith("is trusted already, as 'alice'")
    said = keys.command(["trust", f"file={file}", "name=bob"])
    assert said.endswith("is trusted already, as 'alice'; name=bob was not used")


def test_a_link_to_nothing_among_the_trusted_is_a_mistake_that_names_it(store):
    keys.command(["new", "name=lab"])
    (store / "trusted" / "gone.pub").symlink_to("nowhere")
    assert "trusted/gone.pub: it is a link to nothing; remove it" in refused("list")
