"""The difference between wanted and installed, and what a declaration comes to: no kernel needed."""

from __future__ import annotations

from collections.abc import Hashable
from dataclasses import replace
from ipaddress import IPv6Network
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from planes import anchored, exported, gateway_address, imported, prefix, released, router

from anchord.declared import HostState, PrefixEntry, Role
from anchord.kernel.objects import PROTOCOL, Link, Object, Pair, Route, Rule
from anchord.kernel.reconcile import Action, additions, leftovers, on_devices
from anchord.kernel.tables import (
    DOWN,
    GRAVEYARD,
    HOSTS,
    INNER,
    LIVE,
    TABLE_NAMES,
    UP,
    UPLINK,
    PlaneSettings,
    host_objects,
    plan,
)

NETWORK = IPv6Network("fd00:1::/64")
MAC = b"\2\0\0\0\0\x77"
SETTINGS = PlaneSettings(
    address=gateway_address(1), pools=(IPv6Network("2001:db8:a1::/48"),), access=("acc0",), core=("core0",)
)


def here(*entries: PrefixEntry) -> HostState:
    return HostState("mn1", MAC, "acc0", entries)


def installed(*objects: Object) -> dict[Hashable, Object]:
    return {each.key: each for each in objects}


entries = st.sampled_from(
    [
        anchored(1),
        exported(1, 2),
        exported(1, 3),
        imported(2),
        imported(3),
        replace(anchored(1), local_networks=(NETWORK,)),
        replace(exported(1, 2), local_networks=(NETWORK,), others=(prefix(2), prefix(3))),
        replace(imported(2), local_networks=(NETWORK,)),
        replace(imported(3), local_networks=(NETWORK, IPv6Network("fd00:2::/48"))),
        PrefixEntry(prefix(1), Role.TRANSIT, None, gateway_address(2), gateway_address(3)),
        PrefixEntry(prefix(3), Role.TRANSIT, None, gateway_address(2), gateway_address(4)),
        released(1),
        released(2),
        replace(anchored(1), role=Role.PREPARED),
        replace(imported(2), role=Role.PREPARED, peer=None),
    ]
)
states = st.lists(entries, max_size=4, unique_by=lambda entry: entry.prefix).map(lambda found: here(*found))


@given(states, states)
def test_the_steps_lead_from_any_state_to_any_other(before: HostState, after: HostState) -> None:
    """And then nothing is left to do; what is unwanted is gone, links are buried."""
    mirror = installed(*host_objects(before))
    wanted = host_objects(after)
    unwanted = set(mirror) - {each.key for each in wanted}
    for step in [*additions(wanted, mirror), *leftovers(sorted(unwanted, key=repr), mirror)]:
        if step.after is None:
            assert step.object.key in mirror
            del mirror[step.object.key]
        else:
            assert (step.object.key in mirror) == (step.action is Action.CHANGE)
            mirror[step.object.key] = step.after
    assert additions(wanted, mirror) == []
    assert leftovers(unwanted, mirror) == []
    rest = [each for key, each in mirror.items() if key in unwanted]
    assert all(isinstance(each, Link) and each.group == GRAVEYARD for each in rest)


@given(states)
def test_declaring_the_same_again_takes_no_step(state: HostState) -> None:
    assert additions(host_objects(state), installed(*host_objects(state))) == []


@given(states)
def test_nothing_is_steered_to_where_it_cannot_go_on(state: HostState) -> None:
    """Devices exist before they are used; encapsulation stands before packets are sent into it."""
    made = host_objects(state)
    devices = {"an-re0", "an-re1", "an-dn0", "an-up0", ""}
    for each in made:
        if isinstance(each, Link):
            devices.add(each.device)
        elif not isinstance(each, Pair | Rule):
            assert each.device in devices
    tables = [each.table for each in made if isinstance(each, Route)]
    for encapsulating, steering, entrance in (
        (DOWN, HOSTS, "an-dn0"),
        (DOWN, INNER, "an-dn0"),
        (UP, UPLINK, "an-up0"),
        (UP, INNER, "an-up0"),
    ):
        for number, each in enumerate(made):
            if isinstance(each, Route) and each.table == steering and each.device == entrance:
                assert encapsulating in tables[: len([x for x in made[:number] if isinstance(x, Route)])]


def test_imported_prefixes_come_first() -> None:
    first = host_objects(here(anchored(2), imported(1)))[0]
    assert isinstance(first, Link)
    assert first.mac == router(1).mac


