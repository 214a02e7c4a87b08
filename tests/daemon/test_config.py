"""domain.toml and node.toml: everything wrong with them is said at once, in words an operator can act on."""

from __future__ import annotations

import contextlib
from ipaddress import IPv6Address, IPv6Network
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from anchord.daemon.config import ConfigError, DomainConfig, NodeConfig, Table, load_domain, load_node
from anchord.daemon.configfile import known_keys, validate
from anchord.daemon.settings import central_settings, domain_settings, lma_peers, lma_settings

EXAMPLES = Path(__file__).parents[2] / "examples/config"

DOMAIN = """
name = "test"
secret = "000102030405060708090a0b0c0d0e0f"
[central]
address = "2001:db8:fc::1"
[gateways.gw1]
address = "2001:db8:f1::1"
pools = ["2001:db8:a1::/48"]
[gateways."gw2"]
address = "2001:db8:f2::1"
pools = ["2001:db8:a2::/48"]
local_networks = ["2001:db8:b2::/64"]
"""
NODE = """
node = "gw1"
domain = "domain.toml"
access = ["acc0", "acc1"]
core = ["core0"]
ignore = ["02-00-00-00-00-0A"]
"""


@pytest.fixture
def files(tmp_path: Path) -> Path:
    """The node file of gw1 beside its domain file; both good."""
    (tmp_path / "domain.toml").write_text(DOMAIN)
    (tmp_path / "gw1.toml").write_text(NODE)
    return tmp_path / "gw1.toml"


def change(path: Path, old: str, new: str) -> None:
    content = path.read_text()
    assert old in content
    path.write_text(content.replace(old, new))


def domain_errors(tmp_path: Path, old: str, new: str) -> list[str]:
    """The errors of the good domain file with one thing changed, without the file's name."""
    path = tmp_path / "domain.toml"
    path.write_text(DOMAIN)
    change(path, old, new)
    with pytest.raises(ConfigError) as error:
        load_domain(path)
    assert all(line.startswith(f"{path}: ") for line in error.value.errors)
    return [line.removeprefix(f"{path}: ") for line in error.value.errors]


def test_values_come_out_as_the_daemons_need_them(files: Path) -> None:
    node = load_node(files)
    assert node.address == IPv6Address("2001:db8:f1::1")
    assert node.gateway.pools == (IPv6Network("2001:db8:a1::/48"),)
    assert node.domain.secret == bytes(range(16))
    assert node.ignore == (bytes.fromhex("02000000000a"),)
    assert node.access == ("acc0", "acc1")
    assert node.socket == Path("/run/anchord/gw1.sock")
    assert node.role == "gateway"
    assert node.domain.peers[IPv6Address("2001:db8:f2::1")] == "gw2"
    assert node.domain.anchor_of(IPv6Network("2001:db8:a2:5::/64")) == "gw2"
    assert node.domain.anchor_of(IPv6Network("2001:db8:a3::/64")) is None


def test_defaults_are_those_that_were_measured(files: Path) -> None:
    domain = load_node(files).domain
    assert (domain.lifetimes.valid_s, domain.lifetimes.preferred_s, domain.lifetimes.router_s) == (600, 300, 600)
    assert (domain.lifetimes.advertise_every_s, domain.lifetimes.binding_s) == (100, 600)
    assert (domain.timers.gather_ms, domain.timers.fallback_ms) == (100, 250)
    assert (domain.timers.initial_bindack_ms, domain.timers.max_bindack_ms) == (1000, 32000)
    assert domain.limits.anchors_per_host == 7


def test_row_122_rfc_5213_section_9_variables_and_their_defaults(files: Path) -> None:
    pmip = load_node(files).domain.pmip
    assert pmip.min_delay_before_bce_delete_ms == 10_000
    assert pmip.max_delay_before_new_bce_assign_ms == 1500
    assert pmip.timestamp_validity_window_ms == 300
    assert not pmip.enable_mag_local_routing
    assert pmip.timestamp_based_approach_in_use
    assert not pmip.mobile_node_generated_timestamp_in_use
    assert pmip.fixed_mag_link_local_address_on_all_access_links == IPv6Address("::")
    assert pmip.fixed_mag_link_layer_address_on_all_access_links == bytes(6)


