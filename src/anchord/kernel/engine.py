"""The one place that changes the kernel's forwarding state: keeps a mirror of what is installed, sends differences.

Single-threaded: everything here runs in the worker thread of ``forwarding.py`` (or before that thread starts). It does
not wait and knows no clock; when to do what is decided there.

The mirror is what the kernel acknowledged. Anything that fails makes it doubtful, so the next work of the failed host
begins by reading everything again.
"""

from __future__ import annotations

import errno
import itertools
from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass, field

from anchord.declared import HostState
from anchord.kernel import dump
from anchord.kernel.netlink import NetlinkError, NetlinkSocket, Request
from anchord.kernel.objects import Address, Link, Neighbour, Object, Pair, Route, Rule, group_deletion, spare
from anchord.kernel.reconcile import Action, Step, additions, leftovers, on_devices
from anchord.kernel.tables import FIRST_INDEX, GRAVEYARD, LIVE, SPARE, PlaneSettings, host_objects, plan

BASE = ""
"""Owner of what stands without any host. A host's key is never empty."""


SPARES = 8
"""Links made beforehand on each access interface: a host that moves needs one for each of its anchors."""


@dataclass(slots=True)
class Totals:
    """What the engine did since it was made."""

    batches: int = 0
    requests: int = 0
    errors: int = 0
    repairs: int = 0
    readings: int = 0
    links_deleted: int = 0


