"""The difference between what is wanted and what is installed, as an ordered list of steps.

Pure: no kernel, no clock. Principle: answer first, clean up later. ``additions`` is what a packet is waiting for and
is sent at once; ``leftovers`` is what nobody wants any more and can wait for a quiet moment. A link is not deleted
then either but buried (moved to the graveyard group): deleting a macvlan holds the kernel's RTNL lock for some 20 ms,
and every other change of the machine waits for it; all buried ones are deleted together.
"""

from __future__ import annotations

from collections.abc import Container, Hashable, Iterable, Mapping
from dataclasses import dataclass, replace
from enum import Enum

from anchord.kernel.objects import Address, Link, Neighbour, Object, Pair, Route, Rule
from anchord.kernel.tables import DECAP, GRAVEYARD, HOSTS, INNER, LOCALOUT, UPLINK


class Action(Enum):
    """What to do with an object."""

    CREATE = "create"  # nothing of that key is there
    CHANGE = "change"  # something is there: bring it into this form in place
    REMOVE = "remove"


@dataclass(frozen=True, slots=True)
class Step:
    """One change to the kernel. After it, ``after`` is what stands under the object's key (None: nothing)."""

    action: Action
    object: Object

    @property
    def after(self) -> Object | None:
        """What is installed under the object's key once the kernel has acknowledged this step."""
        return None if self.action is Action.REMOVE else self.object


def additions(wanted: Iterable[Object], installed: Mapping[Hashable, Object]) -> list[Step]:
    """Steps that make every wanted object stand, in the order of ``wanted``; none for those that stand already.

    Changing a route replaces it in one step, so that no packet meets the table without it.
    """
    steps: list[Step] = []
    for each in wanted:
        present = installed.get(each.key)
        if present is None:
            steps.append(Step(Action.CREATE, each))
        elif present != each:
            if not _can_change(present, each):
                steps.append(Step(Action.REMOVE, present))
                steps.append(Step(Action.CREATE, each))
            else:
                steps.append(Step(Action.CHANGE, each))
    return steps


def leftovers(unwanted: Iterable[Hashable], installed: Mapping[Hashable, Object]) -> list[Step]:
    """Steps that take unwanted objects away: what steers packets first, links last, and those only buried."""
    present = (installed.get(key) for key in unwanted)
    steps: list[Step] = []
    for each in sorted((each for each in present if each is not None), key=_removal_rank):
        if isinstance(each, Link):
            if each.group != GRAVEYARD:
                steps.append(Step(Action.CHANGE, replace(each, group=GRAVEYARD)))
        else:
            steps.append(Step(Action.REMOVE, each))
    return steps


def on_devices(devices: Container[str], installed: Mapping[Hashable, Object]) -> list[Hashable]:
    """Keys of everything that goes when the links of these devices go, the links included."""
    return [
        key
        for key, each in installed.items()
        if isinstance(each, Link | Address | Neighbour | Route) and each.device in devices
    ]


def _can_change(present: Object, wanted: Object) -> bool:
    """Whether the present object can be brought into the wanted form without making it anew."""
    if isinstance(present, Pair) and isinstance(wanted, Pair):
        return present.mac == wanted.mac and present.peer_mac == wanted.peer_mac
    return True


_STEERING = (UPLINK, HOSTS, INNER, LOCALOUT, DECAP)


def _removal_rank(each: Object) -> int:
    """Order of removal: rules, routes that steer, routes that encapsulate, what those rest on."""
    match each:
        case Rule():
            return 0
        case Route():
            return 1 if each.table in _STEERING else 2
        case Address() | Neighbour():
            return 3
        case _:
            return 4