def test_row_151_no_prefix_is_advertised_for_longer_than_hosts_can_be_made_to_forget_it(tmp_path: Path) -> None:
    """RFC 4862 section 5.5.3 (e): a host does not let anybody shorten a valid lifetime to less than two hours."""
    assert load_domain(EXAMPLES / "domain.toml").lifetimes.valid_s == 600
    (error,) = domain_errors(tmp_path, "[central]", "[lifetimes]\nvalid_s = 7201\n[central]")
    assert error == "lifetimes.valid_s: is 7201, expected seconds, 30 to 7200"


@pytest.mark.parametrize("name", ["gw1.toml", "central.toml"])
def test_examples_load(name: str) -> None:
    assert load_node(EXAMPLES / name).domain.name == "example"


@pytest.mark.parametrize("name", ["central", "cmd"])
def test_the_central_database_has_a_node_file_too(files: Path, name: str) -> None:
    files.write_text(f'node = "{name}"\ndomain = "domain.toml"\n')
    node = load_node(files)
    assert node.role == "central"
    assert node.address == IPv6Address("2001:db8:fc::1")
    assert node.socket.name == f"{name}.sock"


def test_paths_are_relative_to_the_node_file(files: Path) -> None:
    change(files, "access =", 'state = "state"\nrun = "/r"\naccess =')
    node = load_node(files)
    assert (node.state, node.run) == (files.parent / "state", Path("/r"))


def test_all_errors_of_both_files_in_one_pass(files: Path) -> None:
    change(files, 'access = ["acc0", "acc1"]', 'acess = ["acc0"]')
    change(files, '"core0"', '"core0", "core0"')
    domain = files.parent / "domain.toml"
    change(domain, "000102030405060708090a0b0c0d0e0f", "short")
    change(domain, "2001:db8:a2::/48", "2001:db8:a1:2::/63")
    with pytest.raises(ConfigError) as error:
        load_node(files)
    assert error.value.exit_code == 2
    assert error.value.errors == [
        f"{files}: acess: unknown key, expected 'access'",
        f"{files}: core[1]: 'core0' is in core[0] already, expected each interface once",
        f"{domain}: secret: only 5 bytes long, expected at least 16 bytes: 32 hexadecimal digits, or that much text",
        f"{domain}: gateways.gw2.pools[0]: 2001:db8:a1:2::/63 overlaps gateways.gw1.pools[0] (2001:db8:a1::/48), "
        "expected pools that share no address",
        f"{files}: access: is empty, expected at least one interface for a gateway",
    ]


