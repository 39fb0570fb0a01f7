"""Inputs of the user's own: every form, and what is refused; images by a preprocessing that is stated."""

from __future__ import annotations

import numpy as np
import pytest
from onnx import numpy_helper

from bench.errors import UsageError
from bench.interface import Signature, ValueSpec
from bench.reference import images
from bench.reference.given import read

X = np.linspace(-1, 1, 16, dtype=np.float32).reshape(1, 16)
TAKES = Signature((ValueSpec("x", "float32", (1, 16)),), (ValueSpec("y", "float32", (1, 16)),))
PICTURE = Signature((ValueSpec("x", "float32", (1, 3, 4, 4)),), ())


@pytest.mark.parametrize("form", ["npz", "npy", "pb", "folder", "sets", "set"])
def test_every_form(tmp_path, form):
    data = tmp_path / "data"
    data.mkdir()
    tensor = numpy_helper.from_array(X, "x").SerializeToString()
    if form == "npz":
        np.savez(data / "one.npz", x=X)
    elif form == "npy":
        np.save(data / "one.npy", X)
    elif form == "pb":
        (data / "one.pb").write_bytes(tensor)
    elif form == "folder":
        np.save(data / "a.npy", X)
        np.savez(data / "b.npz", x=2 * X)
    else:
        for number in (0, 1):
            (data / f"test_data_set_{number}").mkdir()
            (data / f"test_data_set_{number}" / "input_0.pb").write_bytes(tensor)
    several = form in ("folder", "sets")
    found = read(data if several else next(data.iterdir()), TAKES, None, None)
    assert len(found.given) == 1 + several
    np.testing.assert_array_equal(found.given[0].data.feeds["x"], X)
    assert [one.label for one in found.given] == [None] * len(found.given)


def bad():
    yield "shape", lambda f: np.save(f / "x.npy", X[:, :5]), "its 'x' is float32[1, 5], the model takes float32[1, 16]"
    yield "type", lambda f: np.save(f / "x.npy", X.astype(np.float64)), "its 'x' is float64[1, 16]"
    yield "name", lambda f: np.savez(f / "x.npz", z=X), "no input 'z'"
    yield "fewer", lambda f: np.savez(f / "x.npz"), "it has no input 'x'"
    yield "pickle", lambda f: np.save(f / "x.npy", np.array([{}]), allow_pickle=True), "cannot be read"
    yield "cut", lambda f: (f / "x.npz").write_bytes(b"PK\x03\x04 short"), "cannot be read"
    yield "empty", lambda f: (f / "x.npy").touch(), "cannot be read"
    yield "text", lambda f: (f / "x.pb").write_bytes(b"\xff\xff\xff"), "not a tensor"
    yield "nothing", lambda f: (f / "notes.txt").write_text("hello"), "holds no inputs"
    yield "image", lambda f: (f / "cat.png").write_bytes(b"\x89PNG"), "is an image: how it becomes an input"


@pytest.mark.parametrize(("make", "words"), [c[1:] for c in bad()], ids=[c[0] for c in bad()])
def test_what_does_not_fit_is_refused(tmp_path, make, words):
    make(tmp_path)
    with pytest.raises(UsageError) as caught:
        read(tmp_path, TAKES, None, None)
    assert words in str(caught.value)


def test_one_array_for_two_inputs(tmp_path):
    np.save(tmp_path / "x.npy", X)
    two = Signature((*TAKES.inputs, ValueSpec("z", "float32", (2,))), ())
    with pytest.raises(UsageError, match=r"an \.npz with an array for each name"):
        read(tmp_path, two, None, None)


def test_labels_are_the_names_of_folders_and_a_few_come_from_all_of_them(tmp_path):
    for label in ("cat", "dog"):
        (tmp_path / label).mkdir()
        for number in range(4):
            np.save(tmp_path / label / f"{number}.npy", X * number)
    found = read(tmp_path, TAKES, None, 4)
    assert [one.label for one in found.given] == ["cat", "cat", "dog", "dog"]
    assert [one.source for one in found.given] == ["0.npy", "2.npy", "0.npy", "2.npy"]
    np.save(tmp_path / "beside.npy", X)
    with pytest.raises(UsageError, match="holds files beside folders"):
        read(tmp_path, TAKES, None, None)


