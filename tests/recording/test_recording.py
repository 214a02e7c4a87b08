"""Recordings: the same object answers the same again, and whatever differs is told."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from click.testing import CliRunner, Result
from protocol.domain import CENTRAL, Domain

from anchord.cli import main
from anchord.daemon.config import load_node
from anchord.daemon.settings import central_settings, gateway_settings, lma_settings
from anchord.protocol.central import Central
from anchord.protocol.gateway import Gateway
from anchord.protocol.lma import Lma
from anchord.protocol.timers import Instant
from anchord.recording.recorder import Recorder
from anchord.recording.replay import replay

NAMES = {"gateway": "gw1", "central": "central", "lma": "home"}
ACCESS = {"gateway": 'core = ["core0"]\naccess = ["acc0"]\n', "central": "", "lma": 'core = ["core0"]\n'}
DOMAIN_TOML = """
name = "test"
secret = "{secret}"
[central]
address = "2001:db8:fc::1"
[gateways.gw1]
address = "2001:db8:f1::1"
pools = ["2001:db8:a1::/48"]
[lmas.home]
address = "2001:db8:fd::1"
pools = ["2001:db8:aa::/48"]
"""
MAC = bytes.fromhex("0255aa000001")


@pytest.fixture
def recordings(tmp_path: Path) -> list[Path]:
    """Of every node of a domain in which a host moves, returns and leaves; the CMD ends another's session."""
    domain = Domain()
    for address, node in domain.nodes.items():
        path = tmp_path / f"{address}.rec"
        domain.nodes[address] = Recorder(node, path, pytest.fail)  # type: ignore[assignment]
        domain.perform(address, domain.nodes[address].restore({}, domain.now))
    for gateway in (1, 2, 3, 1):
        domain.host_at(gateway, MAC)
        domain.pass_time(20.0)
    domain.host_at(1, MAC[:5] + b"\2")
    _, outputs = domain.nodes[CENTRAL].revoke((MAC[:5] + b"\2").hex(":"), domain.now)  # type: ignore[union-attr]
    domain.perform(CENTRAL, outputs)
    domain.settle()
    domain.pass_time(1300.0)
    return sorted(tmp_path.iterdir())


def run(path: Path) -> Result:
    return CliRunner().invoke(main, ["replay", str(path)])


def test_every_node_answers_the_same_again(recordings: list[Path]) -> None:
    assert len(recordings) == 4
    for path in recordings:
        result = replay(path)
        assert result.first is None and not result.cut
        assert result.inputs > 20 and result.outputs > 20
        assert run(path).exit_code == 0


def test_a_changed_output_is_reported_with_its_input(recordings: list[Path]) -> None:
    lines = recordings[0].read_text().splitlines()
    at = next(i for i, line in enumerate(lines) if '"Send"' in line and '"out"' in line)
    changed = json.loads(lines[at])
    next(output for output in changed["out"] if output["type"] == "Send")["destination"] = "2001:db8::bad"
    lines[at] = json.dumps(changed)
    recordings[0].write_text("\n".join(lines) + "\n")
    told = run(recordings[0])
    assert told.exit_code == 1
    assert "1 inputs answered differently" in told.output and f"at input {at // 2}" in told.output
    assert "2001:db8::bad" in told.output


def test_an_input_left_out_is_noticed(recordings: list[Path]) -> None:
    lines = recordings[0].read_text().splitlines()
    at = next(i for i, line in enumerate(lines) if '"handle"' in line)
    recordings[0].write_text("\n".join(lines[:at] + lines[at + 2 :]) + "\n")
    assert run(recordings[0]).exit_code == 1


def test_a_cut_last_line_is_tolerated_and_said(recordings: list[Path]) -> None:
    data = recordings[0].read_bytes()
    recordings[0].write_bytes(data[:-20])
    told = run(recordings[0])
    assert told.exit_code == 0 and "cut off" in told.output


def test_the_next_process_appends_to_a_cut_recording(recordings: list[Path]) -> None:
    recordings[0].write_bytes(recordings[0].read_bytes()[:-20])
    before = replay(recordings[0])
    domain = Domain()
    domain.nodes[CENTRAL] = Recorder(domain.central, recordings[0], pytest.fail)  # type: ignore[assignment]
    domain.host_at(1, MAC)
    after = replay(recordings[0])
    assert after.cut and after.first is None and after.inputs > before.inputs


def test_a_recording_ends_at_its_limit_and_the_node_goes_on(tmp_path: Path) -> None:
    domain, said = Domain(), list[str]()
    domain.nodes[CENTRAL] = Recorder(domain.central, tmp_path / "r", said.append, 8000)  # type: ignore[assignment]
    for gateway in (1, 2, 3):
        domain.host_at(gateway, MAC)
    assert (tmp_path / "r").stat().st_size <= 8000
    assert len(said) == 1 and "8000 bytes" in said[0]
    assert len(domain.central.bindings) == 1 and replay(tmp_path / "r").first is None


@pytest.mark.parametrize("content", [b"", b"\x7fELF\0", b"[]\n", b'{"a": 1}\n', b'{"anchord-recording": 99}\n'])
def test_another_file_is_refused(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "other"
    path.write_bytes(content)
    told = run(path)
    assert told.exit_code == 1 and str(path) in told.output


def test_a_field_that_nobody_knows_is_refused(recordings: list[Path]) -> None:
    header, *rest = recordings[0].read_text().splitlines()
    changed = json.loads(header)
    changed["settings"]["novelty"] = 1
    recordings[0].write_text("\n".join([json.dumps(changed), *rest]) + "\n")
    told = run(recordings[0])
    assert told.exit_code == 1 and "novelty" in told.output


@pytest.mark.parametrize("role", ["gateway", "central", "lma"])
def test_no_secret_of_the_configuration_is_written(tmp_path: Path, role: str) -> None:
    secret = "correct horse battery staple"
    (tmp_path / "domain.toml").write_text(DOMAIN_TOML.format(secret=secret))
    (tmp_path / "node.toml").write_text(f'node = "{NAMES[role]}"\ndomain = "domain.toml"\n{ACCESS[role]}')
    config = load_node(tmp_path / "node.toml")
    node = {
        "gateway": lambda: Gateway(gateway_settings(config)),
        "central": lambda: Central(central_settings(config)),
        "lma": lambda: Lma(lma_settings(config)),
    }[role]()
    Recorder(node, tmp_path / "r", pytest.fail).handle_timers(Instant(1.0, 1.0))
    written = (tmp_path / "r").read_bytes()
    assert secret.encode() not in written and secret.encode().hex().encode() not in written
    assert (tmp_path / "r").stat().st_mode & 0o777 == 0o600
    assert replay(tmp_path / "r").first is None