@pytest.mark.parametrize(
    ("old", "new", "expected"),
    [
        (
            "[central]", "[centrall]",
            [
                "centrall: unknown key, expected 'central'",
                "central: is missing, expected a table with finder = 'central'",
            ],
        ),
        ('name = "test"', "", ["name: missing, expected a name of 1 to 32 letters, digits, '-' and '_'"]),
        ("local_networks =", "local_network =", ["gateways.gw2.local_network: unknown key, expected 'local_networks'"]),
        (
            "2001:db8:a2::/48", "2001:db8:a2::/64",
            ["gateways.gw2.pools[0]: 2001:db8:a2::/64 has no room, "
             "expected a prefix shorter than /64: each mobile node gets a /64 of it"],
        ),
        (
            '"2001:db8:a2::/48"', '"2001:db8:a2::/48", "2001:db8:a2:8::/63"',
            ["gateways.gw2.pools[1]: 2001:db8:a2:8::/63 overlaps gateways.gw2.pools[0] (2001:db8:a2::/48), "
             "expected pools that share no address"],
        ),
        (
            '"2001:db8:a2::/48"', '"2001:db8:a2:1::/48"',
            ["gateways.gw2.pools[0]: 2001:db8:a2:1::/48 has bits beyond /48, expected 2001:db8:a2::/48"],
        ),
        ('["2001:db8:a2::/48"]', "[]", ["gateways.gw2.pools: is empty, expected at least one"]),
        (
            '["2001:db8:a2::/48"]', "[5]",
            ["gateways.gw2.pools[0]: is 5, expected an IPv6 prefix such as '2001:db8:a1::/48'"],
        ),
        (
            "2001:db8:f2::1", "fe80::1",
            ["gateways.gw2.address: fe80::1 is no global unicast address, expected a global IPv6 unicast address"],
        ),
        (
            "2001:db8:f2::1", "ff0e::1",
            ["gateways.gw2.address: ff0e::1 is no global unicast address, expected a global IPv6 unicast address"],
        ),
        (
            "2001:db8:f2::1", "10.0.0.1",
            ["gateways.gw2.address: is '10.0.0.1', expected a global IPv6 unicast address"],
        ),
        (
            "2001:db8:f2::1", "2001:db8:fc::1",
            ["gateways.gw2.address: 2001:db8:fc::1 is central.address already, expected an address for each node"],
        ),
        (
            "2001:db8:f2::1", "2001:db8:a1::1",
            ["gateways.gw2.address: 2001:db8:a1::1 lies in gateways.gw1.pools[0] (2001:db8:a1::/48), "
             "expected an address outside every pool"],
        ),
        (
            "2001:db8:b2::/64", "2001:db8:a1:b2::/64",
            ["gateways.gw2.local_networks[0]: 2001:db8:a1:b2::/64 overlaps gateways.gw1.pools[0] (2001:db8:a1::/48), "
             "expected a network outside every pool"],
        ),
        (
            "[central]", "resolvers = ['2001:db8:a1::53', '2001:db8:c1::1', '2001:db8:c1::1']\n[central]",
            ["resolvers[0]: 2001:db8:a1::53 lies in gateways.gw1.pools[0] (2001:db8:a1::/48), which is for hosts, "
             "expected another one",
             "resolvers[2]: 2001:db8:c1::1 is resolvers[1] already, expected each resolver once"],
        ),
        (
            "[central]", "resolvers = ['fd00::1', 'fd00::2', 'fd00::3', 'fd00::4']\n[central]",
            ["resolvers: has 4 entries, expected at most 3 (RFC 8106 section 5.3.1)"],
        ),
        (
            "[central]", "resolvers = ['fe80::1']\n[central]",
            ["resolvers[0]: fe80::1 is no global unicast address, expected a global IPv6 unicast address"],
        ),
        ("gw2", "g w", ["gateways.g w: is 'g w', expected a name of 1 to 32 letters, digits, '-' and '_'"]),
        ("gw2", "cmd", ["gateways.cmd: 'cmd' means the central database, expected another name"]),
        (
            "[central]",
            "[central]\nmode = 'tunnel'",
            ["central.mode: is 'tunnel', expected 'proxy', 'relay' or 'locator'"],
        ),
        (
            "[central]", "[lifetimes]\npreferred_s = 700\n[central]",
            ["lifetimes.preferred_s: is 700, expected at most valid_s (600)"],
        ),
        (
            "[central]", "[lifetimes]\nvalid_s = 7201\n[central]",
            ["lifetimes.valid_s: is 7201, expected seconds, 30 to 7200"],
        ),
        (
            "[central]", "[lifetimes]\nadvertise_every_s = 300\n[central]",
            ["lifetimes.advertise_every_s: is 300, expected less than preferred_s (300)"],
        ),
        (
            "[central]", "[timers]\ngather_ms = 200\n[central]",
            ["timers.fallback_ms: is 250, expected more than gather_ms + 50 (250)"],
        ),
        (
            "[central]", "[timers]\nrevocation_ms = 3000\n[central]",
            ["timers.max_revocation_ms: is 2000, expected at least revocation_ms (3000)"],
        ),
        (
            "[central]", "[timers]\nheartbeat_s = 29\n[central]",
            ["timers.heartbeat_s: is 29, expected seconds, 30 to 3600"],
        ),
        (
            "[central]", "[timers]\ngather_ms = 1.5\n[central]",
            ["timers.gather_ms: is 1.5, expected milliseconds, 10 to 10000"],
        ),
        ("[central]", "mobility = 'no'\n[central]", ["mobility: is 'no', expected true or false"]),
        (
            "[central]",
            "[pmip]\ntimestamp_based_approach_in_use = false\nmobile_node_generated_timestamp_in_use = true\n[central]",
            ["pmip.mobile_node_generated_timestamp_in_use: is true, expected false without "
             "timestamp_based_approach_in_use (RFC 5213 section 9.3)"],
        ),
    ],
)  # fmt: skip
def test_what_is_wrong_with_a_domain(tmp_path: Path, old: str, new: str, expected: list[str]) -> None:
    assert domain_errors(tmp_path, old, new) == expected


