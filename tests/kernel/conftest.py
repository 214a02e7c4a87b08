"""Gateways with the real data plane in real namespaces."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from namespaces import Domain
from planes import Pair, Plane


@pytest.fixture(autouse=True, scope="session")
def _machine() -> None:
    """These tests change the kernel: without root or the tools they fail, they do not skip."""
    assert os.geteuid() == 0, "tests/kernel needs root"
    for tool in ("ip", "nft", "ping", "sysctl"):
        assert shutil.which(tool), f"tests/kernel needs {tool}"


@pytest.fixture
def make_domain() -> Iterator[Callable[[int], Domain]]:
    """Make domains of any size; all are removed afterwards."""
    made: list[Domain] = []

    def make(gateways: int) -> Domain:
        made.append(Domain(gateways))
        return made[-1]

    yield make
    for domain in made:
        domain.close()


@pytest.fixture
def make_plane() -> Iterator[Callable[..., Plane]]:
    """Start data planes; all are stopped afterwards."""
    made: list[Plane] = []

    def make(domain: Domain, n: int, access: tuple[str, ...] = ("acc0",), **changes: Any) -> Plane:
        made.append(Plane(domain, n, access, **changes))
        return made[-1].start()

    yield make
    for plane in made:
        plane.forwarding.stop()


@pytest.fixture
def pair(make_domain: Callable[[int], Domain], make_plane: Callable[..., Plane]) -> Pair:
    """Two gateways, one host."""
    domain = make_domain(2)
    return Pair(domain, {n: make_plane(domain, n) for n in (1, 2)})
