"""Topology files: what may be left out, and what is said of a wrong one."""

from __future__ import annotations

import tomllib
from dataclasses import replace
from ipaddress import IPv6Address, IPv6Network
from pathlib import Path

import pytest

from anchord.daemon.config import load_node
from anchord.lab import config_files
from anchord.lab.errors import LabError, TopologyError
from anchord.lab.topology import Finder, Kind, Topology

EXAMPLES = sorted((Path(__file__).parents[2] / "examples" / "lab").glob("*.toml"))


def load(tmp_path: Path, text: str) -> Topology:
    path = tmp_path / "lab.toml"
    path.write_text(text)
    return Topology.load(path)


def errors_of(tmp_path: Path, text: str) -> list[str]:
    with pytest.raises(TopologyError) as caught:
        load(tmp_path, text)
    return [line.removeprefix(f"{tmp_path}/lab.toml: ") for line in caught.value.problems]


def test_default_is_the_domain_of_the_demo() -> None:
    topology = Topology.default()
    assert list(topology.nodes()) == ["gw1", "gw2", "gw3", "cmd", "core", "sw", "cn1", "cn2", "mn1"]
    assert topology.daemons() == ["gw1", "gw2", "gw3", "cmd"]
    assert topology.gateways["gw2"].address == IPv6Address("2001:db8:f2::1")
    assert topology.gateways["gw3"].pools == (IPv6Network("2001:db8:a3::/48"),)
    assert topology.correspondents["cn2"].address == IPv6Address("2001:db8:c2::1")
    assert topology.hosts["mn1"].at == "gw1" and not topology.hosts["mn1"].sysctls


def test_names_are_enough(tmp_path: Path) -> None:
    topology = load(tmp_path, '[gateways.left]\n[gateways.right]\n[hosts.phone]\nat = "right"\n')
    assert topology.gateways["right"].address == IPv6Address("2001:db8:f2::1")
    assert topology.gateways["right"].links[0].bridge == "br-right"
    assert topology.nodes()["phone"] is Kind.HOST


def test_addresses_of_many_gateways_never_meet_the_central_database(tmp_path: Path) -> None:
    topology = load(tmp_path, "".join(f"[gateways.g{number}]\n" for number in range(1, 40)))
    assert len({link.network for link in topology.on_core().values()}) == 40


def test_demo_example_is_the_default() -> None:
    assert Topology.load(EXAMPLES[0].with_name("demo.toml")) == Topology.default()


@pytest.mark.parametrize("path", EXAMPLES, ids=lambda path: path.name)
def test_examples_are_valid_and_survive_recording(path: Path) -> None:
    topology = Topology.load(path)
    assert Topology.from_plain(topology.to_plain()) == topology


def test_every_error_is_reported_in_one_pass(tmp_path: Path) -> None:
    found = errors_of(
        tmp_path,
        """
        mobilty = true
        core_mtu = 12
        [gateways.gw1]
        pools = ["2001:db8:a::/48"]
        access = ["a", "a"]
        [gateways.gw2]
        pools = ["2001:db8:a:2::/63", "2001:db8:b::/64"]
        address = "2001:db8:a::1"
        [gateways.GW3]
        [hosts.mn1]
        at = "gw4"
        mac = "01:00:5e:00:00:01"
        [hosts.mn2]
        at = "gw1"
        access = "b"
        [hosts.core]
        at = "gw1"
        """,
    )
    starts = [error.partition(": ")[0] for error in found]
    assert sorted(starts) == sorted(
        [
            "mobilty", "core_mtu", "gateways.gw1.access", "gateways.gw2.pools", "gateways.gw2.pools[1]",
            "gateways.gw2.address", "gateways.GW3", "hosts.mn1.at", "hosts.mn1.mac", "hosts.mn2.access", "hosts.core",
        ]
    )  # fmt: skip
    assert all(any(hint in error for hint in ("expected", "did you mean", "there are")) for error in found)
    assert "mobilty: unknown key, expected 'mobility'" in found