def test_a_fallback_just_long_enough_is_taken(files: Path) -> None:
    change(files.parent / "domain.toml", "[central]", "[timers]\nfallback_ms = 151\n[central]")
    assert load_node(files).domain.timers.fallback_ms == 151


@pytest.mark.parametrize(
    ("old", "new", "expected"),
    [
        ('"gw1"', '"gw9"', "node: 'gw9' is no node of the domain, expected one of gw1, gw2, central"),
        ('"gw1"', '"central"', "access: is not for the central database, expected none"),
        ('core = ["core0"]', "", "core: is empty, expected at least one interface for a gateway"),
        (
            'core = ["core0"]', 'core = ["core0"]\nstore = "memory"',
            "store: is 'memory', which only the central database can have, expected 'sqlite'",
        ),
        ('"core0"', '"acc1"', "core[0]: 'acc1' is in access[1] already, expected each interface once"),
        (
            '"core0"', '"a-name-far-too-long"',
            "core[0]: is 'a-name-far-too-long', expected an interface name of 1 to 15 characters",
        ),
        (
            '"core0"', '"an-up0"',
            "core[0]: 'an-up0' is a name anchord gives to interfaces of its own, "
            "expected an interface name of 1 to 15 characters",
        ),
        *(
            (name, '"lo"', f"{key}[0]: is 'lo', which leads nowhere, expected an interface with other nodes behind it")
            for key, name in (("access", '"acc0"'), ("core", '"core0"'))
        ),
        ("02-00-00-00-00-0A", "02:00", "ignore[0]: is '02:00', expected a MAC address such as '02:00:00:00:00:01'"),
        (
            "ignore", "denied",
            "denied: has an effect at an LMA or the central database only, expected none",
        ),
        ("ignore", "listed", "listed: has no effect with hosts = 'any', expected hosts = 'listed' as well"),
        ("ignore", 'state = "a\\u0000b"\nignore', "state: has a NUL in it, expected a directory"),
        ("ignore", 'neighbours = ["gw2", "gw2"]\nignore', "neighbours[1]: is 'gw2' again, expected each gateway once"),
        (
            "ignore", f"run = '/{100 * 'x'}'\nignore",
            "run: is too long, expected at most 107 bytes with the socket's name",
        ),
    ],
)  # fmt: skip
def test_what_is_wrong_with_a_node(files: Path, old: str, new: str, expected: str) -> None:
    change(files, old, new)
    with pytest.raises(ConfigError) as error:
        load_node(files)
    assert f"{files}: {expected}" in error.value.errors


def test_syntax_errors_name_the_line_and_do_not_hide_the_other_file(files: Path) -> None:
    domain = files.parent / "domain.toml"
    domain.write_text('name = "a"\nsecret = \n')
    change(files, '"core0"', '""')
    with pytest.raises(ConfigError) as error:
        load_node(files)
    core, syntax = error.value.errors
    assert core == f"{files}: core[0]: is '', expected an interface name of 1 to 15 characters"
    assert syntax == f"{domain}: line 2, column 10: Invalid value, expected TOML"


@pytest.mark.parametrize("content", [b"\xff\xfe", None])
def test_files_that_cannot_be_read(files: Path, content: bytes | None) -> None:
    domain = files.parent / "domain.toml"
    domain.unlink()
    if content is not None:
        domain.write_bytes(content)
    with pytest.raises(ConfigError) as error:
        load_node(files)
    assert len(error.value.errors) == 1
    assert error.value.errors[0].startswith(f"{domain}: ")


def test_the_secret_is_shown_nowhere(files: Path, tmp_path: Path) -> None:
    node = load_node(files)
    assert "000102" not in repr(node.domain) + str(node.domain) + repr(node)
    errors = domain_errors(tmp_path, "000102030405060708090a0b0c0d0e0f", "tooshort")
    assert not any("tooshort" in line for line in errors)


