"""The programs that a bare interpreter is started with. Standard library only, Python 3.10."""

from __future__ import annotations

from collections.abc import Sequence

# What these lines need they check themselves, in words that an older Python understands too.
CHECKS = (
    "import sys; v = sys.version_info; "
    "v >= (3, 10) or sys.exit('a worker needs Python 3.10 or newer, this is %d.%d' % v[:2]); "
    "import importlib.util as u; "
    "u.find_spec('numpy') or sys.exit('it has no numpy: run  %s -m pip install numpy' % sys.executable); "
)


def bootstrap(module: str, code: str, packages: Sequence[str] = ()) -> str:
    """The program for `python -I -c` that runs a module's `main` on argv.

    Our code is first on the path, then folders of packages that were brought along.
    """
    path = [code, *packages]
    return f"import sys; sys.path[:0] = {path!r}; {CHECKS}from {module} import main; main(*sys.argv[1:])"
