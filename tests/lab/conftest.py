"""Labs for tests: names of their own, taken down whatever happens, and what their daemons say is recorded."""

from __future__ import annotations

import itertools
import os
import sys
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path

import pytest
from recorder import Recorder

from anchord.lab import namespaces
from anchord.lab.domain import Domain
from anchord.lab.topology import Topology

HERE = Path(__file__).parent
sys.path.append(str(HERE.parent / "wire"))  # other decoders are compared with its messages

_RECORDER = pytest.StashKey[Recorder]()
_LAST = "test_what_daemons_say.py"  # looks at what all other labs have sent

_numbers = itertools.count(1)


@pytest.fixture
def new_lab_name() -> Iterator[Callable[[], str]]:
    """Makes names for labs that are gone after the test."""
    names: list[str] = []

    def make() -> str:
        names.append(f"anct-{os.getpid()}-{next(_numbers)}")
        return names[-1]

    yield make
    for name in names:
        Domain.take_down(name)


@pytest.fixture
def lab_name(new_lab_name: Callable[[], str]) -> str:
    """The name of one lab that is gone after the test."""
    return new_lab_name()


@pytest.fixture(scope="session", autouse=True)
def recorder(request: pytest.FixtureRequest) -> Iterator[Recorder]:
    """Every lab that this process builds is listened to, from before its first daemon starts until it is gone."""
    made = request.config.stash[_RECORDER] = Recorder()
    build, remove = namespaces.build, namespaces.remove

    def build_and_listen(lab: str, topology: Topology) -> None:
        build(lab, topology)
        made.listen(lab, topology)

    def let_go_and_remove(lab: str, nodes: Iterable[str]) -> None:
        made.let_go(lab)
        remove(lab, nodes)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(namespaces, "build", build_and_listen)
        patch.setattr(namespaces, "remove", let_go_and_remove)
        yield made
    made.close()


@pytest.hookimpl(trylast=True)
def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """What daemons say is looked at when every lab is gone. That all there is was said can be asked only of all labs
    in one process."""
    last = [item for item in items if item.path == HERE / _LAST]
    items[:] = [item for item in items if item not in last]
    collected = {item.path for item in items}
    selected = config.option.keyword or any("::" in name for name in config.args)
    selected = selected or config.option.markexpr not in ("", "not long")
    if selected or hasattr(config, "workerinput") or not collected >= set(HERE.glob("test_*.py")) - {HERE / _LAST}:
        partial = [item for item in last if item.get_closest_marker("all_labs") is not None]
        config.hook.pytest_deselected(items=partial)
        last = [item for item in last if item not in partial]
    items += last


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter, config: pytest.Config) -> None:
    """Which messages other decoders have read."""
    recorded = config.stash.get(_RECORDER, None)
    if recorded is not None and recorded.report:
        terminalreporter.section("what daemons said, as read by tshark, scapy and pypcapkit")
        for line in recorded.report:
            terminalreporter.line(line)