@dataclass(slots=True)
class Engine:
    """Mirror and wishes of one gateway."""

    settings: PlaneSettings
    socket: NetlinkSocket
    totals: Totals = field(default_factory=Totals)
    installed: dict[Hashable, Object] = field(default_factory=dict)
    indexes: dict[str, int] = field(default_factory=dict)
    wanted: dict[str, tuple[Object, ...]] = field(default_factory=dict)
    states: dict[str, HostState] = field(default_factory=dict)
    owner: dict[Hashable, str] = field(default_factory=dict)
    inherited: set[Hashable] = field(default_factory=set)
    """Left by an earlier process and not declared yet; not touched until ``forget_inherited``."""
    unwanted: dict[Hashable, None] = field(default_factory=dict)
    doubtful: set[str] = field(default_factory=set)
    """Hosts with a failed step since the last reading."""
    links: dict[bytes, str] = field(default_factory=dict)
    """MACs of DLIFs in service, with the access interfaces they are on."""
    buried: set[str] = field(default_factory=set)
    """Devices that wait for deletion."""
    spares: dict[str, list[int]] = field(default_factory=dict)
    """Interface indexes of links made beforehand, by access interface."""
    _next_index: int = FIRST_INDEX

    def read(self, urgent: Callable[[], bool] = lambda: False) -> None:
        """Read what is installed. Raises NetlinkError, dump.InterruptedReadError (nothing is changed then)."""
        found = dump.read(self.socket, urgent)
        self.totals.readings += 1
        self.installed, self.indexes = found.objects, found.indexes
        self.doubtful.clear()
        self._next_index = max([FIRST_INDEX, *(index + 1 for index in self.indexes.values())])
        links = [each for each in self.installed.values() if isinstance(each, Link)]
        self.links = {each.mac: each.parent for each in links if each.group == LIVE}
        self.buried = {each.device for each in links if each.group == GRAVEYARD}
        self.spares = {name: found.spares.get(name, []) for name in self.settings.access if name in self.indexes}

    def take_over(self, tunnel_mtu: int) -> None:
        """Read what an earlier process left, and make what stands without any host. Raises NetlinkError."""
        self.read()
        base = plan(self.settings, tunnel_mtu)
        self.inherited = set(self.installed) - {each.key for each in base}
        self._replace_wishes(BASE, base)
        failed = self._send([(BASE, step) for step in additions(base, self.installed)])
        if failed:
            raise failed[0][1]
        # Rules are ours alone, and those of an earlier configuration would stand in the way of these.
        old = [key for key in self.inherited if isinstance(self.installed.get(key), Rule)]
        self._run(leftovers(old, self.installed))
        self.inherited.difference_update(old)
        while self.lacks_spares():
            self.make_spare()

    def apply(self, states: Sequence[HostState]) -> dict[str, str | None]:
        """Make the declarations true; for each host None or what went wrong. One batch for all of them."""
        if any(state.host in self.doubtful for state in states):
            try:
                self.read()
            except NetlinkError as error:
                return {state.host: str(error) for state in states}
        outcome: dict[str, str | None] = {}
        steps: list[tuple[str, Step]] = []
        for state in states:
            try:
                objects = host_objects(state)
            except ValueError as error:
                outcome[state.host] = str(error)
                continue
            taken = [each for each in objects if isinstance(each, Link) and self._taken(each, state.host)]
            if taken:
                outcome[state.host] = f"{taken[0]} is shown to {self.owner[taken[0].key]} already"
                continue
            outcome[state.host] = None
            self._replace_wishes(state.host, objects)
            if objects:
                self.states[state.host] = state
            else:
                self.states.pop(state.host, None)
            steps += [(state.host, step) for step in additions(objects, self.installed)]
        for host, refusal in self._send(steps):
            if outcome[host] is None:  # the first is the cause, those behind it mostly follow from it
                outcome[host] = str(refusal)
        return outcome

    def tidy(self) -> int:
        """Take away what nobody wants any more (links are only buried); how many steps that took."""
        steps = leftovers(self.unwanted, self.installed)
        self.unwanted.clear()
        return self._run(steps)

    def delete_buried(self) -> int:
        """Delete all buried links at once; how many. Holds the kernel's RTNL lock for some 20 ms."""
        buried = self.buried
        if buried:
            error = self.socket.send([group_deletion(GRAVEYARD)])[0]
            if error is not None and error.code != errno.ENODEV:
                self.totals.errors += 1
                return 0
            for key in on_devices(buried, self.installed):
                del self.installed[key]
            for device in buried:
                self.indexes.pop(device, None)
            self.totals.links_deleted += len(buried)
            self.buried = set()
        return len(buried)

    def lacks_spares(self) -> bool:
        """Whether ``make_spare`` has something to do."""
        return any(len(spares) < SPARES for spares in self.spares.values())

    def make_spare(self) -> None:
        """Make one link beforehand, where most are missing."""
        parent, spares = min(self.spares.items(), key=lambda item: len(item[1]))
        index = self._new_index("")
        problems = self.socket.send(spare(index, parent, self.indexes[parent], SPARE))
        self.totals.requests += len(problems)
        if any(problems):
            self.totals.errors += 1
            del self.spares[parent]  # not tried again before the next reading
        else:
            spares.append(index)

    def forget_inherited(self) -> int:
        """From now on nobody wants what an earlier process left and nobody declared since; how many objects."""
        forgotten = [key for key in self.inherited if key not in self.owner]
        self.inherited.clear()
        self.unwanted.update(dict.fromkeys(forgotten))
        return len(forgotten)

    def audit(self, tunnel_mtu: int, urgent: Callable[[], bool] = lambda: False) -> list[str]:
        """Read everything and repair what differs from the wishes; errors of what could not be repaired.

        Raises NetlinkError, dump.InterruptedReadError.
        """
        self.read(urgent)
        self._replace_wishes(BASE, plan(self.settings, tunnel_mtu))
        steps: list[tuple[str, Step]] = []
        for owner, objects in self.wanted.items():
            still = [each for each in objects if self.owner.get(each.key) == owner]  # not declared for another since
            steps += [(owner, step) for step in additions(still, self.installed)]
        self.totals.repairs += len(steps)
        errors = [str(error) for _, error in self._send(steps)]
        strange = [key for key in self.installed if key not in self.owner and key not in self.inherited]
        self.unwanted.update(dict.fromkeys(strange))
        return errors

    def resize(self, tunnel_mtu: int) -> list[str]:
        """Have the internal links carry so many bytes; what went wrong."""
        base = plan(self.settings, tunnel_mtu)
        self._replace_wishes(BASE, base)
        return [str(error) for _, error in self._send([(BASE, step) for step in additions(base, self.installed)])]

    def _taken(self, link: Link, host: str) -> bool:
        """Whether another host has a router of this MAC on this interface (a collision, or a host renamed)."""
        return self.owner.get(link.key, host) != host

    def _replace_wishes(self, owner: str, objects: tuple[Object, ...]) -> None:
        """Note what ``owner`` wants now; what it alone wanted before is unwanted from now on."""
        keys = {each.key for each in objects}
        for each in self.wanted.get(owner, ()):
            key = each.key
            if key not in keys and self.owner.get(key) == owner:
                del self.owner[key]
                self.unwanted[key] = None
        for key in keys:
            self.owner[key] = owner
            self.unwanted.pop(key, None)
        if objects:
            self.wanted[owner] = objects
        else:
            self.wanted.pop(owner, None)

    def _run(self, steps: Sequence[Step]) -> int:
        self._send([(BASE, step) for step in steps])
        return len(steps)

    def _send(self, steps: Sequence[tuple[str, Step]]) -> list[tuple[str, NetlinkError]]:
        """Send all steps in one batch and bring the mirror up to date; (owner, error) of those that failed."""
        if not steps:
            return []
        failed: list[tuple[str, NetlinkError]] = []
        requests: list[Request] = []
        spans: list[tuple[int, NetlinkError | None]] = []
        for _, step in steps:
            try:
                made = self._requests(step)
                spans.append((len(made), None))
                requests += made
            except KeyError as error:
                spans.append((0, NetlinkError.of(errno.ENODEV, f"no interface {error.args[0]}", step.object)))
        self.totals.batches += 1
        self.totals.requests += len(requests)
        answers = iter(self.socket.send(requests))
        for (owner, step), (count, problem) in zip(steps, spans, strict=True):
            errors = [answer for answer in itertools.islice(answers, count) if answer is not None]
            first = problem or next((error for error in errors if not _harmless(step, error)), None)
            if first is None:
                self._note(step)
            else:
                failed.append((owner, first))
                self.doubtful.add(owner)
                self.totals.errors += 1
        return failed

    def _note(self, step: Step) -> None:
        key, after = step.object.key, step.after
        if after is None:
            self.installed.pop(key, None)
        else:
            self.installed[key] = after
        if isinstance(step.object, Link):
            self._note_link(step.object, in_service=after is not None and step.object.group == LIVE)

    def _note_link(self, link: Link, in_service: bool) -> None:
        if in_service:
            self.links[link.mac] = link.parent
            self.buried.discard(link.device)
            return
        if self.links.get(link.mac) == link.parent:
            del self.links[link.mac]
        if link.group == GRAVEYARD:
            self.buried.add(link.device)

    def _requests(self, step: Step) -> list[Request]:
        """The netlink requests of a step. Raises KeyError with the name of an interface that is not there."""
        each = step.object
        match each:
            case Link():
                if step.action is Action.CREATE:
                    return self._new_link(each)
                return (each.adjust if step.action is Action.CHANGE else each.remove)(self.indexes[each.device])
            case Pair():
                if step.action is Action.CREATE:
                    return each.create(self._new_index(each.name), self._new_index(each.peer))
                if step.action is Action.CHANGE:
                    return each.adjust(self.indexes[each.name], self.indexes[each.peer])
                return each.remove(self.indexes[each.name])
            case Address() | Neighbour() | Route() | Rule():
                return each.remove(self.indexes) if step.action is Action.REMOVE else each.put(self.indexes)

    def _new_link(self, link: Link) -> list[Request]:
        """Give a spare link this identity, or make a new one when there is none."""
        spares = self.spares.get(link.parent)
        if spares:
            index = self.indexes[link.device] = spares.pop()
            return link.adopt(index)
        parent = self.indexes[link.parent]
        index = self._new_index(link.device)
        return [*spare(index, link.parent, parent, link.group), *link.adopt(index)]

    def _new_index(self, device: str) -> int:
        index = self.indexes[device] = self._next_index
        self._next_index += 1
        return index


def _harmless(step: Step, error: NetlinkError) -> bool:
    """Whether the kernel only said that things are as they should be."""
    if step.action is Action.REMOVE:
        return error.code in (errno.ENOENT, errno.ESRCH, errno.ENODEV, errno.EADDRNOTAVAIL)
    return error.code == errno.EEXIST and isinstance(step.object, Rule)