def test_errors_of_the_daemons_tables_are_reported_where_they_stand(tmp_path: Path) -> None:
    found = errors_of(
        tmp_path,
        """
        name = "two words"
        core_mtu = 12
        [gateways.gw1]
        local_networks = ["2001:db8:a1:1::/64"]
        node = { ignroe = [], core = [], run = "/tmp" }
        [gateways.gw2]
        [central.node]
        store_sync = "never"
        access = ["eth7"]
        [domain]
        sceret = "x"
        [domain.lifetimes]
        valid_s = 100
        [domain.limits]
        sessions = "many"
        [domain.gateways.gw2]
        local_networks = ["nonsense"]
        [domain.gateways.gw9]
        pools = ["2001:db8:99::/48"]
        """,
    )
    assert sorted(error.partition(": ")[0] for error in found) == sorted(
        [
            "name", "core_mtu", "gateways.gw1.local_networks[0]", "gateways.gw1.node.ignroe", "gateways.gw1.node.core",
            "gateways.gw1.node.run", "central.node.store_sync", "central.node.access", "domain.sceret",
            "domain.lifetimes.preferred_s", "domain.limits.sessions", "domain.gateways.gw2.local_networks[0]",
            "domain.gateways.gw9.address",
        ]
    )  # fmt: skip
    assert all("expected" in error for error in found)


def test_errors_of_a_node_beside_its_domain_are_reported_with_the_others(tmp_path: Path) -> None:
    found = errors_of(
        tmp_path,
        """
        finder = "anchor-known"
        [gateways.gw1]
        node = { neighbours = ["gw1"], access = ["lo"] }
        [gateways.gw2]
        node = { neighbours = ["gw3"], store = "memory", denied = ["mn@x"] }
        [lmas.home]
        pools = []
        node = { ignore = ["02:00:00:00:00:01"] }
        [[domain.policy]]
        hosts = ["any"]
        lma = "home"
        """,
    )
    assert sorted(error.partition(": ")[0] for error in found) == [
        "domain.policy[0].lma", "gateways.gw1.node.access[0]", "gateways.gw1.node.neighbours[0]",
        "gateways.gw2.node.denied", "gateways.gw2.node.neighbours[0]", "gateways.gw2.node.store",
        "lmas.home.node.ignore",
    ]  # fmt: skip


def test_gateways_of_two_operators_without_an_lma_between_them(tmp_path: Path) -> None:
    (error,) = errors_of(tmp_path, "[gateways.gw1]\noperator = 'a'\n[gateways.gw2]\noperator = 'b'\n")
    assert error == (
        "gateways.gw2.operator: is 'b', expected that of gw1, or an LMA between them: "
        "[lmas.NAME] with operators = ['a', 'b']"
    )


def test_core_links_are_wide_enough_for_tunnels(tmp_path: Path) -> None:
    expected = "core_mtu: is 1319, tunnels take 40 bytes and IPv6 needs 1280: expected 1320 or more; 1540 carries "
    (error,) = errors_of(tmp_path, "core_mtu = 1319\n[gateways.gw1]\n")
    assert error.startswith(expected)
    assert load(tmp_path, "core_mtu = 1320\n[gateways.gw1]\n").core_mtu == 1320
    with pytest.raises(TopologyError, match=expected):
        replace(Topology.default(), core_mtu=1319).checked()


@pytest.mark.parametrize(("name", "first", "last"), [("g1", 2, 9), ("g6", 2, 10), ("g12", 4, 11)])
def test_of_many_gateways_those_next_to_a_gateway_are_its_neighbours(
    tmp_path: Path, name: str, first: int, last: int
) -> None:
    tables = "".join(f"[gateways.g{number}]\n" for number in range(1, 13))
    topology = load(tmp_path, f"finder = 'anchor-known'\n{tables}")
    config_files.write(tmp_path, topology)
    node = load_node(config_files.node_file(tmp_path, name))
    assert node.neighbours == tuple(f"g{number}" for number in range(first, last + 1) if f"g{number}" != name)
    assert len(node.neighbours) == 8


