"""What everything that is written down is made of."""

from __future__ import annotations

import msgspec


class Value(msgspec.Struct, frozen=True, kw_only=True):
    """Frozen values. Absent facts are null."""
