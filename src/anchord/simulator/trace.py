"""What happened in a run, a line each: the same seed gives the same lines anywhere."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import MISSING, fields, is_dataclass
from enum import Enum
from ipaddress import IPv6Address
from typing import Any

from anchord.protocol.identity import mac_text


class Trace:
    """Lines are made only when somebody will read them: making them costs more than what they tell of.

    ``names``: of nodes, by address.
    """

    def __init__(self, wanted: bool) -> None:
        self.wanted = wanted
        self.lines: list[str] = []
        self.names: Mapping[IPv6Address, str] = {}

    def note(self, now_s: float, who: str, what: str) -> None:
        """``who`` did or met ``what`` at ``now_s`` (virtual seconds). Call only if ``wanted``."""
        self.lines.append(f"{now_s:10.4f} {who:8} {what}")

    def event(self, now_s: float, who: str, way: str, event: Any) -> None:
        """An input (``<``) or output (``>``) of ``who``. Call only if ``wanted``."""
        self.note(now_s, who, f"{way} {self.text(event)}")

    def text(self, value: Any) -> str:
        """As people read it: nodes by name, MAC addresses with colons, and nothing that is as it is by default."""
        if is_dataclass(value):
            return f"{type(value).__name__}({', '.join(self._fields(value))})"
        if isinstance(value, tuple | list):
            return f"[{' '.join(self.text(each) for each in value)}]"
        if isinstance(value, dict):
            return "{" + ", ".join(f"{self.text(key)}: {self.text(each)}" for key, each in value.items()) + "}"
        return self._plain(value)

    def _plain(self, value: Any) -> str:
        if isinstance(value, IPv6Address):
            return self.names.get(value, str(value))
        if isinstance(value, Enum):
            return (value.name or str(value.value)).lower()
        if isinstance(value, bytes):
            return mac_text(value) if len(value) == 6 else value.hex()
        return str(value)

    def _fields(self, value: Any) -> list[str]:
        texts: list[str] = []
        for field in fields(value):
            held = getattr(value, field.name)
            default = field.default if field.default_factory is MISSING else field.default_factory()
            if held is None or held in (default, ()):
                continue
            text = self.text(held)
            texts.append(text if is_dataclass(held) or isinstance(held, tuple) else f"{field.name}={text}")
        return texts
