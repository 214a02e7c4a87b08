"""A link for access interfaces: ``acc0``, and ``host0`` where its hosts would be, in one namespace."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Iterator
from contextlib import closing

import pytest
from access_wire import Wire


@pytest.fixture(scope="module")
def segment() -> Iterator[str]:
    """The name of a namespace with both ends of the link; nothing but the tests speaks on it."""
    name = f"anct-{os.getpid()}-segment"
    commands = [
        f"netns add {name}",
        f"link add name acc0 netns {name} address 02:00:00:00:00:aa type veth peer name host0 netns {name}",
        f"-n {name} link set acc0 addrgenmode none up",
        f"-n {name} link set host0 addrgenmode none up",
    ]
    try:
        for command in commands:
            subprocess.run(["ip", *command.split()], check=True)
        yield name
    finally:
        subprocess.run(["ip", "netns", "del", name], check=False)


@pytest.fixture
def wire(segment: str) -> Iterator[Wire]:
    """A new access interface for each test."""
    with closing(Wire(segment)) as made:
        yield made
