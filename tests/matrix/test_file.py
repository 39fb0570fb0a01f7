"""What is wrong with a matrix file is said with its line, and with the nearest word that would do."""

from __future__ import annotations

import pytest

from bench.errors import UsageError
from bench.matrix import cells

BASE = '[matrix]\nmodel = ["a", "b"]\nbackend = ["fake", "ort-cpu"]\nthreads = [1, 2]\n'


@pytest.mark.parametrize(
    ("text", "line", "says", "hint"),
    [
        ("x = 1\n", 1, "there is no 'x'", "known"),
        ("threads = 1\n", 1, "there is no 'threads'", "below [matrix]"),
        ("[martix]\n", 1, "there is no 'martix'", "did you mean matrix"),
        ("[matrix]\nmodel = 'a'\nbackned = 'b'\n", 3, "a cell has no 'backned'", "did you mean backend"),
        ("[matrix]\nmodels = 'a'\n", 2, "a cell has no 'models'", "write model"),
        ("[matrix]\nmodel = []\n", 2, "model is an empty list", "name one"),
        ("[matrix]\nmodel = [\n  'a',\n  'b',\n  'a',\n]\n", 5, "'a' is there already, in line 3", ""),
        ("[matrix]\nmodel = 'a'\n", 1, "[matrix] names no backend", "add backend"),
        ("[measure]\ntrials = 3\n", 1, "there is no [matrix] and no [[include]]", "--example"),
        ("[matrix]\nthreads = 0\n", 2, "threads: 0 is not possible", "from 1 to 1024"),
        ("[matrix]\nthreads = true\n", 2, "threads: True is not possible", "whole number"),
        ("[matrix]\nthreads = [1, 2.5]\n", 2, "threads: 2.5 is not possible", "whole number"),
        ("[matrix]\nprecision = 'fp15'\n", 2, "precision: 'fp15' is none of them", "fp16"),
        ("[matrix]\nscenario = 'ofline'\n", 2, "scenario: 'ofline' is none of them", "did you mean offline"),
        ("[matrix]\nshapes = [1, 3]\n", 2, "shapes: 1 gives no shape", "{ input = [1, 3, 224, 224] }"),
        ("[matrix]\nshapes = { x = [1, 0] }\n", 2, "gives no shape", "several of them in a list"),
        ("[matrix]\nmodel = ''\n", 2, "model: '' is no text", "quotes"),
        ("[matrix]\nrate = nan\n", 2, "rate: nan is not possible", "above 0"),
        ("[measure]\ntrails = 3\n", 2, "[measure] has no 'trails'", "did you mean trials"),
        ("[limits]\nprepair = 3\n", 2, "[limits] has no 'prepair'", "did you mean prepare"),
        ("[limits]\nprepare = -1\n", 2, "prepare: -1 is not possible", "above 0"),
        ("[budget]\ntotal = 'x'\n", 2, "total: 'x' is not possible", "number"),
        ("[retry]\ntimes = 11\n", 2, "times: 11 is not possible", "from 0 to 10"),
        ("[defaults]\nmodel = 'a'\n", 2, "a model is no default", "below [matrix]"),
        ("[defaults]\nthreads = [1, 2]\n", 2, "threads has several defaults", "below [matrix]"),
        ("matrix = 3\n", 1, "matrix is a table", "write [matrix]"),
        ("model = 3\n", 1, "model is a table", "write [model.NAME]"),
        ("[[include]]\nbackend = 'fake'\n", 1, "this [[include]] names no model", 'add model = "..."'),
        ("[include]\nmodel = 'a'\n", 1, "include is a list of tables", "write [[include]]"),
        ("[[exclude]]\n", 1, "this [[exclude]] says nothing", "name what it is about"),
        ("[model.a]\nbackend = 'fake'\n", 2, "[model.a] cannot choose a backend", "[[exclude]]"),
        # With a good matrix above, of four lines.
        (BASE + "[model.c]\nbatch = 1\n", 5, "[model.c] is about no model of this matrix", "known: a, b"),
        (BASE + "[[exclude]]\nthreads = 8\n", 6, "takes nothing out: no cell has threads 8", "1, 2"),
        (BASE + "[[exclude]]\nmodel = 'a'\ndevice = 'x'\n", 7, "no cell has device x", "local"),
        (BASE + "[[exclude]]\nbatch = 1\n", 6, "no cell has batch 1", "no cell says 'batch'"),
        (BASE + "[[exclude]]\nthreads = [1, 2]\n", 5, "every cell is excluded", ""),
        (
            BASE + "[[exclude]]\nmodel = 'a'\n[[include]]\nmodel = 'a'\nbackend = 'fake'\nthreads = 4\n",
            7,
            "adds a on fake, 4 threads, which the [[exclude]] of line 5 takes out",
            "contradictory",
        ),
        (BASE + "[[include]]\nmodel = 'a'\nbackend = 'fake'\n", 6, "duplicated cell: a on fake is there already", ""),
        (
            BASE + "[model.a]\nbatch = 1\n[backend.fake]\nbatch = 2\n",
            8,
            "batch is said by [model.a] (line 6) and by [backend.fake]",
            "say it in one of them",
        ),
        (BASE.replace("fake", "fkae"), 3, "there is no backend 'fkae'", "did you mean fake"),
        (
            BASE + "[backend.ort-cpu.options]\nspining = true\n",
            6,
            "none of ort-cpu has an option 'spining'",
            "spinning",
        ),
        (BASE + "[matrix.options]\nspining = true\n", 6, "none of fake, ort-cpu has an option 'spining'", "spinning"),
        (BASE + "[backend.fake.options]\nspinning = true\n", 6, "none of fake has an option 'spinning'", "known"),
        (BASE + "[backend.fake.options]\njitter = [[1]]\n", 6, "jitter: [1] is no option's value", "give a text"),
    ],
)
def test_what_is_wrong_is_said_with_its_line(read, options_of, text, line, says, hint):
    with pytest.raises(UsageError) as caught:
        cells.cells(read(text), options_of)
    assert caught.value.message.startswith(f"m.toml, line {line}: "), caught.value.message
    assert says in caught.value.message
    assert hint in caught.value.hint


@pytest.mark.parametrize(
    ("data", "says"),
    [
        (b"[matrix", "m.toml is not TOML"),
        (b"a = 1\na = 2\n", "m.toml is not TOML"),
        (b"a = 1\n\nb = '\xff'\n", "m.toml, line 3: this is not UTF-8 text"),
    ],
)
def test_what_is_no_toml(read, written, tmp_path, data, says):
    from bench.matrix import file

    path = written("")
    path.write_bytes(data)
    with pytest.raises(UsageError, match=says.replace("[", r"\[")):
        file.read(path, ())
    with pytest.raises(UsageError, match="cannot be read"):
        file.read(tmp_path / "none.toml", ())


def test_windows_line_ends_and_dotted_keys_are_the_same_file(expand):
    dotted = 'matrix.model = "a"\r\nmatrix.backend = "fake"\r\nmatrix.options.latency_us = [1.0, 2.0]\r\n'
    assert expand(dotted) == ["a on fake, latency us 1.0", "a on fake, latency us 2.0"]