def test_a_secret_may_be_text(files: Path) -> None:
    change(files.parent / "domain.toml", "000102030405060708090a0b0c0d0e0f", "correct horse battery")
    assert load_node(files).domain.secret == b"correct horse battery"


def test_the_digest_is_that_of_the_content(tmp_path: Path) -> None:
    def digest(text: str) -> str:
        (tmp_path / "domain.toml").write_text(text)
        return load_domain(tmp_path / "domain.toml").digest

    same = [
        DOMAIN,
        "# a comment\n" + DOMAIN,
        DOMAIN + "[timers]\nfallback_ms = 250\n",
        DOMAIN.replace("2001:db8:f1::1", "2001:0db8:00f1::1"),
    ]
    other = [
        DOMAIN + "[timers]\nfallback_ms = 251\n",
        DOMAIN.replace("0e0f", "0e00"),
        DOMAIN.replace("2001:db8:a1::/48", "2001:db8:a1::/49"),
    ]
    assert len({digest(text) for text in same}) == 1
    assert len({digest(text) for text in same + other}) == 1 + len(other)


def test_models_refuse_conflicts_without_a_file_too() -> None:
    gateway = {"address": "2001:db8:f1::1", "pools": ["2001:db8:a1::/48"]}
    raw = {"name": "x", "secret": 16 * "s", "central": {"address": "2001:db8:f1::1"}, "gateways": {"gw1": gateway}}
    with pytest.raises(ValueError, match=r"is central\.address already"):
        DomainConfig.model_validate(raw)


def test_configuration_cannot_be_changed_once_read(files: Path) -> None:
    node: NodeConfig = load_node(files)
    with pytest.raises(ValueError, match="frozen"):
        node.domain.timers.fallback_ms = 1  # type: ignore[misc]


ANY = st.recursive(
    st.sampled_from([None, True, 0, 1 << 70, "2001:db8::1", "2001:db8::/48", "gw1"]) | st.text("ab:/1.", max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text("ab", max_size=3), inner, max_size=3),
    max_leaves=8,
)


@pytest.mark.parametrize("model", [DomainConfig, NodeConfig])
@given(data=st.data())
def test_any_content_gives_a_configuration_or_its_errors(model: type[Table], data: st.DataObject) -> None:
    keys = st.sampled_from(known_keys(model))
    raw = data.draw(st.dictionaries(keys, ANY | st.fixed_dictionaries({"address": ANY, "pools": ANY}), max_size=5))
    with contextlib.suppress(ConfigError):
        validate("file", raw, model)


LMA = """
[lmas.home]
address = "2001:db8:e1::1"
pools = ["2001:db8:b1::/48"]
mags = ["2001:db8:e9::1"]
[[policy]]
hosts = ["02:00:00:00:00:01", "any"]
lma = "home"
"""


def test_row_59_a_central_database_can_deny_hosts(tmp_path: Path) -> None:
    (tmp_path / "domain.toml").write_text(DOMAIN)
    path = tmp_path / "cmd.toml"
    path.write_text('node = "central"\ndomain = "domain.toml"\ndenied = ["02:00:00:00:00:01", "mn@x"]\n')
    assert central_settings(load_node(path)).denied == {bytes.fromhex("020000000001"), b"mn@x"}


def test_an_lma_is_a_node_with_core_interfaces_and_peers_of_its_own(tmp_path: Path) -> None:
    (tmp_path / "domain.toml").write_text(DOMAIN + LMA)
    (tmp_path / "home.toml").write_text('node = "home"\ndomain = "domain.toml"\ncore = ["core0"]\ndenied = ["mn@x"]\n')
    node = load_node(tmp_path / "home.toml")
    assert (node.role, node.address, node.lma.pools) == (
        "lma",
        IPv6Address("2001:db8:e1::1"),
        (IPv6Network("2001:db8:b1::/48"),),
    )
    settings = lma_settings(node)
    assert settings.mags == {IPv6Address("2001:db8:e9::1")} and settings.denied == {b"mn@x"}
    assert list(lma_peers(node).values()) == ["2001:db8:e9::1", "gw1", "gw2"]
    gateway = domain_settings(node.domain)
    fixed = gateway.fixed_anchor_of(b"whoever")
    assert fixed is not None and fixed.name == "home" and node.domain.peers[fixed.address] == "home"


