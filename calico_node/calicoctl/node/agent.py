"""Asking the agent on this host."""

from __future__ import annotations

import http.client
import json
from typing import Any

from calico_node.errors import CalicoError
from calico_node.settings import Settings

TIMEOUT = 5.0
LARGEST = 64 << 20


class NotCalicoNode(CalicoError):
    """What answers at the health listener's address is another program."""


class NotRunning(NotCalicoNode):
    """Nothing answers at the health listener's address."""


def ask(settings: Settings, path: str) -> bytes:
    """The health listener's answer, whatever its HTTP status.  Raises ``NotRunning``, ``CalicoError``."""
    where = f"{settings.health_host}:{settings.health_port}"
    connection = http.client.HTTPConnection(settings.health_host, settings.health_port, timeout=TIMEOUT)
    try:
        connection.request("GET", path)
        return connection.getresponse().read(LARGEST)
    except (ConnectionRefusedError, TimeoutError) as error:
        raise NotRunning(f"nothing answers at http://{where}{path}: {error}") from None
    except (OSError, http.client.HTTPException) as error:
        raise CalicoError(f"http://{where}{path}: {error or type(error).__name__}") from None
    finally:
        connection.close()


def components(settings: Settings) -> dict[str, Any]:
    """What ``/status`` says of each component.  Raises as ``ask``, and ``NotCalicoNode`` for no such answer."""
    answer = ask(settings, "/status")
    try:
        found = json.loads(answer)["components"]
    except (ValueError, KeyError, TypeError):
        found = None
    if not isinstance(found, dict) or not all(isinstance(state, dict) for state in found.values()):
        raise NotCalicoNode(
            f"what answers at http://{settings.health_host}:{settings.health_port}/status is not calico-node"
        )
    return found
