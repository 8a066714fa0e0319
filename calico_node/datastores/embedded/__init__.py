"""The embedded datastore: etcd's semantics in one SQLite file, shared by the processes of one host."""

from calico_node.datastores.embedded.engine import EmbeddedEngine
from calico_node.datastores.embedded.store import Durability

__all__ = ["Durability", "EmbeddedEngine"]
