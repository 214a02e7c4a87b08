"""Recordings: the same object answers the same again, and whatever differs is told."""

from __future__ import annotations

import json
import subprocess
import sys
import tracemalloc
from collections.abc import Iterable
from contextlib import suppress
from importlib.metadata import version
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result
from protocol.domain import CENTRAL, Domain, domain_settings

from anchord.cli import main
from anchord.daemon.config import load_node
from anchord.daemon.settings import central_settings, gateway_settings, lma_settings
from anchord.protocol.central import Central
from anchord.protocol.gateway import Gateway
from anchord.protocol.inputs import HostSeen
from anchord.protocol.lma import Lma
from anchord.protocol.settings import Finding
from anchord.protocol.timers import Instant
from anchord.recording.recorder import Recorder
from anchord.recording.replay import replay
from anchord.recording.values import RecordError

TESTS = Path(__file__).parents[1]
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


def write(path: Path, lines: Iterable[str]) -> None:
    path.write_text("\n".join(lines) + "\n")


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
    number = next(i for i, output in enumerate(changed["out"], 1) if output["type"] == "Send")
    changed["out"][number - 1]["destination"] = "2001:db8::bad"
    lines[at] = json.dumps(changed)
    write(recordings[0], lines)
    told = run(recordings[0])
    assert told.exit_code == 1
    assert (
        "1 inputs answered differently" in told.output and f"recorded with anchord {version('anchord')}" in told.output
    )
    assert f"at line {at}, input {(at + 1) // 2}:" in told.output  # the line above the outputs; the first is no input
    given = json.loads(lines[at - 1])
    assert f"monotonic {given.pop('at')[0]:.6f} s" in told.output and "2023-11-14 22:13:20" in told.output
    assert json.dumps(given) in told.output
    assert f"output {number} of it was recorded as" in told.output and "which differs in destination\n" in told.output
    assert "2001:db8::bad" in told.output and str(CENTRAL) in told.output


def test_an_output_that_is_missing_or_too_many_is_reported(recordings: list[Path]) -> None:
    lines = recordings[0].read_text().splitlines()
    at = next(i for i, line in enumerate(lines) if '"Send"' in line and '"out"' in line)
    outputs = json.loads(lines[at])["out"]
    write(recordings[0], [*lines[:at], json.dumps({"out": outputs[:-1]}), *lines[at + 1 :]])
    assert f"output {len(outputs)} of it was recorded as\n  no output\n" in run(recordings[0]).output
    write(recordings[0], [*lines[:at], json.dumps({"out": [*outputs, *outputs]}), *lines[at + 1 :]])
    assert "and now is\n  no output\n" in run(recordings[0]).output


def test_outputs_may_be_on_lines_of_their_own(recordings: list[Path]) -> None:
    lines = [json.loads(line) for line in recordings[0].read_text().splitlines()]
    assert any(len(line.get("out", ())) > 1 for line in lines)
    single = [{"out": [each]} for line in lines for each in line.get("out", ())]
    split: list[dict[str, object]] = []
    for line in lines:
        split += [single.pop(0) for _ in line["out"]] if line.get("out") else [line]
    whole = replay(recordings[0])
    write(recordings[0], map(json.dumps, split))
    assert replay(recordings[0]) == whole and whole.first is None


def test_the_words_beside_a_message_are_not_compared(recordings: list[Path]) -> None:
    text = recordings[0].read_text()
    assert "HomeNetworkPrefix prefix=" in text
    recordings[0].write_text(text.replace("HomeNetworkPrefix prefix=", "prefix of the host: "))
    assert replay(recordings[0]).first is None


def test_an_input_that_brings_the_object_down_is_told_with_its_traceback(recordings: list[Path]) -> None:
    header, restore, *rest = recordings[0].read_text().splitlines()
    no_counter = {**json.loads(restore), "journal": {"life": {"restart": {"counter": "many"}}}}
    write(recordings[0], [header, json.dumps(no_counter), *rest])
    told = run(recordings[0])
    assert told.exit_code == 1
    assert "Traceback" in told.output and "peerlife.py" in told.output and "'many'" in told.output
    assert f"{recordings[0]}: line 2, input 1 brings the object down" in told.output


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


