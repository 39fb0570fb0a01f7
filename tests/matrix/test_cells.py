"""The cells of a matrix file: the product, what is said of some of it, what is taken out and added."""

from __future__ import annotations

import itertools

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bench.errors import UsageError
from bench.matrix import cells
from bench.matrix.file import MatrixFile, Rule, Said
from bench.matrix.shard import parse, split

BASE = '[matrix]\nmodel = ["a", "b"]\nbackend = ["fake", "ort-cpu"]\n'


def test_the_product_has_models_outermost(expand):
    assert expand(BASE + "threads = [1, 2]\n") == [
        "a on fake",
        "a on fake, 2 threads",
        "a on ort-cpu",
        "a on ort-cpu, 2 threads",
        "b on fake",
        "b on fake, 2 threads",
        "b on ort-cpu",
        "b on ort-cpu, 2 threads",
    ]


def test_what_is_said_of_one_replaces_what_is_said_of_all(expand):
    text = BASE + "threads = [1, 2]\n[backend.fake]\nthreads = 4\n[model.b]\nprecision = ['fp16', 'bf16']\n"
    assert expand(text) == [
        "a on fake, 4 threads",
        "a on ort-cpu",
        "a on ort-cpu, 2 threads",
        "b on fake, 4 threads, fp16",
        "b on fake, 4 threads, bf16",
        "b on ort-cpu, fp16",
        "b on ort-cpu, bf16",
        "b on ort-cpu, 2 threads, fp16",
        "b on ort-cpu, 2 threads, bf16",
    ]


def test_options_go_to_the_backends_that_know_them(expand):
    """And do not multiply the cells of those that do not."""
    text = '[matrix]\nmodel = "a"\nbackend = ["fake", "ort-cpu"]\n[matrix.options]\nspinning = [true, false]\n'
    assert expand(text) == ["a on fake", "a on ort-cpu, spinning true", "a on ort-cpu, spinning false"]


def test_defaults_are_for_what_says_nothing_else(expand):
    text = BASE.replace(', "b"', "").replace(', "ort-cpu"', "") + (
        "threads = [2, 3]\n[defaults]\nthreads = 4\ndevice = 'rpi5'\nbatch = 2\n"
        "[[include]]\nmodel = 'a'\nbackend = 'ort-cpu'\n"
        "[[include]]\nmodel = 'a'\nbackend = 'ort-cpu'\nthreads = [8, 9]\n"
    )
    assert expand(text) == [
        "a on fake, rpi5, 2 threads, batch 2",
        "a on fake, rpi5, 3 threads, batch 2",
        "a on ort-cpu, rpi5, 4 threads, batch 2",
        "a on ort-cpu, rpi5, 8 threads, batch 2",
        "a on ort-cpu, rpi5, 9 threads, batch 2",
    ]


def test_excludes_take_out_what_is_all_of_what_they_say(expand):
    text = BASE + "threads = [1, 2]\n[[exclude]]\nbackend = 'fake'\nthreads = 1\n[[exclude]]\nmodel = 'b'\n"
    assert expand(text) == ["a on fake, 2 threads", "a on ort-cpu", "a on ort-cpu, 2 threads"]


def test_an_exclude_knows_what_a_cell_is_that_says_nothing(expand):
    """`threads = 1` is what a cell has without a word."""
    text = BASE + "[[exclude]]\nbackend = 'fake'\nthreads = 1\nprecision = 'model'\ndevice = 'local'\n"
    assert expand(text) == ["a on ort-cpu", "b on ort-cpu"]


def test_shapes_are_values_like_others(expand):
    text = '[matrix]\nmodel = "a"\nbackend = "fake"\nshapes = [{ x = [1, 3, 8, 8] }, { x = [1, 3, 9, 9], y = [2] }]\n'
    assert expand(text) == ["a on fake, x 1x3x8x8", "a on fake, x 1x3x9x9, y 2"]


def test_a_file_of_includes_alone(expand):
    assert expand("[[include]]\nmodel = 'a'\nbackend = ['fake', 'ort-cpu']\n") == ["a on fake", "a on ort-cpu"]


WORDS = {"model": ["a", "b", "c"], "backend": ["fake", "ort-cpu"], "threads": [1, 2, 4], "batch": [1, 8]}
SECTIONS = st.fixed_dictionaries(
    {word: st.lists(st.sampled_from(values), min_size=1, unique=True) for word, values in WORDS.items()}
)
RULES = st.lists(st.dictionaries(st.sampled_from(list(WORDS)), st.integers(0, 1), min_size=1, max_size=3), max_size=2)


@given(section=SECTIONS, rules=RULES)
def test_the_product_less_what_is_excluded(options_of, section, rules):
    """Against a plain enumeration."""

    def said(values):
        return {word: tuple(Said(v, 2) for v in found) for word, found in values.items()}

    outs = [{word: [WORDS[word][n]] for word, n in rule.items()} for rule in rules]
    file = MatrixFile(
        "m.toml", said(section), {}, {}, (), tuple(Rule(said(out), 9) for out in outs), {}, {}, {}, {}, {}
    )
    every = [dict(zip(section, values, strict=True)) for values in itertools.product(*section.values())]
    hits = [[cell for cell in every if all(cell[w] in v for w, v in out.items())] for out in outs]
    wanted = [cell for cell in every if not any(cell in hit for hit in hits)]
    if not wanted or not all(hits):
        with pytest.raises(UsageError, match="line"):
            cells.cells(file, options_of)
        return
    found = [{word: cell[word] for word in section} for cell in cells.cells(file, options_of)]
    assert sorted(map(str, found)) == sorted(map(str, wanted))


@given(
    seconds=st.dictionaries(st.text("0123456789abcdef", min_size=4, max_size=8), st.floats(0.1, 100), max_size=60),
    parts=st.integers(1, 9),
    data=st.data(),
)
def test_shards_are_whole_disjoint_balanced_and_always_the_same(seconds, parts, data):
    found = split(seconds, parts)
    assert set(found) == set(seconds)
    assert set(found.values()) <= set(range(1, parts + 1))
    shuffled = dict(data.draw(st.permutations(list(seconds.items()))))
    assert split(shuffled, parts) == found
    loads = [sum(seconds[c] for c, p in found.items() if p == part) for part in range(1, parts + 1)]
    assert max(loads) - min(loads) <= max(seconds.values(), default=0) + 1e-6


def test_equal_cells_are_dealt_evenly():
    found = split({f"{n:04x}": 1.0 for n in range(1003)}, 7)
    sizes = [list(found.values()).count(part) for part in range(1, 8)]
    assert max(sizes) - min(sizes) == 1


@pytest.mark.parametrize("text", ["0/4", "5/4", "1", "a/b", "1/0", "-1/4", "1/20000", ""])
def test_what_is_no_shard(text):
    with pytest.raises(UsageError, match="write --shard"):
        parse(text)
