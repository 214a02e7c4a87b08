"""What the rows of a benchmark are held to, and whether they are within it.

A row that nothing is said of here is for information. The modes of ``bench handover`` are held to the proxy mode of the
same run, and with delays to their formula; without the row that a bound is made of, the bound is named and not tried.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from anchord.lab.bench import Row
from anchord.lab.bench_modes import DELAYS, WAY_OUT_MS, WAYS

OLD_FLOW_DOWN = "old_flow_down"
_ROOM_MS = 1.0  # until the next probe is due
_ABOVE_PROXY_MS = {"relay": 2.0, "locator": 2.0, "directory": 2.0, "anchor-known": 0.0}


@dataclass(frozen=True, slots=True)
class Bound:
    """``value`` ("p50", "p95" or "max") of a row is at least ``least`` and at most ``most``, in the row's unit."""

    value: str
    least: float | None = None
    most: float | None = None

    def __str__(self) -> str:
        """As it is shown."""
        if self.least is not None and self.most is not None:
            return f"{self.value} {self.least:g} to {self.most:.2f}"
        return f"{self.value} <= {self.most:g}" if self.least is None else f"{self.value} >= {self.least:g}"

    def verdict(self, row: Row) -> str:
        """``ok``, ``exceeded`` or ``below``."""
        value: float = getattr(row, self.value)
        if self.most is not None and value > self.most:
            return "exceeded"
        return "below" if self.least is not None and value < self.least else "ok"


@dataclass(frozen=True, slots=True)
class Held:
    """What a row is held to, in words, and the verdict (None: it takes a row that was not measured)."""

    text: str
    verdict: str | None


_HANDOVER = (Bound("p50", most=3), Bound("p95", most=10))
_LOST = (Bound("p50", most=3), Bound("p95", most=6))
_CENTRAL = (Bound("p50", least=10_000),)
_BOUNDS: Mapping[str, tuple[Bound, ...]] = {
    "handover.old_flow_down": _HANDOVER,
    f"handover.proxy.{OLD_FLOW_DOWN}": _HANDOVER,
    "anchor.pbu_to_pba": (Bound("p50", most=1.5),),
    "handover.lost_down": _LOST,
    "handover.lost_up": _LOST,
    "tunnel.throughput_ratio": (Bound("p50", least=0.85),),
    "gateway.rss": (Bound("max", most=60),),
    "gateway.frames_to_userspace": (Bound("max", most=10),),
    **{f"central.{store}.{hosts}": _CENTRAL for store in ("memory", "sqlite") for hosts in (1000, 10_000, 100_000)},
}


def held_to(rows: Sequence[Row]) -> dict[str, Held]:
    """What each row of a run is held to, by its name; the others are for information."""
    medians = {row.name: row.p50 for row in rows}
    held = {}
    for row in rows:
        if row.name in _BOUNDS:
            held[row.name] = _judged(row, _BOUNDS[row.name])
        elif (of_mode := _of_mode(row, medians)) is not None:
            held[row.name] = of_mode
    return held


def _judged(row: Row, bounds: tuple[Bound, ...]) -> Held:
    verdicts = [bound.verdict(row) for bound in bounds]
    return Held(", ".join(map(str, bounds)), next((each for each in verdicts if each != "ok"), "ok"))


def _of_mode(row: Row, medians: Mapping[str, float]) -> Held | None:
    for mode, way in WAYS.items():
        down, up = f"handover.{mode}.{OLD_FLOW_DOWN}", f"handover.{mode}.old_flow_up"
        if row.name == down and mode in _ABOVE_PROXY_MS:
            return _beside_proxy(row, _ABOVE_PROXY_MS[mode], medians.get(f"handover.proxy.{OLD_FLOW_DOWN}"))
        for plain, formula_ms in ((down, way.down_ms), (up, way.up_ms + WAY_OUT_MS)):
            if row.name == plain + DELAYS and plain in medians:
                return _judged(row, (Bound("p50", formula_ms, formula_ms + medians[plain] + _ROOM_MS),))
    return None


def _beside_proxy(row: Row, above_ms: float, proxy_ms: float | None) -> Held:
    words = "p50 <= proxy" + (f" + {above_ms:g}" if above_ms else "")
    if proxy_ms is None:
        return Held(words, None)
    most = proxy_ms + above_ms
    return Held(f"{words} ({most:.2f})", Bound("p50", most=most).verdict(row))
