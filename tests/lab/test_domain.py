"""Labs with their real daemons: life, death, and nothing left behind."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import textwrap
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from anchord.daemon.control import query
from anchord.lab import state
from anchord.lab.domain import Domain
from anchord.lab.errors import LabError
from anchord.lab.processes import Process, in_namespaces, wait_ended
from anchord.lab.state import State
from anchord.lab.topology import Gateway, Topology

SERVED_S = 10.0
LIVE_LAB = f"anct-{os.getpid()}-live"


@pytest.fixture(scope="module")
def live() -> Iterator[Domain]:
    """The default domain, shared by the tests that leave it as it was."""
    try:
        yield Domain.up(Topology.default(), LIVE_LAB, owner_pid=os.getpid())
    finally:
        Domain.take_down(LIVE_LAB)


def small(mobility: bool = True) -> Topology:
    """One gateway, one host."""
    whole = Topology.default(mobility)
    return Topology({"gw1": whole.gateways["gw1"]}, whole.hosts, name="small", mobility=mobility)


def left_of(name: str) -> list[str]:
    """Everything of a lab that is still there."""
    namespaces = [path.name for path in Path("/run/netns").glob(f"anchord-{name}-*")]
    processes = [f"process {process.pid}" for process in in_namespaces(namespaces)]
    files = [str(path) for path in state.LABS.glob(f"*{name}*")] if state.LABS.exists() else []
    return namespaces + processes + files


def test_every_node_is_a_process_in_a_namespace_of_its_own(live: Domain) -> None:
    rows = live.ps()
    assert [row["node"] for row in rows] == list(live.topology.nodes())
    assert all(row["alive"] for row in rows)
    homes = {os.readlink(f"/proc/{row['pid']}/ns/net") for row in rows}
    assert len(homes) == len(rows) and os.readlink("/proc/self/ns/net") not in homes
    for row in rows:
        command = Path(f"/proc/{row['pid']}/cmdline").read_bytes()
        assert (b"anchord" in command) == (row["kind"] in {"gateway", "central"}), command


def test_daemons_say_that_they_are_ready(live: Domain) -> None:
    for node in live.topology.daemons():
        assert query(live.control(node), {"show": "status"})["ready"] is True


def test_exec_gives_output_and_exit_code_and_the_namespaces_own_sys(live: Domain) -> None:
    done = live.exec("mn1", ["sh", "-c", "ls /sys/class/net; echo bad >&2; exit 7"])
    assert (done.returncode, done.stdout.split(), done.stderr) == (7, ["eth0", "lo"], "bad\n")


def test_points_can_be_captured_at(live: Domain) -> None:
    points = live.points()
    assert set(points) == {
        *(f"access-{node}" for node in ("gw1", "gw2", "gw3", "mn1")),
        *(f"core-{node}" for node in ("gw1", "gw2", "gw3", "cmd", "cn1", "cn2")),
    }
    for namespace, interface in points.values():
        subprocess.run(["ip", "-n", namespace, "link", "show", interface], check=True, capture_output=True)


def test_host_is_served_where_it_is_and_its_namespace_is_left_alone(live: Domain) -> None:
    before = settings_of(live, "mn1")
    for gateway in ("gw2", "gw3", "gw1"):
        live.move("mn1", gateway)
        live.wait_served("mn1", gateway, SERVED_S)
        assert live.at("mn1") == gateway
    # Router Advertisements set these two on the host's interface, as they would anywhere (RFC 4861 section 6.3.4).
    learnt = {key for key, value in settings_of(live, "mn1").items() if before[key] != value}
    assert all(key.rpartition("/")[2] in {"hop_limit", "mtu", "base_reachable_time_ms"} for key in learnt), learnt
    prefixes = {str(address.prefix) for address in live.host_addresses("mn1")}
    assert len(prefixes) == 3
    (preferred,) = [address for address in live.host_addresses("mn1") if not address.deprecated]
    assert preferred.prefix.subnet_of(live.topology.gateways["gw1"].pools[0])


def settings_of(domain: Domain, node: str) -> dict[str, str]:
    listing = "find /proc/sys/net/ipv6/conf /proc/sys/net/ipv6/neigh -type f | xargs grep -s ''"
    lines = domain.exec(node, ["sh", "-c", listing]).stdout.splitlines()
    assert len(lines) > 100
    return {key: value for line in lines for key, _, value in [line.partition(":")]}


def test_nobody_serves_a_host_that_is_elsewhere(live: Domain) -> None:
    with pytest.raises(LabError, match="gw3 did not serve mn1 within"):
        live.wait_served("mn1", "gw3", timeout_s=0.2)


def test_unknown_names_are_told_the_nearest(live: Domain) -> None:
    with pytest.raises(LabError, match="no host 'mm1'; did you mean mn1"):
        live.move("mm1", "gw1")
    with pytest.raises(LabError, match="no gateway 'g1'; did you mean gw1"):
        live.move("mn1", "g1")
    with pytest.raises(LabError, match="no node 'cnn1'; did you mean cn1"):
        live.exec("cnn1", ["true"])
    # cn3 is as near to both: neither is suggested
    with pytest.raises(LabError, match=r"no node 'cn3'; there are: .*cn1, cn2"):
        live.exec("cn3", ["true"])
    with pytest.raises(LabError, match=f"did you mean {LIVE_LAB}"):
        Domain.attach(LIVE_LAB[:-1])


def test_a_lab_of_another_version_is_left_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(state, "LABS", tmp_path)
    mine = State("newer", small(), maker=Process.of(os.getpid()))
    mine.create()
    record = tmp_path / "newer" / "lab.json"
    plain = json.loads(record.read_text())
    plain["topology"]["gateways"]["gw1"]["colour"] = "red"
    record.write_text(json.dumps(plain))
    assert Domain.sweep_stale() == []
    for use in (Domain.attach, Domain.take_down):
        with pytest.raises(LabError, match=r"newer/lab\.json is of another version of anchord"):
            use("newer")


def test_a_daemon_can_be_killed_and_started_again(live: Domain) -> None:
    live.kill("cmd")
    assert [row["node"] for row in live.ps() if not row["alive"]] == ["cmd"]
    with pytest.raises(LabError, match="cmd is not running"):
        live.kill("cmd", signal.SIGTERM)
    live.start("cmd")
    assert all(row["alive"] for row in Domain.attach(live.name).ps())
    with pytest.raises(LabError, match="running already"):
        live.start("cmd")


def test_a_name_is_given_once(live: Domain) -> None:
    with pytest.raises(LabError, match=r"there is a lab .* already"):
        Domain.up(small(), live.name)
    assert all(row["alive"] for row in live.ps())


def test_two_labs_at_once_do_not_meet(live: Domain, lab_name: str) -> None:
    with Domain.up(small(), lab_name, owner_pid=os.getpid()) as other:
        other.wait_served("mn1", "gw1", SERVED_S)
        assert other.host_mac("mn1") != live.host_mac("mn1")
        assert {lab_name, live.name} <= set(Domain.names())
    assert left_of(lab_name) == []
    assert all(row["alive"] for row in live.ps())


def test_down_ends_everything_and_can_be_repeated(lab_name: str) -> None:
    domain = Domain.up(small(), lab_name)
    child = domain.popen("mn1", ["sh", "-c", "trap '' TERM; sleep 1000 & echo started; wait"], stdout=subprocess.PIPE)
    assert child.stdout is not None and child.stdout.readline() == b"started\n"
    processes = [Process.of(row["pid"]) for row in domain.ps()]
    domain.down()
    assert left_of(lab_name) == []
    assert not any(process.alive for process in processes)
    assert child.poll() is not None
    domain.down()
    assert Domain.take_down(lab_name) is False
    child.stdout.close()


def test_plain_routers_serve_hosts_as_well(lab_name: str) -> None:
    with Domain.up(small(mobility=False), lab_name, owner_pid=os.getpid()) as domain:
        domain.wait_served("mn1", "gw1", SERVED_S)


def test_a_daemon_that_does_not_start_is_reported_with_its_last_words(lab_name: str) -> None:
    topology = small()
    broken = Topology(topology.gateways, topology.hosts, domain={"lifetimes": {"valid_s": 1}})
    with pytest.raises(LabError, match=r"cmd ended before it was ready.*\n.*lifetimes\.valid_s"):
        Domain.up(broken, lab_name)
    assert left_of(lab_name) == []


def test_overlapping_pools_are_refused_before_anything_is_built(lab_name: str) -> None:
    gateways = Topology.default().gateways
    twin = Gateway("gw2", gateways["gw2"].address, gateways["gw1"].pools)
    with pytest.raises(LabError, match=r"2001:db8:a1::/48 overlaps 2001:db8:a1::/48 of gw1"):
        Domain.up(Topology({"gw1": gateways["gw1"], "gw2": twin}), lab_name)
    assert left_of(lab_name) == []


def test_impossible_names_are_refused() -> None:
    with pytest.raises(LabError, match="is no name for a lab"):
        Domain.up(small(), "../etc")


CREATOR = textwrap.dedent(
    """
    import os, sys
    from anchord.lab.domain import Domain
    from anchord.lab.topology import Topology
    whole = Topology.default()
    Domain.up(Topology({"gw1": whole.gateways["gw1"]}, whole.hosts), sys.argv[1], owner_pid=os.getpid())
    print("up", flush=True)
    sys.stdin.read()
    """
)


def create_elsewhere(name: str) -> subprocess.Popen[bytes]:
    creator = subprocess.Popen(
        [sys.executable, "-c", CREATOR, name], stdin=subprocess.PIPE, stdout=subprocess.PIPE, start_new_session=True
    )
    assert creator.stdout is not None and creator.stdout.readline() == b"up\n"
    return creator


def test_a_lab_ends_with_its_owner_even_if_that_is_killed(lab_name: str) -> None:
    with create_elsewhere(lab_name) as creator:
        guardian = state.load(lab_name).guardian
        assert guardian is not None and guardian.alive
        creator.kill()
    assert wait_ended([guardian], 20) == []
    assert left_of(lab_name) == []


def test_a_lab_whose_owner_and_guardian_were_killed_is_swept_up_at_the_next_start(
    lab_name: str, new_lab_name: Callable[[], str]
) -> None:
    with create_elsewhere(lab_name) as creator:
        guardian = state.load(lab_name).guardian
        assert guardian is not None
        guardian.send(signal.SIGKILL)
        wait_ended([guardian], 10)
        assert left_of(lab_name) != []
        creator.kill()
    with Domain.up(small(), new_lab_name(), owner_pid=os.getpid()):
        assert left_of(lab_name) == []


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
@pytest.mark.parametrize("after_s", [0.0, 0.3])
def test_interrupted_while_it_is_built_a_lab_leaves_nothing(lab_name: str, number: int, after_s: float) -> None:
    anchord = [str(Path(sys.prefix, "bin", "anchord")), "lab", "up", "--name", lab_name]
    with subprocess.Popen(anchord, start_new_session=True, stderr=subprocess.DEVNULL) as building:
        deadline = time.monotonic() + 20
        while not (state.LABS / lab_name).exists() and time.monotonic() < deadline:
            time.sleep(0.005)  # a directory that appears is announced to nobody
        time.sleep(after_s)  # another moment to be interrupted at
        os.killpg(building.pid, number)
        assert building.wait(20) != 0
    assert left_of(lab_name) == []


def test_record_of_a_lab_is_for_root_only_where_it_holds_the_secret(live: Domain) -> None:
    assert (live.directory / "domain.toml").stat().st_mode & 0o077 == 0
    assert json.loads((live.directory / "lab.json").read_text())["ready"] is True


def test_a_lab_of_another_version_stands_in_nobodys_way(new_lab_name: Callable[[], str]) -> None:
    name = new_lab_name()
    with Domain.up(small(), name, owner_pid=os.getpid()) as domain:
        record = domain.directory / "lab.json"
        written = record.read_text()
        other = json.loads(written)
        other["topology"]["gateways"]["gw1"]["invented_later"] = 1
        record.write_text(json.dumps(other))
        try:
            assert name not in Domain.sweep_stale()
            with pytest.raises(LabError, match="is of another version of anchord"):
                Domain.attach(name)
        finally:
            record.write_text(written)
