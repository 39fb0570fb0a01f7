"""Backends by entry point, broken ones among them, and their options."""

from __future__ import annotations

import math
import sys
import types
from importlib.metadata import EntryPoint

import pytest

from bench import registry
from bench.errors import BackendUnavailable, UsageError
from bench.interface import Backend, Option, Probe
from bench.registry import Registered, complete_options, find, installed


class Good(Backend):
    name = "good"
    options = (
        Option("threads_per_core", "", 2, "int"),
        Option("share", "", 0.5, "float"),
        Option("fast", "", False, "bool"),
        Option("mode", "", "a", choices=("a", "b")),
        Option("level", "", None, "int", choices=("1", "2")),
        Option("library", "", None, "file"),
    )

    def probe(self):
        return Probe(True)

    def load(self, artifact, options):
        raise NotImplementedError


class Needy(Good):
    def __init__(self, argument):
        pass


class _Distribution:
    def __init__(self, name):
        self.name = name


@pytest.fixture
def points(monkeypatch):
    """Register backends: `points(good="module:Class")`; the module `plugin` has Good and things that are none."""
    module = types.ModuleType("plugin_for_tests")
    module.Good, module.Needy, module.number = Good, Needy, 3
    monkeypatch.setitem(sys.modules, module.__name__, module)
    registry._create.cache_clear()

    def register(*found):
        made = []
        for name, value, distribution in found:
            point = EntryPoint(name, value.replace("plugin:", "plugin_for_tests:"), registry.GROUP)
            vars(point)["dist"] = _Distribution(distribution) if distribution else None
            made.append(point)
        monkeypatch.setattr(registry, "entry_points", lambda group: made)

    yield register
    registry._create.cache_clear()


def test_backends_are_found_by_name_and_sorted(points):
    points(("zeta", "plugin:Good", "one"), ("alpha", "plugin:Good", "two"))
    assert list(installed()) == ["alpha", "zeta"]
    assert find("zeta").distribution == "one"
    assert find("zeta").create().probe().available


def test_an_unknown_backend_offers_the_nearest(points):
    points(("ort-cpu", "plugin:Good", "one"), ("ncnn", "plugin:Good", "one"))
    with pytest.raises(UsageError, match="did you mean ort-cpu"):
        find("ortcpu")
    with pytest.raises(UsageError, match="known: ncnn, ort-cpu"):
        find("something_else")


def test_no_backend_at_all(points):
    points()
    with pytest.raises(UsageError, match="pip install"):
        installed()


BROKEN = [
    ("no_such_module_here:Backend", "ModuleNotFoundError"),
    ("plugin:Missing", "AttributeError"),
    ("plugin:Needy", "TypeError"),
    ("plugin:number", "TypeError"),
    ("plugin", "cannot be imported"),
    ("not a module!", "cannot be imported"),
    ("exits_on_import:Backend", "SystemExit"),
    ("bad_syntax:Backend", "SyntaxError"),
    ("builtins:dict", "is not a bench.interface.Backend"),
]


@pytest.fixture
def broken_modules(tmp_path, monkeypatch):
    (tmp_path / "exits_on_import.py").write_text("import sys\nsys.exit(3)\n")
    (tmp_path / "bad_syntax.py").write_text("def (:\n")
    monkeypatch.syspath_prepend(tmp_path)


@pytest.mark.usefixtures("broken_modules")
@pytest.mark.parametrize(("value", "words"), BROKEN)
def test_a_broken_plugin_says_so_and_breaks_no_other(points, value, words):
    points(("good", "plugin:Good", "ours"), ("bad", value, "theirs"))
    assert set(installed()) == {"bad", "good"}
    assert find("good").works()
    assert not find("bad").works()
    with pytest.raises(BackendUnavailable) as caught:
        find("bad").create()
    assert words in caught.value.message
    assert "theirs" in str(caught.value)


def test_a_distribution_without_metadata(points):
    points(("good", "plugin:Good", None))
    assert find("good").distribution == "an unknown distribution"


def test_extras_of_an_entry_point_are_no_part_of_its_class(points):
    points(("good", "plugin:Good [fast]", "ours"))
    assert find("good").create().name == "good"


def test_a_name_that_two_distributions_claim_is_nobody_s(points):
    """Which of them would be measured must not depend on the order of a path."""
    points(("good", "plugin:Good", "ours"), ("good", "other:Good", "theirs"), ("fine", "plugin:Good", "ours"))
    assert find("fine").works()
    with pytest.raises(BackendUnavailable, match="registered by ours, theirs"):
        find("good").create()


def test_the_same_backend_registered_twice_is_one(points):
    points(("good", "plugin:Good", "ours"), ("good", "plugin:Good", "ours"))
    assert find("good").works()


def test_ours_can_all_be_created():
    for registered in installed().values():
        backend = registered.create()
        assert backend.name == registered.name
        assert complete_options(backend, {}) == {o.name: o.default for o in backend.options}


# Options.


def typed(**given):
    return complete_options(Good(), given)


def test_options_are_complete():
    assert typed() == {"threads_per_core": 2, "share": 0.5, "fast": False, "mode": "a", "level": None, "library": None}


@pytest.mark.parametrize(
    ("name", "text", "value"),
    [
        ("threads_per_core", "7", 7),
        ("threads_per_core", "-1", -1),
        ("share", "0.25", 0.25),
        ("share", "1e-3", 0.001),
        ("share", "3", 3.0),
        ("fast", "on", True),
        ("fast", "TRUE", True),
        ("fast", "1", True),
        ("fast", "no", False),
        ("mode", "b", "b"),
        ("level", "2", 2),
        ("library", "/x/y.so", "/x/y.so"),
    ],
)
def test_an_option_has_its_type(name, text, value):
    found = typed(**{name: text})[name]
    assert found == value
    assert type(found) is type(value)


@pytest.mark.parametrize(
    ("name", "text", "words"),
    [
        ("threads_per_core", "many", r"takes a number \(int\), not 'many'"),
        ("threads_per_core", "1.5", "takes a number"),
        ("threads_per_core", "", "takes a number"),
        ("threads_per_core", str(2**70), "takes a finite number"),
        ("share", "half", r"takes a number \(float\)"),
        ("share", "nan", "takes a finite number"),
        ("share", "-inf", "takes a finite number"),
        ("fast", "perhaps", "is on or off, not 'perhaps'"),
        ("mode", "c", "cannot be 'c'; one of: a, b"),
        ("level", "3", "cannot be '3'; one of: 1, 2"),
        ("fats", "on", "has no option 'fats'; did you mean fast"),
        ("wholly_other", "on", "has no option 'wholly_other'; known: "),
    ],
)
def test_a_wrong_option_says_what_would_be_right(name, text, words):
    with pytest.raises(UsageError, match=words):
        typed(**{name: text})


def test_a_backend_without_options_says_so():
    class Plain(Good):
        options = ()

    with pytest.raises(UsageError, match="it takes none"):
        complete_options(Plain(), {"fast": "on"})


def test_options_fit_into_a_record():
    assert all(not isinstance(v, float) or math.isfinite(v) for v in typed(share="0.1").values())
    assert Registered("a", "b:C", "d").rivals == ()
