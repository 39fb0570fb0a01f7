"""Which boot of which machine this is. Apart from the other facts: whoever only holds the machine need not know them.

Standard library only, Python 3.10.
"""

from __future__ import annotations


def boot_id(root: str = "/") -> str:
    """The kernel's random name for this boot: two devices with the same one are one machine.

    `root`: another than `/` where the machine is made up.
    """
    try:
        with open(f"{root}/proc/sys/kernel/random/boot_id") as file:
            return file.read().strip() or "unknown"
    except OSError:
        return "unknown"
