"""devices.toml, the names that may be handed to ssh, and what of them may stand in records."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bench import devices
from bench.errors import UsageError

HOSTILE = [
    "-oProxyCommand=touch x", "--", "-p22", "a b", "a;b", "$(touch x)", "`touch x`", "a\nb", "a'b", 'a"b', "a|b", "a&b",
    "a>b", "a\\b", "", "@host", "-user@host", "a@-oProxyCommand=x", "a/b", "~", "*", "a\0b", "ü", "a" * 300, "!", "%h",
]  # fmt: skip


def written(folder, text):
    path = folder / "devices.toml"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)
    return path


@pytest.mark.parametrize("name", HOSTILE)
def test_names_that_are_never_handed_to_ssh(name):
    with pytest.raises(UsageError, match="is not a device's name"):
        devices.find(name, {})


@given(st.text(max_size=40))
def test_whatever_is_handed_to_ssh_is_no_option_and_nothing_for_a_shell(name):
    try:
        found = devices.find(name, {})
    except UsageError:
        return
    assert not found.destination.startswith("-")
    assert not set(found.destination) & set(" \t\n\r'\"`$&|;<>(){}*?!~\\/#\0")


@pytest.mark.parametrize("name", ["pi5", "pi@pi5.lan", "10.0.0.7", "root@fe80::1%eth0", "[::1]", "jetson_2", "a-b.c"])
def test_names_that_ssh_takes(name):
    assert devices.find(name, {}).destination == name


@pytest.mark.parametrize("name", ["pi@pi5", "10.0.0.7", "pi5.my-company.example", "fe80::1"])
def test_names_of_users_and_addresses_stay_out_of_records(name):
    label = devices.find(name, {}).label
    assert label.startswith("device-")
    assert not set(name.replace("@", ".").replace(":", ".").split(".")) & set(label.split("-"))


def test_an_alias_stands_as_it_is():
    assert devices.find("pi5", {}).label == "pi5"


def test_the_project_outweighs_the_user(tmp_path):
    user = written(tmp_path / "user", '[pi5]\nssh = "pi@one"\npython = "python3.11"\n[tx2]\n')
    project = written(tmp_path / "project", '[pi5]\nssh = "pi@two"\nlabels = ["lab"]\n')
    found = devices.load([user, project])
    assert list(found) == ["pi5", "tx2"]
    assert (found["pi5"].destination, found["pi5"].python, found["pi5"].labels) == ("pi@two", "python3.11", ["lab"])
    assert found["tx2"].destination == "tx2"


def test_a_file_that_is_not_there_says_nothing(tmp_path):
    assert devices.load([tmp_path / "devices.toml"]) == {}


def test_the_file_for_ssh_lies_beside_the_one_that_names_it(tmp_path):
    found = devices.load([written(tmp_path, '[pi5]\nssh_config = "lab/config"\n')])
    assert found["pi5"].ssh_config == str(tmp_path / "lab" / "config")


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("[pi5]\npyton = 'x'", "did you mean python"),
        ("[pi5]\nprovision = 'no'", "provision"),
        ("pi5 = 1", "outside a table"),
        ("[pi5", "is not TOML"),
        ("[pi5]\nenvironment = {'A=B' = 'x'}", "no name of an environment variable"),
        ('[pi5]\ncache = "\\u0000"', "zero character"),
    ],
)
def test_what_a_file_may_not_say(tmp_path, text, said):
    with pytest.raises(UsageError) as caught:
        devices.load([written(tmp_path, text)])
    assert said in str(caught.value)


def test_a_file_cannot_smuggle_a_name_in(tmp_path):
    found = devices.load([written(tmp_path, "[pi5]\nssh = '-oProxyCommand=touch x'\n")])
    with pytest.raises(UsageError, match="is not a device's name"):
        devices.find("pi5", found)