@pytest.mark.parametrize(
    ("old", "new", "error"),
    [
        ("2001:db8:b1::/48", "2001:db8:a1::/48", "lmas.home.pools[0]: 2001:db8:a1::/48 overlaps gateways.gw1.pools[0]"),
        ("2001:db8:e1::1", "2001:db8:f1::1", "lmas.home.address: 2001:db8:f1::1 is gateways.gw1.address already"),
        ("[lmas.home]", "[lmas.gw1]", "lmas.gw1: 'gw1' is a gateway already, expected another name"),
        ('lma = "home"', 'lma = "away"', "policy[0].lma: 'away' is no LMA of the domain, expected home"),
        ('"any"]', '"02-00-00-00-00-01"]', "policy[0].hosts[1]: '02-00-00-00-00-01' is in policy[0].hosts[0] already"),
        ("mags =", 'operators = ["a"]\nmags =', "lmas.home.operators[0]: is 'a', expected gateways with an operator"),
        ('pools = ["2001:db8:b1::/48"]', "", "policy[0].lma: 'home' has no pools for these hosts, expected lmas.home"),
        ('pools = ["2001:db8:b1::/48"]', "pools = []", "policy[0].lma: 'home' has no pools for these hosts, expected "),
        ("2001:db8:b1::/48", "2001:db8:b1::/64", "lmas.home.pools[0]: 2001:db8:b1::/64 has no room, expected a prefix"),
        ("mags =", 'stands_for = ["2001:db8:a8::/64"]\nmags =', "lmas.home.stands_for[0]: 2001:db8:a8::/64 has no"),
        ("mags =", 'stands_for = ["2001:db8:a2::/47"]\nmags =', "lmas.home.stands_for[0]: "),
    ],
    ids=lambda value: str(value)[:20],
)
def test_what_is_wrong_with_an_lma(tmp_path: Path, old: str, new: str, error: str) -> None:
    path = tmp_path / "domain.toml"
    path.write_text(DOMAIN + LMA)
    change(path, old, new)
    with pytest.raises(ConfigError) as caught:
        load_domain(path)
    assert any(line.removeprefix(f"{path}: ").startswith(error) for line in caught.value.errors), caught.value.errors


def test_gateways_of_several_operators_need_an_lma_between_them(tmp_path: Path) -> None:
    of_a, of_b = ("operator = 'a'\npools = ['2001:db8:a1::/48']", "operator = 'b'\npools = ['2001:db8:a2::/48']")
    one = DOMAIN.replace('pools = ["2001:db8:a1::/48"]', of_a)
    both = one.replace('pools = ["2001:db8:a2::/48"]', of_b)
    path = tmp_path / "domain.toml"
    for text, what in ((one, "is missing"), (both, "is 'b'"), (both + LMA, "is 'b'")):
        path.write_text(text)
        with pytest.raises(ConfigError, match=f"gateways.gw2.operator: {what}, expected that of gw1, or an LMA betw"):
            load_domain(path)
    path.write_text(both + LMA.replace("mags", 'operators = ["a", "b"]\nmags'))
    assert load_domain(path).lmas["home"].operators == ("a", "b")


def test_an_lma_between_operators_has_the_address_of_their_central_database(tmp_path: Path) -> None:
    path = tmp_path / "domain.toml"
    path.write_text(DOMAIN.replace("2001:db8:fc::1", "2001:db8:e1::1") + LMA)
    assert load_domain(path).peers[IPv6Address("2001:db8:e1::1")] == "home"


@pytest.mark.parametrize(
    ("line", "error"),
    [
        ('access = ["acc0"]\ncore = ["core0"]', "access: is not for an LMA, expected none"),
        ("", "core: is empty, expected at least one interface for an LMA"),
    ],
)
def test_what_is_wrong_with_the_node_file_of_an_lma(tmp_path: Path, line: str, error: str) -> None:
    (tmp_path / "domain.toml").write_text(DOMAIN + LMA)
    path = tmp_path / "home.toml"
    path.write_text(f'node = "home"\ndomain = "domain.toml"\n{line}\n')
    with pytest.raises(ConfigError) as caught:
        load_node(path)
    assert caught.value.errors == [f"{path}: {error}"]
