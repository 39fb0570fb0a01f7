"""Unpacks a tar archive that came from elsewhere: files and folders below one folder, and nothing besides.

Own code, because the filters of Python's tarfile came with 3.11.4, and Debian 12 has 3.11.2.
"""

from __future__ import annotations

import io
import shutil
import tarfile
from pathlib import Path, PurePosixPath


def unpack(data: bytes, folder: Path) -> None:
    """Write what the archive holds below `folder`.

    Raises:
        tarfile.TarError: it is no archive, or holds a link, a device, or a name that leads out of the folder. What came
            before that has been written.
    """
    with tarfile.open(fileobj=io.BytesIO(data)) as archive:
        for member in archive:
            name = PurePosixPath(member.name)
            if name.is_absolute() or ".." in name.parts or not (member.isdir() or member.isfile()):
                raise tarfile.ExtractError(f"{member.name!r} is no file or folder below it")
            target = folder / name
            if member.isdir():
                target.mkdir(parents=True, exist_ok=True)
                continue
            target.parent.mkdir(parents=True, exist_ok=True)
            content = archive.extractfile(member)
            assert content is not None  # it is a file
            with content, target.open("wb") as file:
                shutil.copyfileobj(content, file)