def test_two_prefixes_of_one_anchor_share_its_router() -> None:
    second = replace(anchored(1), prefix=prefix(1, 2))
    links = [each for each in host_objects(here(anchored(1), second)) if isinstance(each, Link)]
    assert len(links) == 1


def test_export_changes_the_route_in_place() -> None:
    """One replacing step (NLM_F_REPLACE): no packet meets the table without a route."""
    steps = additions(host_objects(here(exported(1, 2))), installed(*host_objects(here(anchored(1)))))
    steering = [step for step in steps if isinstance(step.object, Route) and step.object.table == HOSTS]
    assert [step.action for step in steering] == [Action.CHANGE]
    assert steps[-1] is steering[0]


def test_repointing_is_a_single_step() -> None:
    steps = additions(host_objects(here(exported(1, 3))), installed(*host_objects(here(exported(1, 2)))))
    assert [(step.action, step.object.table) for step in steps if isinstance(step.object, Route)] == [
        (Action.CHANGE, DOWN)
    ]
    assert len(steps) == 1


def test_a_new_mac_of_the_host_changes_the_neighbour_only() -> None:
    moved = replace(here(anchored(1)), mac=b"\2\0\0\0\0\x78")
    steps = additions(host_objects(moved), installed(*host_objects(here(anchored(1)))))
    assert [str(step.object) for step in steps] == [
        f"neighbour fe80::1:1 at 02:00:00:00:00:78 on acc0/{router(1).mac.hex(':')}"
    ]


def test_leftovers_go_from_steering_to_links() -> None:
    before = installed(*host_objects(here(imported(2))))
    steps = leftovers(before, before)
    tables = [step.object.table for step in steps if isinstance(step.object, Route)]
    assert tables.index(UPLINK) < tables.index(UP)
    assert isinstance(steps[-1].object, Link)
    assert steps[-1].object.group == GRAVEYARD


def test_a_buried_link_is_taken_back() -> None:
    link = Link("acc0", router(1).mac, LIVE)
    (step,) = additions([link], installed(replace(link, group=GRAVEYARD)))
    assert step.action is Action.CHANGE


def test_with_a_link_goes_what_is_on_it() -> None:
    objects = installed(*host_objects(here(anchored(1), imported(2))))
    device = f"acc0/{router(2).mac.hex(':')}"
    gone = on_devices({device}, objects)
    assert len(gone) == 5  # link, address, neighbour, and the routes to it in INNER and LOCALOUT
    assert {objects[key].table for key in gone if isinstance(objects[key], Route)} == {INNER, 82}


def test_the_base_plan_has_no_two_objects_of_one_key() -> None:
    base = plan(SETTINGS, 1460)
    assert len({each.key for each in base}) == len(base)


def test_rules_stand_before_the_rules_that_need_them() -> None:
    rules = [each for each in plan(SETTINGS, 1460) if isinstance(each, Rule)]
    for number, rule in enumerate(rules):
        if rule.goto is not None:
            assert rule.goto in [each.priority for each in rules[:number]]
    assert rules[-1].priority == 10, "tunnelled packets are taken when everything behind them stands"


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"pools": (IPv6Network("2001:db8:a1::/64"),)}, "shorter than /64"),
        ({"core": ()}, "at least one core"),
        ({"idle_s": 0}, "1 or more"),
        ({"core": ("acc0",)}, "both access and core"),
    ],
)
def test_settings_that_cannot_work_are_refused(changes: dict[str, object], says: str) -> None:
    with pytest.raises(ValueError, match=says):
        replace(SETTINGS, **changes)


def test_objects_describe_themselves() -> None:
    texts = [str(each) for each in host_objects(here(imported(2)))]
    assert texts[0] == f"macvlan {router(2).mac.hex(':')} on acc0"
    assert "route ::/0 from 2001:db8:a2:1::/64 in IPv6 to 2001:db8:f2::1 dev an-re0 table 83" in texts
    assert str(Rule(54, iif="an-re0")) == "rule 54: iif an-re0 blackhole"


def test_the_names_for_iproute2_are_those_of_the_tables() -> None:
    files = Path(__file__).parents[2] / "examples/iproute2"
    for name, known in (("rt_tables.d", TABLE_NAMES), ("rt_protos.d", {PROTOCOL: "anchord"})):
        lines = (files / name / "anchord.conf").read_text().splitlines()
        pairs = [line.split() for line in lines if not line.startswith("#")]
        assert {int(number): label for number, label in pairs} == known
