"""Which machine a device is: what its records are filed under, and which devices take turns because they are one."""

from __future__ import annotations

import json
from dataclasses import dataclass

from bench.errors import HostError
from bench.place import Place
from bench.registry import Registered
from bench.worker import bundle

_ASK = """
import sys
sys.path.insert(0, sys.argv[1])
from dataclasses import asdict
from json import dumps
from bench.evidence.environment import collect
print("\\n" + dumps(asdict(collect(sys.argv[2]))))
"""


@dataclass(frozen=True, slots=True)
class Contact:
    """The machine's name, and the kernel's name for its boot: two devices with the same one are one machine."""

    machine: str
    boot: str


def contact(place: Place, backend: Registered) -> Contact:
    """The machine behind a place, asked there. `backend`: any that will run there.

    Raises:
        BenchError: it cannot be reached, or does not answer as a machine of ours.
    """
    code, key = bundle.make(backend.spec, place.cache)
    host = place.host
    there = str(host.put(code, key))
    done = host.run([host.python, "-I", "-c", _ASK, there, host.root], timeout_s=place.limits.connect)
    try:
        facts = json.loads(done.stdout.decode("utf-8", "replace").strip().rpartition("\n")[2])
        return Contact(str(facts["machine"]), str(facts["boot"]))
    except (ValueError, KeyError, TypeError) as error:
        said = done.stderr.strip().rpartition("\n")[2]
        message = f"{place.device} does not say which machine it is: {said or 'nothing came back'}"
        raise HostError(message, f"try `deploybench run` with --device {place.device}") from error
