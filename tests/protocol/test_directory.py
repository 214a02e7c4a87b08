"""A directory is read, then the anchors are asked: what the record says, and what becomes of it if something fails."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from ipaddress import IPv6Address, IPv6Network
from typing import Any

import pytest
from domain import Domain, domain_settings
from test_roaming import MAC, roles, updates

from anchord.declared import Role
from anchord.protocol.inputs import DirectoryAnswered, DirectoryMet
from anchord.protocol.outputs import DirectoryGet, DirectoryPut
from anchord.protocol.session import Phase, Session
from anchord.protocol.settings import Finding, Lifetimes, Limits
from anchord.store.embedded import EmbeddedDirectory
from anchord.store.memory import MemoryStore
from anchord.wire.messages import BindingUpdate

HOST = IPv6Address("fe80::1234")
PREFIXES = ["2001:db8:a1", "2001:db8:a2", "2001:db8:a3"]


def with_directory(gateways: int = 3, neighbours: dict[int, tuple[int, ...]] | None = None, **changes: Any) -> Domain:
    settings = domain_settings(gateways, finding=Finding.DIRECTORY, central=None, **changes)
    return Domain(gateways, settings, neighbours)


def silence(domain: Domain, silent: bool = True) -> None:
    domain.lose_question = lambda sender, question: silent


def session(domain: Domain, number: int) -> Session:
    (found,) = domain.gw[number].sessions.values()
    return found


def record(domain: Domain) -> dict[str, Any] | None:
    """What the directory holds of the only host."""
    held = list(domain.directory.entries.values())
    assert len(held) <= 1
    return held[0].value if held else None


def recorded(domain: Domain) -> tuple[int, set[int]]:
    """Numbers of the serving gateway and of the anchors according to the directory."""
    held = record(domain)
    assert held is not None
    numbers = {str(domain.address(number)): number for number in domain.gw}
    return numbers[held["serving"]["maar"]], {numbers[anchor["maar"]] for anchor in held["anchors"]}


def kept_apart(domain: Domain, sender: int, kind: type) -> Callable[[IPv6Address, object], bool]:
    return lambda who, question: who == domain.address(sender) and isinstance(question, kind)


def test_the_record_goes_when_the_serving_gateway_ends_a_session() -> None:
    domain = with_directory()
    domain.host_at(1, MAC)
    domain.host_at(2, MAC)
    assert recorded(domain) == (2, {1})
    names, outputs = domain.gw[2].revoke(MAC.hex(":"), domain.now)
    assert len(names) == 1
    domain.perform(domain.address(2), outputs)
    domain.settle()
    assert record(domain) is None
    assert not domain.gw[1].sessions and not domain.gw[2].sessions


def test_a_first_attachment_is_served_when_the_directory_has_nothing_and_is_recorded() -> None:
    domain = with_directory()
    domain.host_at(1, MAC)
    assert session(domain, 1).phase is Phase.SERVING
    assert session(domain, 1).registered
    assert recorded(domain) == (1, set())
    assert not domain.sent, "nobody else is concerned"


def test_a_tour_keeps_every_prefix_and_the_record_follows() -> None:
    domain = with_directory()
    for number in (1, 2, 3):
        domain.host_at(number, MAC)
    assert recorded(domain) == (3, {1, 2})
    assert {p: role for p, (role, _) in roles(domain, 3).items()} == {
        PREFIXES[0]: Role.IMPORTED, PREFIXES[1]: Role.IMPORTED, PREFIXES[2]: Role.ANCHORED,
    }  # fmt: skip
    for number in (1, 2):
        assert roles(domain, number) == {PREFIXES[number - 1]: (Role.EXPORTED, domain.address(3))}
    domain.host_at(1, MAC)
    assert recorded(domain) == (1, {2, 3})
    assert {p: role for p, (role, _) in roles(domain, 1).items()}[PREFIXES[0]] is Role.ANCHORED


def test_each_anchor_of_the_record_is_asked_once() -> None:
    domain = with_directory()
    for number in (1, 2):
        domain.host_at(number, MAC)
    domain.sent.clear()
    domain.host_at(3, MAC)
    assert [len(updates(domain, domain.address(3), domain.address(number))) for number in (1, 2)] == [1, 1]


def test_an_anchor_that_does_not_answer_stays_in_the_record() -> None:
    domain = with_directory()
    domain.host_at(1, MAC)
    domain.host_at(2, MAC)
    domain.lose = lambda sender, send: domain.address(1) in (sender, send.destination)
    domain.host_at(3, MAC)
    assert recorded(domain) == (3, {1, 2})
    domain.pass_time(290.0)
    domain.host_at(3, MAC, solicited=True)
    domain.pass_time(15.0)
    assert recorded(domain) == (3, {1, 2}), "a refresh does not forget it either"


def test_an_expired_record_is_nothing() -> None:
    domain = with_directory(lifetimes=Lifetimes(binding_s=12))
    domain.host_at(1, MAC)
    domain.lose_question = lambda sender, question: isinstance(question, DirectoryPut) and question.value is None
    domain.pass_time(60.0)
    assert not domain.gw[1].sessions
    assert record(domain) is not None
    domain.sent.clear()
    domain.host_at(2, MAC)
    assert not domain.sent
    assert recorded(domain) == (2, set())


def test_a_record_that_makes_no_sense_is_written_anew() -> None:
    domain = with_directory()
    domain.host_at(1, MAC)
    (held,) = domain.directory.entries.values()
    for nonsense in ({"serving": 1, "anchors": [{}], "expires_wall_s": 2e9}, {"expires_wall_s": "x"}, {}):
        revision = domain.directory.entries[held.key].revision
        domain.directory.compare_and_set(held.key, revision, nonsense, lambda outcome: None)
        domain.host_at(2, MAC)
        assert session(domain, 2).phase is Phase.SERVING
        assert recorded(domain) == (2, set())
        domain.restart(domain.address(2))
        domain.gw[2].sessions.clear()
        domain.journal[domain.address(2)].clear()
        domain.restart(domain.address(2))


def test_a_silent_directory_delays_a_handover_by_the_fallback_time_and_is_told_when_it_is_back() -> None:
    domain = with_directory()
    domain.host_at(1, MAC)
    silence(domain)
    domain.host_at(2, MAC)
    assert session(domain, 2).phase is Phase.REGISTERING
    domain.pass_time(0.26)
    assert session(domain, 2).phase is Phase.SERVING
    assert not session(domain, 2).registered
    domain.host_at(2, MAC, address=IPv6Address(int(session(domain, 1).prefix.network_address) + 1))
    assert set(roles(domain, 2)) == {PREFIXES[0], PREFIXES[1]}, "the old address names its anchor"
    assert recorded(domain) == (1, set())
    domain.pass_time(60.0)
    silence(domain, False)
    domain.pass_time(4.1)
    assert session(domain, 2).registered
    assert recorded(domain) == (2, {1})


def test_what_only_the_record_knows_is_asked_when_the_directory_is_back() -> None:
    domain = with_directory()
    domain.host_at(1, MAC)
    silence(domain)
    domain.host_at(2, MAC)
    domain.pass_time(1.0)
    assert set(roles(domain, 2)) == {PREFIXES[1]}, "nothing told of gw1"
    silence(domain, False)
    domain.pass_time(5.0)
    assert set(roles(domain, 2)) == {PREFIXES[0], PREFIXES[1]}
    assert recorded(domain) == (2, {1})


def test_questions_to_a_dead_directory_come_every_four_seconds_at_last() -> None:
    domain = with_directory()
    times: list[float] = []
    domain.lose_question = lambda sender, question: times.append(domain.now.monotonic_s) is None
    domain.host_at(1, MAC)
    domain.pass_time(20.0)
    assert [round(later - earlier) for earlier, later in itertools.pairwise(times)][:5] == [1, 2, 4, 4, 4]


def test_a_directory_that_refuses_a_record_is_not_besieged() -> None:
    domain = with_directory()
    domain.directory = EmbeddedDirectory(MemoryStore(), 0, lambda call: call(), lambda: 0.0, lambda error: None, 0.0)
    domain.host_at(1, MAC)
    assert session(domain, 1).phase is Phase.SERVING
    domain.pass_time(20.0)
    refused = domain.directory.counters["limit.records"]
    domain.pass_time(100.0)
    assert 10 <= domain.directory.counters["limit.records"] - refused <= 26


def test_without_serve_unregistered_nobody_is_served_before_the_directory_answers() -> None:
    domain = with_directory(serve_unregistered=False)
    silence(domain)
    domain.host_at(1, MAC)
    domain.pass_time(10.0)
    assert session(domain, 1).phase is Phase.REGISTERING
    silence(domain, False)
    domain.pass_time(4.1)
    assert session(domain, 1).phase is Phase.SERVING


def test_a_write_whose_answer_was_lost_is_found_out_and_not_repeated_blindly() -> None:
    domain = with_directory()
    domain.lose_answer = lambda to, answer: answer.written is True
    domain.host_at(1, MAC)
    assert recorded(domain) == (1, set())
    revision = domain.directory.revision
    domain.lose_answer = lambda to, answer: False
    domain.pass_time(1.5)
    assert domain.directory.revision == revision + 1, "read, then written once more"
    assert recorded(domain) == (1, set())
    domain.pass_time(20.0)
    assert domain.directory.revision == revision + 1


def test_a_write_that_was_lost_is_repeated() -> None:
    domain = with_directory()
    domain.lose_question = lambda sender, question: isinstance(question, DirectoryPut)
    domain.host_at(1, MAC)
    assert session(domain, 1).phase is Phase.SERVING, "nobody waits for a write"
    assert record(domain) is None
    silence(domain, False)
    domain.pass_time(1.5)
    assert recorded(domain) == (1, set())


def test_a_late_answer_changes_nothing() -> None:
    domain = with_directory()
    domain.host_at(1, MAC)
    before, sent = session(domain, 1).to_json(), len(domain.sent)
    for written in (None, True, False):
        domain.feed(domain.address(1), DirectoryAnswered(session(domain, 1).key, 99, None, written))
    domain.settle()
    assert (session(domain, 1).to_json(), len(domain.sent)) == (before, sent)
    assert domain.gw[1].counters.local["directory.late"] == 3
    domain.feed(domain.address(1), DirectoryAnswered("0:ff/ff", 99, None))
    assert domain.gw[1].counters.local["directory.late"] == 4


def test_of_two_gateways_that_read_at_once_the_second_write_is_refused_and_its_writer_learns_of_the_first() -> None:
    domain = with_directory()
    domain.host_at(1, MAC, settle=False)
    domain.host_at(2, MAC, settle=False)
    assert [type(question) for _, question in domain.questions] == [DirectoryGet, DirectoryGet]
    domain.settle()
    assert recorded(domain) == (2, {1})
    assert session(domain, 2).phase is Phase.SERVING
    assert set(roles(domain, 2)) == {PREFIXES[0], PREFIXES[1]}
    assert session(domain, 1).phase is Phase.AWAY


def test_who_heard_the_host_earlier_than_the_record_says_asks_whether_it_is_still_there() -> None:
    domain = with_directory()
    domain.lose_question = kept_apart(domain, 1, DirectoryPut)
    domain.host_at(1, MAC, address=HOST)
    domain.lose_question = kept_apart(domain, 1, object)
    domain.host_at(2, MAC)
    assert recorded(domain) == (2, set())
    silence(domain, False)
    domain.pass_time(2.0)
    assert recorded(domain) == (2, set()), "gw1 does not draw it back"
    assert [who for who, _ in domain.probes][:1] == [domain.address(1)]
    # It is silent there, and gw1's session ends without touching a record that is not its own.
    domain.pass_time(299.0)
    domain.host_at(2, MAC, solicited=True)
    domain.pass_time(300.0)
    assert not domain.gw[1].sessions
    assert recorded(domain) == (2, set())


def test_who_was_overtaken_and_finds_the_host_there_takes_it_back() -> None:
    domain = with_directory()
    domain.lose_question = kept_apart(domain, 1, DirectoryPut)
    domain.host_at(1, MAC, address=HOST)
    domain.lose_question = kept_apart(domain, 1, object)
    domain.host_at(2, MAC)
    silence(domain, False)
    domain.pass_time(2.0)
    domain.ignored[domain.address(1)].clear()
    domain.host_at(1, MAC)
    assert recorded(domain) == (1, {2})
    assert session(domain, 2).phase is Phase.AWAY


def test_the_record_goes_with_the_session() -> None:
    domain = with_directory(lifetimes=Lifetimes(binding_s=12))
    domain.host_at(1, MAC)
    domain.host_at(2, MAC)
    domain.pass_time(40.0)
    assert record(domain) is None
    assert not domain.gw[2].sessions
    assert not domain.gw[1].sessions


def test_the_record_goes_although_a_write_was_under_way_when_the_session_ended() -> None:
    domain = with_directory()
    domain.host_at(1, MAC)
    key = session(domain, 1).key
    domain.pass_time(290.0)
    domain.host_at(1, MAC, solicited=True)
    domain.lose_answer = lambda to, answer: True
    domain.pass_time(10.5)  # the refresh writes, and does not hear of it
    domain.lose_answer = lambda to, answer: False
    domain.lose_question = lambda sender, question: isinstance(question, DirectoryGet)
    domain.pass_time(605.0)
    assert not domain.gw[1].sessions
    assert record(domain) is not None
    silence(domain, False)
    domain.pass_time(5.0)
    assert key not in domain.directory.entries


def test_a_session_that_ended_takes_no_record_of_another_gateway_with_it() -> None:
    domain = with_directory(lifetimes=Lifetimes(binding_s=60))
    domain.host_at(1, MAC)
    domain.pass_time(50.0)
    domain.lose = lambda sender, send: True  # gw2 cannot tell gw1
    domain.host_at(2, MAC)
    domain.pass_time(20.0)
    domain.ignored[domain.address(2)].clear()
    domain.host_at(2, MAC)
    domain.pass_time(50.0)
    assert not domain.gw[1].sessions
    assert recorded(domain) == (2, {1})


def test_a_host_that_comes_back_while_its_record_is_being_removed_is_recorded_again() -> None:
    domain = with_directory(lifetimes=Lifetimes(binding_s=12))
    domain.host_at(1, MAC)
    domain.lose_question = lambda sender, question: True
    domain.pass_time(60.0)
    assert not domain.gw[1].sessions
    silence(domain, False)
    domain.host_at(1, MAC)
    domain.pass_time(3.0)
    assert recorded(domain) == (1, set())


def test_a_dead_directory_is_not_asked_for_ever_about_sessions_that_are_over() -> None:
    domain = with_directory(lifetimes=Lifetimes(binding_s=12))
    domain.host_at(1, MAC)
    silence(domain)
    domain.pass_time(100.0)
    asked: list[float] = []
    domain.lose_question = lambda sender, question: asked.append(domain.now.monotonic_s) is None
    domain.pass_time(100.0)
    assert not asked


def test_a_refresh_renews_the_record() -> None:
    domain = with_directory()
    domain.host_at(1, MAC)
    held = record(domain)
    assert held is not None
    domain.pass_time(290.0)
    domain.ignored[domain.address(1)].clear()
    domain.host_at(1, MAC)
    domain.pass_time(15.0)
    renewed = record(domain)
    assert renewed is not None
    assert renewed["expires_wall_s"] > held["expires_wall_s"] + 290


def test_a_restarted_gateway_brings_the_record_up_to_date_and_asks_no_anchor_twice() -> None:
    domain = with_directory()
    domain.host_at(1, MAC, address=HOST)
    domain.host_at(2, MAC, address=HOST)
    domain.pass_time(0.01)
    domain.restart(domain.address(2))
    before = domain.directory.revision
    domain.sent.clear()
    domain.host_at(2, MAC)
    domain.pass_time(2.0)
    assert domain.directory.revision > before
    assert recorded(domain) == (2, {1})
    assert len(updates(domain, domain.address(2), domain.address(1))) == 1


def test_a_directory_that_lost_everything_is_told_again_by_refreshes() -> None:
    domain = with_directory()
    for number in (1, 2, 3):
        domain.host_at(number, MAC)
    for key, entry in list(domain.directory.entries.items()):
        domain.directory.compare_and_set(key, entry.revision, None, lambda outcome: None)
    domain.pass_time(290.0)
    domain.ignored[domain.address(3)].clear()
    domain.host_at(3, MAC)
    domain.pass_time(15.0)
    assert recorded(domain) == (3, {1, 2})


def test_an_anchor_found_without_the_record_is_added_to_it() -> None:
    domain = with_directory()
    domain.host_at(1, MAC)
    domain.host_at(2, MAC)
    (held,) = domain.directory.entries.values()
    assert held.value is not None
    forgetful = {**held.value, "anchors": []}
    domain.directory.compare_and_set(held.key, held.revision, forgetful, lambda outcome: None)
    domain.host_at(3, MAC)
    assert set(roles(domain, 3)) == set(PREFIXES), "gw2 has told gw3 of gw1"
    assert recorded(domain) == (3, {1, 2})


def test_a_prefix_that_the_record_gives_to_the_wrong_gateway_is_not_asked_for() -> None:
    domain = with_directory()
    domain.host_at(1, MAC)
    (held,) = domain.directory.entries.values()
    assert held.value is not None
    liar = {**held.value["serving"], "maar": str(domain.address(3))}
    domain.directory.compare_and_set(held.key, held.revision, {**held.value, "serving": liar}, lambda outcome: None)
    domain.sent.clear()
    domain.host_at(2, MAC)
    assert not [send for _, send in domain.sent if isinstance(send.message, BindingUpdate)]
    assert set(roles(domain, 2)) == {PREFIXES[1]}


def test_a_reassociation_while_registering_reads_again_and_is_served_once_it_is_answered() -> None:
    domain = with_directory()
    domain.host_at(1, MAC)
    silence(domain)
    domain.host_at(2, MAC)
    domain.pass_time(0.15)
    silence(domain, False)
    domain.ignored[domain.address(2)].clear()
    domain.host_at(2, MAC, reassociated=True)
    assert session(domain, 2).registered
    assert recorded(domain) == (2, {1})


def test_a_silent_directory_at_an_attachment_after_which_the_host_moves_on_leaves_nothing_behind() -> None:
    domain = with_directory()
    silence(domain)
    domain.host_at(1, MAC)
    domain.pass_time(0.3)
    address = IPv6Address(int(session(domain, 1).prefix.network_address) + 1)
    domain.host_at(2, MAC)
    domain.pass_time(0.3)
    domain.host_at(2, MAC, address=address)
    assert session(domain, 1).phase is Phase.AWAY
    silence(domain, False)
    domain.pass_time(5.0)
    assert recorded(domain) == (2, {1})


def test_clocks_that_differ_within_the_window_do_not_disturb_a_tour() -> None:
    domain = with_directory()
    domain.skew = {domain.address(1): 0.2, domain.address(3): -0.05}
    for number in (1, 2, 3, 1):
        domain.host_at(number, MAC)
        domain.pass_time(1.0)
        assert recorded(domain)[0] == number
    assert recorded(domain) == (1, {2, 3})


def test_the_record_fits_into_the_directory_with_sixteen_anchors() -> None:
    domain = with_directory(17, limits=Limits(anchors_per_host=16))
    for number in range(1, 18):
        domain.host_at(number, MAC)
    assert recorded(domain) == (17, set(range(1, 17)))
    held = record(domain)
    assert held is not None
    assert {IPv6Network(p) for a in held["anchors"] for p in a["prefixes"]} == {
        session(domain, number).prefix for number in range(1, 17)
    }


def lose_store(domain: Domain) -> None:
    domain.pass_time(1.0)
    domain.directory = domain.new_directory()


def test_a_directory_that_lost_its_store_is_told_of_every_host_that_is_served() -> None:
    domain = with_directory()
    domain.meet_directory()
    domain.host_at(1, MAC)
    domain.host_at(2, MAC)
    lose_store(domain)
    assert record(domain) is None
    domain.meet_directory()
    domain.pass_time(0.1)
    assert recorded(domain) == (2, {1})
    domain.host_at(3, MAC)
    assert set(roles(domain, 3)) == set(PREFIXES)
    domain.meet_directory()
    before = domain.directory.revision
    domain.pass_time(5.0)
    assert domain.directory.revision == before, "the same store is told nothing twice"


def test_hosts_are_told_to_a_directory_that_lost_its_store_at_the_rate_of_updates() -> None:
    domain = with_directory(2, limits=Limits(updates_per_s=20))
    domain.meet_directory()
    for number in range(20):
        domain.host_at(1, bytes((2, 0, 0, 0, 0, number)))
    lose_store(domain)
    domain.meet_directory()
    domain.pass_time(1.0)
    assert 8 <= len(domain.directory.entries) <= 12
    domain.pass_time(1.5)
    assert len(domain.directory.entries) == 20


def test_a_gateway_that_takes_hosts_over_before_a_new_store_was_told_does_not_lose_them_again() -> None:
    """gw2 hears of the new store after gw3 has written: it is the older word, and changes nothing."""
    domain = with_directory(neighbours={3: (2,)})
    domain.meet_directory()
    domain.host_at(1, MAC, address=HOST)
    domain.host_at(2, MAC, address=HOST)
    lose_store(domain)
    domain.feed(domain.address(3), DirectoryMet(domain.directory.began_wall_s))
    domain.host_at(3, MAC, address=HOST)
    assert set(roles(domain, 3)) == set(PREFIXES)
    domain.meet_directory()
    domain.pass_time(5.0)
    assert recorded(domain) == (3, {1, 2})
    assert session(domain, 2).phase is Phase.AWAY


def test_where_there_is_no_record_the_source_address_names_the_anchor_and_that_one_the_others() -> None:
    domain = with_directory()
    domain.host_at(1, MAC)
    domain.host_at(2, MAC)
    lose_store(domain)
    domain.host_at(3, MAC)
    assert set(roles(domain, 3)) == {PREFIXES[2]}, "nobody has told anything yet"
    domain.host_at(3, MAC, address=IPv6Address(int(session(domain, 1).prefix.network_address) + 1))
    assert set(roles(domain, 3)) == set(PREFIXES)
    assert recorded(domain) == (3, {1, 2})


@pytest.mark.parametrize(("age_s", "found"), [(1.0, True), (601.0, False)])
def test_while_a_store_is_young_the_neighbours_are_asked_for_a_host_without_a_record(age_s: float, found: bool) -> None:
    """Records are renewed within a binding's lifetime; after that a missing one means that there is nothing."""
    domain = with_directory(neighbours={3: (2,)})
    domain.host_at(1, MAC)
    domain.host_at(2, MAC)
    domain.directory = domain.new_directory()
    domain.feed(domain.address(3), DirectoryMet(domain.now.wall_s - age_s))
    domain.sent.clear()
    domain.host_at(3, MAC)
    assert bool(updates(domain, domain.address(3), domain.address(2))) is found
    assert set(roles(domain, 3)) == (set(PREFIXES) if found else {PREFIXES[2]})


def test_who_served_a_host_last_is_asked_for_it_where_there_is_no_record() -> None:
    domain = with_directory()
    for number in (1, 2, 3):
        domain.host_at(number, MAC)
    lose_store(domain)
    domain.host_at(1, MAC)
    assert set(roles(domain, 1)) == set(PREFIXES)
    assert recorded(domain) == (1, {2, 3})


def test_the_end_of_a_session_is_not_held_up_by_another_store() -> None:
    domain = with_directory(lifetimes=Lifetimes(binding_s=12))
    domain.meet_directory()
    domain.host_at(1, MAC)
    silence(domain)
    domain.pass_time(40.0)
    assert not domain.gw[1].sessions
    lose_store(domain)
    silence(domain, False)
    domain.meet_directory()
    domain.pass_time(10.0)
    assert record(domain) is None