def test_delays_are_of_core_links(tmp_path: Path) -> None:
    topology = load(
        tmp_path,
        """
        [gateways.gw1]
        delay_ms = 1.5
        [gateways.gw2]
        [central]
        delay_ms = 9
        [correspondents.cn1]
        delay_ms = 1000
        [correspondents.cn2]
        delay_ms = 0
        """,
    )
    assert topology.delays() == {"gw1": 1.5, "cmd": 9, "cn1": 1000}
    assert Topology.from_plain(topology.to_plain()) == topology


def test_delays_that_no_link_can_have(tmp_path: Path) -> None:
    found = errors_of(
        tmp_path,
        """
        core_mtu = 65535
        [gateways.gw1]
        delay_ms = 1
        [gateways.gw2]
        delay_ms = -1
        [gateways.gw3]
        delay_ms = nan
        [central]
        delay_ms = "1"
        [correspondents.cn1]
        delay_ms = 1000.5
        [hosts.mn1]
        at = "gw1"
        delay_ms = 1
        """,
    )
    assert sorted(error.partition(": ")[0] for error in found) == [
        "central.delay_ms", "core_mtu", "correspondents.cn1.delay_ms", "gateways.gw2.delay_ms",
        "gateways.gw3.delay_ms", "hosts.mn1.delay_ms",
    ]  # fmt: skip
    assert sum("expected milliseconds, 0 to 1000" in error for error in found) == 4


def test_delays_are_checked_in_a_topology_of_no_file() -> None:
    plain = Topology.default()
    slow = replace(plain, core_mtu=65535, gateways={"gw1": replace(plain.gateways["gw1"], delay_ms=1001.0)})
    with pytest.raises(TopologyError) as caught:
        slow.checked()
    assert [error.partition(": ")[0] for error in caught.value.problems] == ["gateways.gw1.delay_ms", "core_mtu"]


@pytest.mark.parametrize(
    ("finder", "asked", "tables"),
    [
        ("central", {"cmd": Kind.CENTRAL}, {"central": {"address": "2001:db8:fc::1", "mode": "proxy"}}),
        (
            "directory",
            {"dir": Kind.DIRECTORY},
            {"finder": "directory", "directory": {"address": "2001:db8:fd::1"}},
        ),
        ("anchor-known", {}, {"finder": "anchor-known"}),
    ],
)
def test_whom_gateways_ask_follows_from_the_finder(
    finder: Finder, asked: dict[str, Kind], tables: dict[str, object], tmp_path: Path
) -> None:
    plain = Topology.default()
    topology = Topology(plain.gateways, plain.hosts, finder=finder).checked()
    kinds = topology.nodes()
    assert {node: kinds[node] for node in topology.daemons() if kinds[node] is not Kind.GATEWAY} == asked
    assert Topology.from_plain(topology.to_plain()) == topology
    settings = config_files.domain_settings(topology)
    assert {key: settings[key] for key in ("finder", "central", "directory") if key in settings} == tables
    node = config_files.node_settings(tmp_path, topology, topology.gateways["gw2"])
    assert node.get("neighbours") == (["gw1", "gw3"] if finder == "anchor-known" else None)


def test_the_table_of_a_node_that_nobody_asks(tmp_path: Path) -> None:
    with_both = "[gateways.gw1]\n[central]\n[directory]\nnode = { domain = 'x' }\n"
    found = errors_of(tmp_path, f"finder = 'directory'\n{with_both}")
    assert any(error.startswith("central: has no place") for error in found)
    assert any(error.startswith("directory.node.domain: ") for error in found)
    found = errors_of(tmp_path, with_both)
    assert any(error.startswith("directory: has no place") for error in found)
    (wrong,) = errors_of(tmp_path, "finder = 'nobody'\n[gateways.gw1]\n")
    assert wrong == "finder: is 'nobody', expected 'central', 'directory' or 'anchor-known'"


