"""Timers against the plainest way to keep them: look through all of them."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from anchord.protocol.timers import Timers

keys = st.integers(0, 9)
steps = st.one_of(
    st.tuples(st.just("set"), keys, st.integers(0, 20)),
    st.tuples(st.just("cancel"), keys, st.just(0)),
    st.tuples(st.just("pop"), keys, st.integers(0, 5)),
)


@given(st.lists(steps, max_size=60))
def test_timers_fire_at_their_last_setting_and_in_the_order_they_were_set(
    actions: list[tuple[str, int, int]],
) -> None:
    timers: Timers[int] = Timers()
    plain: dict[int, tuple[float, int]] = {}
    now_s = 0
    for serial, (action, key, number) in enumerate(actions):
        if action == "set":
            timers.set(key, now_s + number)
            plain[key] = (now_s + number, serial)
        elif action == "cancel":
            timers.cancel(key)
            plain.pop(key, None)
        else:
            now_s += number
            first = min(plain, key=plain.__getitem__, default=None)
            due = first if first is not None and plain[first][0] <= now_s else None
            assert timers.pop_due(now_s) == due
            plain.pop(due, None)  # type: ignore[arg-type]
        assert timers.next_s() == min((at for at, _ in plain.values()), default=None)
        assert [key for key in range(10) if key in timers] == sorted(plain)


def test_a_timer_put_off_again_and_again_fires_once() -> None:
    timers: Timers[str] = Timers()
    for at_s in range(10_000):
        timers.set("refresh", at_s)
        timers.set(f"cancelled {at_s}", 1e9)
        timers.cancel(f"cancelled {at_s}")
    assert timers.pop_due(9998) is None
    assert timers.pop_due(9999) == "refresh"
    assert timers.pop_due(1e12) is None and timers.next_s() is None
