"""``anchord doctor`` and ``anchord flush`` as an operator meets them."""

from __future__ import annotations

import ctypes
import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from click.testing import CliRunner
from namespaces import Domain
from planes import Plane, anchored

from anchord.cli import main
from anchord.kernel import features
from anchord.kernel.features import Finding, NotWorkingError, Probe, Result

MakeDomain = Callable[[int], Domain]


def doctor(*arguments: str, wrapper: tuple[str, ...] = ()) -> tuple[int, dict[str, dict[str, str]]]:
    """Run it as a program; exit code and findings by name."""
    command = [*wrapper, sys.executable, "-m", "anchord", "doctor", "--json", *arguments]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.stdout, done.stderr
    return done.returncode, {each["name"]: each for each in json.loads(done.stdout)}


def namespaces() -> set[str]:
    """Named namespaces, but for those of labs and tests that come and go beside this one."""
    found = {path.name for path in Path("/run/netns").glob("*")}
    return {name for name in found if not name.startswith(("anct", "anchord-"))}


def test_everything_a_gateway_needs_works_here() -> None:
    before = namespaces()
    code, found = doctor()
    assert code in (0, 4), "4 when the clock is not synchronised"
    assert [each["name"] for each in found.values() if each["result"] == "fail"] == []
    assert found["encap.red"]["detail"].startswith("on the wire: next header 41, no routing header")
    assert {"mobility-header", "macvlan", "End.DT6", "source-routes", "tunnel-source", "nftables"} <= set(found)
    assert "trusts MAC addresses" in found["attachment"]["detail"]
    assert namespaces() <= before
    for each in found.values():
        assert set(each) == {"name", "result", "detail", "mend"}
        if each["result"] != "ok":
            assert each["mend"]


def test_row_80_it_says_whether_the_kernel_calls_its_clock_synchronised() -> None:
    _, found = doctor()
    state = ctypes.CDLL(None).ntp_gettime(ctypes.create_string_buffer(256))  # TIME_ERROR: not synchronised
    assert found["clock"]["result"] == ("warn" if state == 5 else "ok")
    assert ("not synchronised" in found["clock"]["detail"]) == (state == 5)


def test_a_missing_capability_is_named() -> None:
    code, found = doctor(wrapper=("setpriv", "--bounding-set=-net_raw", "--inh-caps=-net_raw"))
    assert code == 1
    assert found["privileges"]["detail"] == "missing: CAP_NET_RAW"
    assert "AmbientCapabilities" in found["privileges"]["mend"]


def test_without_the_right_to_make_namespaces_it_tries_in_a_user_namespace() -> None:
    code, found = doctor(wrapper=("setpriv", "--bounding-set=-sys_admin", "--inh-caps=-sys_admin"))
    assert code == 4
    assert found["encap.red"]["result"] == found["End.DT6"]["result"] == "ok"
    assert found["tunnel-source"]["result"] == "warn"
    assert "root" in found["tunnel-source"]["mend"]


@pytest.mark.parametrize(("mtu", "result", "code"), [(1500, "warn", 4), (1319, "fail", 1), (1540, "ok", None)])
def test_the_core_mtu_is_judged(
    make_domain: MakeDomain, tmp_path: Path, mtu: int, result: str, code: int | None
) -> None:
    gateway = make_domain(1).gateways[1]
    gateway.run(f"ip link set core0 mtu {mtu}")
    config = tmp_path / "gw1.toml"
    config.write_text(f'node = "gw1"\naccess = ["acc0"]\ncore = ["core0"]\nstate = "{tmp_path}"\n')
    exit_code, found = doctor("--config", str(config), wrapper=("ip", "netns", "exec", gateway.name))
    assert found["core-mtu"]["result"] == result
    assert code is None or exit_code == code
    assert found["state"]["result"] == "ok"


def test_a_missing_interface_fails(tmp_path: Path) -> None:
    config = tmp_path / "gw1.toml"
    config.write_text('access = ["nowhere0"]\ncore = ["lo"]\n')
    code, found = doctor("--config", str(config))
    assert code == 1
    assert "nowhere0" in found["interfaces"]["detail"]


def test_a_configuration_that_cannot_be_read_is_a_usage_error(tmp_path: Path) -> None:
    config = tmp_path / "gw1.toml"
    config.write_text("access = [")
    done = CliRunner().invoke(main, ["doctor", "--config", str(config)])
    assert done.exit_code == 2
    assert str(config) in done.stderr


def test_the_text_has_no_borders_and_names_each_mend() -> None:
    done = CliRunner().invoke(main, ["doctor"])
    assert done.exit_code in (0, 4)
    assert not set("│┃|+") & set(done.stdout)
    assert "-> where spoofing matters" in done.stdout


def test_a_feature_that_does_not_do_what_it_should_fails() -> None:
    def broken(_scratch: object) -> str:
        raise NotWorkingError("it sends a routing header")

    def stuck(_scratch: object) -> str:
        raise TimeoutError

    scratch = object.__new__(features.Scratch)
    assert features.attempt(Probe("x", broken, "mend it"), scratch) == Finding(
        "x", Result.FAIL, "does not work: it sends a routing header", "mend it"
    )
    assert features.attempt(Probe("x", stuck, "mend it"), scratch).result is Result.FAIL
    assert features.attempt(Probe("x", broken, "", optional=True), scratch).result is Result.OK


def test_flush_beside_a_running_gateway_is_refused_unless_forced(make_domain: MakeDomain) -> None:
    plane = Plane(make_domain(1), 1).start()
    try:
        command = ["ip", "netns", "exec", plane.namespace.name, sys.executable, "-m", "anchord", "flush"]
        refused = subprocess.run(command, capture_output=True, text=True, check=False)
        assert (
            refused.returncode == 1 and f"(pid {os.getpid()}): stop it first, or flush with --force" in refused.stderr
        )
        assert plane.namespace.run("ip -6 rule").count("lookup") > 5
        forced = subprocess.run([*command, "--force"], capture_output=True, text=True, check=True)
        assert "13 rules" in forced.stdout
    finally:
        plane.forwarding.stop()


def test_flush_says_what_it_removed(make_domain: MakeDomain) -> None:
    domain = make_domain(1)
    plane = Plane(domain, 1).start()
    assert plane.declare(domain.host("mn1", "br-gw1"), anchored(1)) is None
    plane.forwarding.stop()
    command = ["ip", "netns", "exec", plane.namespace.name, sys.executable, "-m", "anchord", "flush"]
    first = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    assert "13 rules" in first
    assert "1 packet filter" in first
    second = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    assert second == "nothing of ours was there\n"
    third = json.loads(subprocess.run([*command, "--json"], capture_output=True, text=True, check=True).stdout)
    assert set(third.values()) == {0}