def test_an_input_is_in_the_file_before_it_is_worked_on_and_outputs_when_nobody_waits(tmp_path: Path) -> None:
    def written() -> list[str]:
        return [next(iter(json.loads(line))) for line in (tmp_path / "r").read_text().splitlines()]

    node = Recorder(Domain().central, tmp_path / "r", pytest.fail)
    node.handle_timers(Instant(1.0, 1.0))
    assert written() == ["anchord-recording", "do"]
    node.next_timer_s()
    assert written() == ["anchord-recording", "do", "out"]
    node.handle_timers(Instant(2.0, 2.0))
    with pytest.raises(ValueError, match="many"):
        node.restore({"life": {"restart": {"counter": "many"}}}, Instant(3.0, 3.0))
    assert written() == ["anchord-recording", "do", "out", "do", "out", "do"]


def test_a_recording_ends_at_its_limit_and_the_node_goes_on(tmp_path: Path) -> None:
    domain, said = Domain(), list[str]()
    domain.nodes[CENTRAL] = Recorder(domain.central, tmp_path / "r", said.append, 8000)  # type: ignore[assignment]
    for gateway in (1, 2, 3):
        domain.host_at(gateway, MAC)
    assert (tmp_path / "r").stat().st_size <= 8000
    assert len(said) == 1 and "8000 bytes" in said[0]
    assert len(domain.central.bindings) == 1 and replay(tmp_path / "r").first is None


@pytest.mark.parametrize(
    ("content", "why"),
    [
        (b"", "empty, expected a file that a daemon wrote with --record"),
        (b"\x7fELF\0", "no recording of anchord"),
        (b"[]\n", "no recording of anchord"),
        (b'{"anchord-recording": 99}\n', "line 1: format 99, expected 1"),
        (b'{"anchord-recording": 1}\n', "line 1: has no 'role'"),
        (b'{"anchord-recording": 1, "role": "Directory"}\n', "role 'Directory', expected one of Gateway, Central, Lma"),
        (b'{"anchord-recording": ', "line 1: no JSON"),
    ],
)
def test_another_file_is_refused(tmp_path: Path, content: bytes, why: str) -> None:
    path = tmp_path / "other"
    path.write_bytes(content)
    told = run(path)
    assert told.exit_code == 1 and told.output.startswith(f"anchord: {path}: ") and why in told.output


def test_a_file_that_cannot_be_read_is_told_by_name(tmp_path: Path) -> None:
    assert run(tmp_path / "none").output == f"anchord: {tmp_path / 'none'}: No such file or directory\n"
    assert run(tmp_path).output == f"anchord: {tmp_path}: Is a directory\n"


@pytest.mark.parametrize(
    ("change", "why"),
    [
        ({"novelty": 1}, "GatewaySettings has no 'novelty' in this version"),
        ({"mtu": None}, "GatewaySettings has 'mtu' in this version, which is not in the recording"),
        ({"type": "CentralSettings"}, "'CentralSettings' where GatewaySettings should be"),
    ],
)
def test_settings_of_another_version_or_role_are_refused(
    recordings: list[Path], change: dict[str, object], why: str
) -> None:
    header, *rest = recordings[0].read_text().splitlines()
    changed = json.loads(header)
    changed["settings"] |= change
    changed["settings"] = {key: each for key, each in changed["settings"].items() if key != "mtu" or each}
    changed["software"] = "9.8.7"
    write(recordings[0], [json.dumps(changed), *rest])
    told = run(recordings[0])
    assert told.exit_code == 1 and f"{recordings[0]}: line 1: " in told.output and why in told.output
    assert "replay it with the version that recorded it, anchord 9.8.7" in told.output


