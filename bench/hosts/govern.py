"""Sent to a device as text and run there: sets who governs the CPUs' clocks, and sets it back, whatever happens.

Not imported here. Standard library only, Python 3.10. A second process holds what was there before and waits for the
first one's end: however that ends, it writes the old governors back. The first one ends with its input, or when nobody
has written to it for half a minute: then the link is gone.
"""

from __future__ import annotations

import glob
import os
import select
import subprocess
import sys

SILENCE_S = 30.0
FILES = "/sys/devices/system/cpu/cpufreq/policy*/scaling_governor"
# Runs as whoever may write: reads until its input ends, then writes every file back.
RESTORE = 'cat > /dev/null; while [ $# -gt 1 ]; do echo "$2" > "$1"; shift 2; done'


def say(text: str) -> None:
    os.write(1, f"DEPLOYBENCH {text}\n".encode())


def main(wanted: str, files: str) -> None:
    before = []
    for path in sorted(glob.glob(files)):
        with open(path) as file:
            before += [path, file.read().strip()]
    if not before:
        say("error this machine has no cpufreq: nobody can set its clocks")
        return
    sudo = [] if all(os.access(path, os.W_OK) for path in before[::2]) else ["sudo", "-n"]
    if sudo and subprocess.run([*sudo, "true"], capture_output=True, check=False).returncode:
        say("error setting the governor takes root there, and `sudo -n` is not allowed")
        return
    # In a session of its own: what ends us by our group does not end it.
    guard = subprocess.Popen([*sudo, "sh", "-c", RESTORE, "sh", *before], stdin=subprocess.PIPE, start_new_session=True)
    assert guard.stdin is not None
    try:
        change = 'for path in "$@"; do echo "$0" > "$path" || exit 1; done'
        done = subprocess.run([*sudo, "sh", "-c", change, wanted, *before[::2]], capture_output=True, check=False)
        say("error " + done.stderr.decode().strip() if done.returncode else "set")
        while done.returncode == 0 and select.select([0], [], [], SILENCE_S)[0] and os.read(0, 4096):
            pass
    finally:
        guard.stdin.close()
        guard.wait()


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2] if len(sys.argv) > 2 else FILES)
