"""Entry point ``datastore.embedded``."""

from __future__ import annotations

from calico_node.datastores.embedded.engine import EmbeddedEngine
from calico_node.datastores.embedded.store import Durability
from calico_node.datastores.kv import KVEngine
from calico_node.errors import SettingsError
from calico_node.settings import Settings

DURABILITY = "CALICO_DATASTORE_DURABILITY"


async def open_embedded(settings: Settings) -> KVEngine:
    """Open the file at ``settings.datastore_path``.

    CALICO_DATASTORE_DURABILITY says what a commit survives: ``disk`` (the default: a power cut too) or ``process``
    (faster; any process's death, not a power cut).  Raises ``SettingsError``, and ``DatastoreError`` saying what to
    do.
    """
    text = settings.environ.get(DURABILITY) or "disk"
    try:
        durability = Durability[text.upper()]
    except KeyError:
        raise SettingsError(f"{DURABILITY} = {text!r}: must be disk or process") from None
    return await EmbeddedEngine.open(settings.datastore_path, durability=durability)
