"""Asks a device how it stands: the same code as in a worker looks, there."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from bench.cache import Cache
from bench.errors import HostError
from bench.hosts.base import Host
from bench.worker import bundle

LIMIT_S = 60.0
WORD = "DEPLOYBENCH "
_ASK = "import sys; sys.path.insert(0, sys.argv[1]); from bench.evidence.standing import main; main(sys.argv[2])"


def describe(host: Host, cache: Cache) -> Mapping[str, Any]:
    """A `bench.evidence.standing.Standing` of the machine, as plain facts.

    Raises:
        HostError: it cannot be reached, or does not answer.
    """
    code, key = bundle.make("", cache)
    done = host.run([host.python, "-I", "-c", _ASK, str(host.put(code, key)), host.root], timeout_s=LIMIT_S)
    lines = [line for line in done.stdout.decode("utf-8", "replace").splitlines() if line.startswith(WORD)]
    if not lines:
        raise HostError("the device does not say how it stands", done.stderr.strip()[-500:])
    found: dict[str, Any] = json.loads(lines[-1].removeprefix(WORD))
    return found