def test_an_input_that_no_node_knows_is_refused(recordings: list[Path]) -> None:
    gateway, central = (path.read_text().splitlines() for path in (recordings[0], recordings[-1]))
    at = next(i for i, line in enumerate(central) if '"revoke"' in line)
    write(recordings[0], [gateway[0], central[at].replace('"revoke"', '"praise"'), central[at + 1]])
    assert "line 2: 'praise' is nothing that can be done to a Gateway" in run(recordings[0]).output


def test_a_session_that_a_gateway_was_told_to_end_is_replayed(tmp_path: Path) -> None:
    path = tmp_path / "gw1.rec"
    domain = Domain(2, domain_settings(2, central=None, finding=Finding.ANCHOR_KNOWN))
    recorder = Recorder(domain.gw[1], path, pytest.fail)
    recorder.handle(HostSeen("acc0", MAC), domain.now)
    names, outputs = recorder.revoke(MAC.hex(":"), domain.now)
    recorder.next_timer_s()
    assert len(names) == 1 and outputs
    result = replay(path)
    assert (result.inputs, result.different, result.first) == (2, 0, None)


def test_damage_in_the_middle_is_no_end(recordings: list[Path]) -> None:
    header, *lines = recordings[0].read_text().splitlines()
    for damaged, why in (
        (["{", *lines], "line 2: no JSON"),
        (lines[1:], "line 2: outputs without an input"),
        ([lines[0], *lines], "line 3: an input where outputs should be"),
    ):
        write(recordings[0], [header, *damaged])
        told = run(recordings[0])
        assert told.exit_code == 1 and f"{recordings[0]}: {why}" in told.output


def needed(path: Path) -> int:
    """How many bytes it takes at once to replay a file that is none, or that is one."""
    tracemalloc.start()
    try:
        with suppress(RecordError):
            replay(path)
        return tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()


def test_a_huge_file_takes_no_more_memory_than_a_small_one(recordings: list[Path], tmp_path: Path) -> None:
    lines = recordings[0].read_text().splitlines()
    at = next(i for i, line in enumerate(lines) if '"restore"' in line)
    again = "\n".join(lines[at : at + 2]) + "\n"  # the same start, over and over
    sizes = []
    for count in (50, 5000):
        recordings[0].write_text(lines[0] + "\n" + again * count)
        sizes.append(needed(recordings[0]))
    assert recordings[0].stat().st_size > 8 * sizes[1]
    assert sizes[1] < 1.2 * sizes[0]
    with (tmp_path / "sparse").open("wb") as other:  # one line of a gigabyte
        other.truncate(1 << 30)
    assert needed(tmp_path / "sparse") < sizes[0]


def test_a_daemon_writes_into_no_file_that_is_no_recording(tmp_path: Path) -> None:
    path = tmp_path / "domain.toml"
    path.write_text('name = "test"\n')
    with pytest.raises(OSError, match=r"domain\.toml: is no recording, and was left as it is"):
        Recorder(Domain().central, path, pytest.fail)
    assert path.read_text() == 'name = "test"\n'


def test_a_file_that_another_process_records_into_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "r"
    hold = "import sys; from protocol.domain import Domain; from anchord.recording.recorder import Recorder; "
    hold += "r = Recorder(Domain().central, sys.argv[1], print); print('held', flush=True); sys.stdin.read()"
    pipes: dict[str, Any] = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "cwd": TESTS}
    with subprocess.Popen([sys.executable, "-c", hold, str(path)], **pipes) as other:
        assert other.stdout is not None and other.stdout.readline() == b"held\n"
        before = path.read_bytes()
        with pytest.raises(OSError, match="another process records into it"):
            Recorder(Domain().central, path, pytest.fail)
        assert path.read_bytes() == before
        other.kill()
        other.wait()
    Recorder(Domain().central, path, pytest.fail).handle_timers(Instant(1.0, 1.0))
    assert replay(path).inputs == 1


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
