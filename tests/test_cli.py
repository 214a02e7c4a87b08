"""The command as its users meet it: verbs, exit codes, what is printed for people and for programs."""

from __future__ import annotations

import asyncio
import json
import os
import re
import subprocess
import sys
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from importlib.metadata import version
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from anchord.cli import VERBS, main
from anchord.daemon.control import ControlServer
from anchord.daemon.verbs import missing_capabilities

EXAMPLES = Path(__file__).parents[1] / "examples/config"

BINDINGS = [
    {
        "mn_id": "02:00:00:00:00:0a", "mac": "02:00:00:00:00:0a", "state": "serving", "serving": "2001:db8:f2::1",
        "prefix": "2001:db8:a2::/64", "lifetime_left_s": 512.34, "registered": True,
        "anchors": [{"gateway": "2001:db8:f1::1", "prefixes": ["2001:db8:a1::/64"]}],
    },
    {
        "mn_id": "evil\x1b[2J", "mac": "02:00:00:00:00:0b", "state": "away", "serving": None,
        "prefix": "2001:db8:a2:1::/64", "lifetime_left_s": None, "registered": False, "anchors": [],
    },
]  # fmt: skip
PEERS = [
    {
        "peer": "2001:db8:fc::1", "name": "central", "reachable": True,
        "messages_in": 3, "messages_out": 4, "repeated": 0,
        "dropped": {"bad-length": 2}, "refused": {}, "last_heard_s": 1_700_000_000.5,
    },
    {"peer": "others", "name": None, "messages_in": 0, "messages_out": 0, "repeated": 0, "dropped": {}, "refused": {},
     "last_heard_s": None},
]  # fmt: skip


def anchord(*arguments: str) -> Result:
    return CliRunner().invoke(main, [str(argument) for argument in arguments])


def show(what: str, mn: str | None) -> object:
    if what == "bindings":
        return [row for row in BINDINGS if mn in (None, row["mn_id"])]
    return PEERS if what == "peers" else {"node": "gw1", "ready": True}


def revoke(named: str) -> list[str]:
    if named != "mn1@example":
        raise LookupError(f"no session of {named!r}")
    return [named]


@contextmanager
def daemon(path: Path, *events: Mapping[str, object]) -> Iterator[None]:
    """A daemon's control socket; as soon as a monitor has come it gets ``events``, then the daemon ends."""
    ready, finish = threading.Event(), threading.Event()

    async def serve() -> None:
        server = ControlServer(path, show, revoke)
        await server.start()
        ready.set()
        while not finish.is_set():
            await asyncio.sleep(0.01)
            if events and server.monitors:
                for event in events:
                    server.publish(event)
                await asyncio.sleep(0.05)
                break
        await server.close()

    thread = threading.Thread(target=asyncio.run, args=(serve(),))
    thread.start()
    assert ready.wait(10)
    try:
        yield
    finally:
        finish.set()
        thread.join(10)


def test_help_lists_every_verb_and_imports_none() -> None:
    program = (
        "import sys; from anchord.cli import main; main(['--help'], standalone_mode=False); "
        "print(sorted({'pydantic', 'asyncio', 'sqlite3', 'anchord.daemon.verbs'} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout.splitlines()[-1] == "[]"
    for verb in VERBS:
        assert f"  {verb} " in done.stdout
    assert "_ANCHORD_COMPLETE=zsh_source" in done.stdout


def test_version() -> None:
    assert anchord("--version").output == f"anchord {version('anchord')}\n"


def test_a_mistyped_verb_is_told_the_nearest() -> None:
    result = anchord("shwo")
    assert result.exit_code == 2
    assert "no such verb 'shwo', did you mean 'show'?" in result.output
    result = anchord("start")
    assert result.exit_code == 2
    assert "no such verb 'start', expected one of gateway, central, " in result.output


@pytest.mark.parametrize("verb", VERBS)
def test_every_verb_has_help(verb: str) -> None:
    result = anchord(verb, "--help")
    assert result.exit_code == 0
    assert result.output.startswith("Usage:")


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("demo", "--flap", "nan"), "nan is not in the range"),
        (("lab", "move", "mn1", "gw1", "--flap", "nan"), "nan is not in the range"),
        (("demo", "--json", ""), "is a directory, expected a file"),
        (("demo", "--keep-pcap", "/proc/none/captures"), "/proc/none/captures cannot be written: "),
        (("bench", "handover", "--pcap", "/proc/none"), "/proc/none cannot be written: "),
        (("bench", "handover", "--pcap", "/etc/passwd/captures"), "cannot be written: Not a directory"),
    ],
)
def test_arguments_that_only_look_right_are_told_before_anything_begins(arguments: tuple[str, ...], said: str) -> None:
    result = anchord(*arguments)
    assert result.exit_code == 2
    assert said in result.output