def test_errors_of_hosts_name_the_key_that_is_wrong(tmp_path: Path) -> None:
    found = errors_of(
        tmp_path,
        """
        [gateways.gw1]
        [hosts.mn1]
        at = "gw7"
        access = "z"
        mac = "02:00:00:00:00:0a"
        [hosts.mn2]
        at = "gw1"
        mac = "02-00-00-00-00-0A"
        sysctls = { use_tempadr = 2, "net.ipv6.conf.eth0.use_tempaddr" = 2, "net.ipv9.x" = 1 }
        """,
    )
    assert sorted(error.partition(": ")[0] for error in found) == [
        "hosts.mn1.at", "hosts.mn2.mac", "hosts.mn2.sysctls.net.ipv9.x", "hosts.mn2.sysctls.use_tempadr",
    ]  # fmt: skip
    assert any("expected 'use_tempaddr'" in error for error in found)


def test_a_file_that_cannot_be_read_is_a_topology_error(tmp_path: Path) -> None:
    with pytest.raises(TopologyError, match=r"nowhere\.toml: cannot be read"):
        Topology.load(tmp_path / "nowhere.toml")


def test_unknown_names_are_told_the_nearest() -> None:
    topology = Topology.default()
    with pytest.raises(LabError, match=r"no host 'nm1'; did you mean mn1\?"):
        topology.host("nm1")
    with pytest.raises(LabError, match=r"no host 'laptop'; there are: mn1"):
        topology.host("laptop")
    for name in ("gw", "gw7"):  # as near to one as to another
        with pytest.raises(LabError, match=f"no gateway '{name}'; there are: gw1, gw2, gw3"):
            topology.link(name)


@pytest.mark.parametrize(
    "content",
    [
        'gateways = 3\n[hosts.mn1]\nat = "gw1"',
        'gateways = 3\n[lmas.home]\noperators = ["a", "b"]',
        "gateways = 3\n[domain.gateways.gw1]",
        '[gateways]\n[correspondents.c1]\nbehind = "gw1"\n[hosts.mn1]\nat = "gw1"',
    ],
)
def test_where_there_are_no_gateways_nothing_else_is_said_of_them(tmp_path: Path, content: str) -> None:
    (error,) = errors_of(tmp_path, content)
    assert error.startswith("gateways: is ")


def test_a_program_that_cannot_be_run_is_told_where_it_stands(tmp_path: Path) -> None:
    found = errors_of(
        tmp_path,
        """
        [gateways.gw1]
        program = ["sl\\u0000eep", "1"]
        [central]
        program = ["sleep", "1\\u0000"]
        [lmas.home]
        program = [""]
        """,
    )
    assert found == [
        "gateways.gw1.program[0]: is 'sl\\x00eep', expected no NUL",
        "central.program[1]: is '1\\x00', expected no NUL",
        "lmas.home.program[0]: is empty, expected a command",
    ]


def test_daemons_accept_the_files_a_lab_writes(tmp_path: Path) -> None:
    topology = load(
        tmp_path,
        """
        name = "two links"
        mobility = false
        [gateways.gw1]
        access = ["a", "b"]
        local_networks = ["2001:db8:77::/48"]
        node = { hosts = "listed", listed = ["02:00:00:00:00:01"] }
        [gateways.gw2]
        [domain]
        name = "two-links"
        lifetimes = { preferred_s = 200 }
        [domain.gateways.gw2]
        local_networks = ["2001:db8:78::/48"]
        """,
    )
    config_files.write(tmp_path, topology)
    node = load_node(config_files.node_file(tmp_path, "gw1"))
    assert node.access == ("acc0", "acc1") and node.core == ("core0",) and node.hosts == "listed"
    assert not node.domain.mobility and node.domain.name == "two-links"
    assert node.domain.lifetimes.preferred_s == 200 and node.domain.lifetimes.valid_s == 600
    assert node.domain.gateways["gw2"].local_networks == (IPv6Network("2001:db8:78::/48"),)
    assert load_node(config_files.node_file(tmp_path, "cmd")).role == "central"


def test_toml_that_is_written_reads_back_the_same() -> None:
    table = {
        "text": 'a "quoted" \\ line\nand a tab\t, ü',
        "numbers": [1, -2, 3.5],
        "flag": True,
        "inner": {"dotted.key": {"deep": "x"}, "list": [{"a": 1}, {"a": "two"}], "empty": {}},
    }
    assert tomllib.loads(config_files.toml(table)) == table