def test_preprocessing_that_nothing_needs(tmp_path):
    np.save(tmp_path / "x.npy", X)
    with pytest.raises(UsageError, match="--preprocess is for images"):
        read(tmp_path, TAKES, "imagenet", None)


# Images.


@pytest.mark.parametrize(
    "text", ["imagenet", "resize=224x112", "scale=1/255,mean=0.5,std=0.25", "layout=nhwc,order=bgr"]
)
def test_a_preprocessing_says_itself(text):
    steps = images.parse(text)
    assert images.parse(str(steps)).layout == steps.layout
    assert str(images.parse(str(steps))) == str(steps)


@pytest.mark.parametrize(
    "text",
    [
        "",
        "rezise=3",
        "resize=0",
        "resize=a",
        "resize=1:2:3",
        "std=0",
        "mean=1:2",
        "layout=HWC",
        "scale=1/0",
        "scale=nan",
    ],
)
def test_other_preprocessing_is_refused(text):
    with pytest.raises(UsageError, match="--preprocess"):
        images.parse(text)


def picture(path, pixels):
    pillow = pytest.importorskip("PIL.Image", reason='run: pip install "deploybench[images]"')
    pillow.fromarray(pixels).save(path)
    return path


def test_pixels_become_numbers_as_stated(tmp_path):
    pixels = np.random.default_rng(0).integers(0, 256, (4, 4, 3), np.uint8)
    picture(tmp_path / "a.png", pixels)
    found = read(tmp_path, PICTURE, "scale=1/255,mean=0.5:0.4:0.3,std=0.2,order=BGR", None)
    wanted = (pixels[:, :, ::-1] / 255 - np.array([0.5, 0.4, 0.3])) / 0.2
    np.testing.assert_allclose(found.given[0].data.feeds["x"][0], wanted.transpose(2, 0, 1), rtol=1e-6)
    assert "pillow" in found.settings
    assert "order=BGR" in found.settings


def test_the_middle_is_cut_out_after_the_shorter_side_was_resized(tmp_path):
    pixels = np.zeros((8, 16, 3), np.uint8)
    pixels[:, 4:12] = 200
    picture(tmp_path / "wide.png", pixels)
    found = read(tmp_path, PICTURE, "resize=8,crop=4", None).given[0].data.feeds["x"]
    assert (found == 200).all()


def test_an_image_that_comes_out_otherwise_is_refused(tmp_path):
    picture(tmp_path / "a.png", np.zeros((5, 4, 3), np.uint8))
    with pytest.raises(UsageError, match=r"becomes float32\[1, 3, 5, 4\], the model takes float32\[1, 3, 4, 4\]"):
        read(tmp_path, PICTURE, "scale=1", None)


def test_a_file_that_only_looks_like_an_image(tmp_path):
    pytest.importorskip("PIL.Image", reason='run: pip install "deploybench[images]"')
    (tmp_path / "a.png").write_bytes(b"\x89PNG\r\n")
    with pytest.raises(UsageError, match="cannot be read as an image"):
        read(tmp_path, PICTURE, "imagenet", None)


def test_a_uint8_input_takes_pixels_as_they_are(tmp_path):
    picture(tmp_path / "a.png", np.full((4, 4, 3), 7, np.uint8))
    takes = Signature((ValueSpec("x", "uint8", (1, 4, 4, 3)),), ())
    found = read(tmp_path, takes, "layout=NHWC", None).given[0].data.feeds["x"]
    assert found.dtype == np.uint8
    assert (found == 7).all()
    with pytest.raises(UsageError, match="takes uint8, and the preprocessing makes other numbers"):
        read(tmp_path, takes, "layout=NHWC,scale=1/255", None)