@pytest.fixture
def configured(tmp_path: Path) -> Path:
    """The example's files with a secret of one's own."""
    for path in EXAMPLES.glob("*.toml"):
        (tmp_path / path.name).write_text(path.read_text().replace("replace me by", "not from an example"))
    return tmp_path


def test_check_config(configured: Path) -> None:
    result = anchord("gateway", "--config", configured / "gw1.toml", "--check-config")
    assert result.exit_code == 0
    assert result.output.startswith(f"{configured / 'gw1.toml'}: ok, domain example ")
    assert anchord("central", "--config", configured / "central.toml", "--check-config").exit_code == 0


def test_check_config_says_what_a_gateway_without_neighbours_does_where_nothing_is_central(configured: Path) -> None:
    gateway = configured / "gw1.toml"
    assert "neighbours" not in anchord("gateway", "--config", gateway, "--check-config").output
    domain = configured / "domain.toml"
    without_central = re.sub(r"^\[central\]\n([^\[]*\n)?(?=\[|$)", "", domain.read_text(), flags=re.MULTILINE)
    domain.write_text('finder = "anchor-known"\n' + without_central)
    result = anchord("gateway", "--config", gateway, "--check-config")
    assert result.exit_code == 0
    assert f"{gateway}: neighbours: none: a host" in result.output
    gateway.write_text('neighbours = ["gw2"]\n' + gateway.read_text())
    assert "neighbours" not in anchord("gateway", "--config", gateway, "--check-config").output


def test_the_secret_of_the_example_is_nobodys() -> None:
    result = anchord("gateway", "--config", EXAMPLES / "gw1.toml", "--check-config")
    assert result.exit_code == 2
    assert "domain.toml: secret: is the example's" in result.output


def test_check_config_prints_every_error_and_exits_2(tmp_path: Path) -> None:
    (tmp_path / "gw1.toml").write_text('node = "gw1"\ndomain = "none.toml"\nacces = []\n')
    result = anchord("gateway", "--config", tmp_path / "gw1.toml", "--check-config")
    assert result.exit_code == 2
    assert result.stdout == ""
    assert len(result.stderr.splitlines()) == 2
    assert f"{tmp_path / 'gw1.toml'}: acces: unknown key, expected 'access'" in result.stderr


def test_a_daemon_is_not_run_with_the_other_ones_file() -> None:
    result = anchord("gateway", "--config", EXAMPLES / "central.toml")
    assert result.exit_code == 2
    assert "expected another node, or `anchord central`" in result.stderr


def test_a_missing_capability_is_named(configured: Path) -> None:
    without = ["setpriv", "--bounding-set", "-net_raw"] if os.geteuid() == 0 else []
    command = [*without, sys.executable, "-m", "anchord", "gateway", "--config", str(configured / "gw1.toml")]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 1
    assert "CAP_NET_RAW" in done.stderr
    assert ("CAP_NET_ADMIN" in done.stderr) == bool(missing_capabilities(["CAP_NET_ADMIN"]))


def test_show_for_people(tmp_path: Path) -> None:
    with daemon(tmp_path / "gw1.sock"):
        result = anchord("show", "bindings", "--run", tmp_path)
    assert result.exit_code == 0
    heading, first, second = result.output.splitlines()
    assert heading.split() == ["MN_ID", "STATE", "SERVING", "PREFIX", "ANCHORS", "LIFETIME_LEFT_S", "REGISTERED"]
    assert first.split()[-3:] == ["2001:db8:a1::/64@2001:db8:f1::1", "512.3", "yes"]
    assert second.split()[-3:] == ["-", "-", "no"]
    assert heading.index("PREFIX") == first.index("2001:db8:a2::/64") == second.index("2001:db8:a2:1::/64")
    assert "\x1b" not in result.output


def test_show_for_programs(tmp_path: Path) -> None:
    with daemon(tmp_path / "gw1.sock"):
        result = anchord("show", "bindings", "02:00:00:00:00:0a", "--json", "--run", tmp_path)
        assert json.loads(result.output) == BINDINGS[:1]
        assert json.loads(anchord("show", "peers", "-j", "--socket", tmp_path / "gw1.sock").output) == PEERS
        assert json.loads(anchord("show", "status", "-j", "--node", "gw1", "--run", tmp_path).output)["ready"] is True


