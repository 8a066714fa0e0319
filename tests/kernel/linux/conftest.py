from __future__ import annotations

import os
from collections.abc import Iterator

import pytest

from calico_node.linux.namespaces import make_netns
from tests.kernel.linux.helpers import ip


@pytest.fixture
def netns() -> Iterator[int]:
    """A namespace with eth0 (10.0.0.1/24, up) and, unconnected to anything, cali1 (up)."""
    fd = make_netns()
    ip(
        fd,
        "link set lo up;link add eth0 type veth peer name far0;link set far0 up;link set eth0 up;"
        "addr add 10.0.0.1/24 dev eth0;link add cali1 type veth peer name pod1;link set pod1 up;link set cali1 up",
    )
    yield fd
    os.close(fd)
