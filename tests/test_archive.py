"""What came from elsewhere is unpacked below its folder, or refused."""

from __future__ import annotations

import io
import tarfile
from pathlib import PurePosixPath

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from bench.archive import unpack

PART = st.text("abc.-_ ä", min_size=1, max_size=8).filter(lambda s: s.strip(". ") != "")


FILE, FOLDER = tarfile.REGTYPE, tarfile.DIRTYPE


def packed(*members):
    """An archive of members: name, kind, and what is in the file or where the link leads."""
    made = io.BytesIO()
    with tarfile.open(fileobj=made, mode="w") as archive:
        for name, kind, *more in members:
            info = tarfile.TarInfo(name)
            info.type = kind
            if kind == FILE:
                info.size = len(more[0])
                archive.addfile(info, io.BytesIO(more[0]))
            else:
                info.linkname = "".join(more)
                archive.addfile(info)
    return made.getvalue()


@given(st.dictionaries(st.lists(PART, min_size=2, max_size=4).map(tuple), st.binary(max_size=2000), max_size=5))
@settings(max_examples=50, suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
def test_files_come_out_as_they_went_in(tmp_path_factory, files):
    folder = tmp_path_factory.mktemp("out")
    files = {"/".join(("top", *(f"{i}{part}" for i, part in enumerate(parts)))): data for parts, data in files.items()}
    clash = {str(parent) for name in files for parent in PurePosixPath(name).parents}
    files = {name: data for name, data in files.items() if name not in clash}
    unpack(packed(*((name, FILE, data) for name, data in files.items())), folder)
    assert {str(p.relative_to(folder)): p.read_bytes() for p in folder.rglob("*") if p.is_file()} == files


def test_folders_too(tmp_path):
    unpack(packed(("x", FOLDER), ("x/empty", FOLDER), ("x/a", FILE, b"1"), ("x", FOLDER)), tmp_path)
    assert sorted(p.name for p in (tmp_path / "x").iterdir()) == ["a", "empty"]


@pytest.mark.parametrize(
    "member",
    [
        ("../a", FILE, b"1"),
        ("x/../../a", FILE, b"1"),
        ("/tmp/deploybench-test-a", FILE, b"1"),
        ("x/link", tarfile.SYMTYPE, "/etc/passwd"),
        ("x/link", tarfile.LNKTYPE, "x/a"),
        ("x/pipe", tarfile.FIFOTYPE),
    ],
)
def test_what_leads_elsewhere_is_refused(tmp_path, member):
    folder = tmp_path / "in"
    folder.mkdir()
    with pytest.raises(tarfile.TarError, match="no file or folder below it"):
        unpack(packed(("x/a", FILE, b"0"), member, ("x/later", FILE, b"2")), folder)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["in"]
    assert sorted(p.name for p in (folder / "x").iterdir()) == ["a"]


@pytest.mark.parametrize("cut", [100, 511, 600])
def test_what_is_no_archive_is_refused(tmp_path, cut):
    with pytest.raises(tarfile.TarError):
        unpack(packed(("a", FILE, b"1" * 2000))[:cut], tmp_path)
    with pytest.raises(tarfile.TarError):
        unpack(b"no archive" * 100, tmp_path)