def test_show_peers_counts_by_cause(tmp_path: Path) -> None:
    with daemon(tmp_path / "gw1.sock"):
        heading, line, others = anchord("show", "peers", "--run", tmp_path).output.splitlines()
    assert heading.split()[:6] == ["PEER", "NAME", "REACHABLE", "MESSAGES_IN", "MESSAGES_OUT", "REPEATED"]
    assert line.split()[:6] == ["2001:db8:fc::1", "central", "yes", "3", "4", "0"]
    assert line.split()[-4:] == ["s", "ago", "-", "bad-length=2"]
    assert others.split()[-3:] == ["-", "-", "-"]


def test_revoke_names_whose_sessions_it_has_ended(tmp_path: Path) -> None:
    with daemon(tmp_path / "cmd.sock"):
        done = anchord("revoke", "mn1@example", "--run", tmp_path)
        assert (done.exit_code, done.output) == (0, "revoked: mn1@example\n")
        assert json.loads(anchord("revoke", "mn1@example", "-j", "--run", tmp_path).output) == ["mn1@example"]
        failed = anchord("revoke", "mn2", "--run", tmp_path)
        assert (failed.exit_code, failed.stderr) == (1, "anchord: no session of 'mn2'\n")


def test_show_status_for_people(tmp_path: Path) -> None:
    with daemon(tmp_path / "gw1.sock"):
        assert anchord("show", "status", "--run", tmp_path).output == "node   gw1\nready  yes\n"


def test_which_daemon_is_meant(tmp_path: Path) -> None:
    result = anchord("show", "peers", "--run", tmp_path)
    assert (result.exit_code, result.stderr) == (3, f"anchord: daemon not reachable: no socket in {tmp_path}\n")
    with daemon(tmp_path / "gw1.sock"), daemon(tmp_path / "gw2.sock"):
        result = anchord("show", "peers", "--run", tmp_path)
    assert result.exit_code == 2
    assert "several daemons run here, choose one: --node gw1|gw2" in result.stderr
    result = anchord("show", "peers", "--socket", tmp_path / "gw1.sock", "--node", "gw2")
    assert result.exit_code == 2
    assert "--socket and --node both name a daemon, expected one of them" in result.stderr
    with daemon(tmp_path / "cmd.sock"):
        result = anchord("show", "peers", "--node", "central", "--run", tmp_path)
    said = f"anchord: daemon not reachable: no central.sock in {tmp_path}, which has: cmd\n"
    assert (result.exit_code, result.stderr) == (3, said)


@pytest.mark.parametrize("arguments", [("show", "peers"), ("monitor",), ("revoke", "mn1")])
def test_a_daemon_that_is_not_there(tmp_path: Path, arguments: tuple[str, ...]) -> None:
    result = anchord(*arguments, "--socket", tmp_path / "gw1.sock")
    assert result.exit_code == 3
    assert "daemon not reachable" in result.stderr


def test_monitor_prints_an_event_a_line(tmp_path: Path) -> None:
    events = [{"time": 1_700_000_000.5, "event": "handover", "mn_id": "mn1", "from": "gw1"}, {"event": "peer_lost"}]
    with daemon(tmp_path / "gw1.sock", *events):
        result = anchord("monitor", "-j", "--run", tmp_path)
    assert [json.loads(line) for line in result.stdout.splitlines()] == events
    assert result.exit_code == 3
    with daemon(tmp_path / "gw1.sock", *events):
        result = anchord("monitor", "--run", tmp_path)
    handover, lost = result.stdout.splitlines()
    assert handover.endswith(".500 handover mn_id=mn1 from=gw1")
    assert lost == "peer_lost"


@pytest.mark.parametrize(("environment", "coloured"), [({}, True), ({"NO_COLOR": "1"}, False)])
def test_colour_only_on_a_terminal_and_unless_refused(
    tmp_path: Path, environment: dict[str, str], coloured: bool
) -> None:
    ours, theirs = os.openpty()
    with daemon(tmp_path / "gw1.sock"):
        clean = {key: value for key, value in os.environ.items() if key != "NO_COLOR"}
        command = [sys.executable, "-m", "anchord", "show", "peers", "--run", str(tmp_path)]
        subprocess.run(command, stdout=theirs, env=clean | environment, check=True)
    os.close(theirs)
    assert (b"\x1b[1m" in os.read(ours, 4096)) == coloured
    os.close(ours)
