"""Keys and names of v3 resources in the datastore.

``/calico/resources/v3/projectcalico.org/<plural>/[<namespace>/]<name>``, and the composed names of
WorkloadEndpoints (``node--1-k8s-web--0-eth0``).
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import lru_cache

from attrs import frozen

from calico_node.errors import ValidationError
from calico_node.resources import KINDS

RESOURCES_PREFIX = "/calico/resources/v3/projectcalico.org/"

_KIND_BY_PLURAL: Mapping[str, str] = {info.plural: kind for kind, info in KINDS.items()}


@frozen
class ResourceName:
    """Which resource a key is of; ``namespace`` is "" for cluster-scoped kinds."""

    kind: str
    namespace: str
    name: str

    def __str__(self) -> str:
        return f"{self.kind}({self.namespace + '/' if self.namespace else ''}{self.name})"


def kind_prefix(kind: str, namespace: str = "") -> str:
    """The prefix of all keys of ``kind``, in ``namespace`` where one is given."""
    base = f"{RESOURCES_PREFIX}{KINDS[kind].plural}/"
    return f"{base}{namespace}/" if namespace and KINDS[kind].namespaced else base


def resource_key(kind: str, name: str, namespace: str = "") -> str:
    """The key of one resource.  Raises ``ValidationError`` when a namespace is missing or the name has a slash."""
    if KINDS[kind].namespaced and not namespace:
        raise ValidationError("a namespace is required", resource=f"{kind}({name})", field="metadata.namespace")
    if not name or "/" in name:
        raise ValidationError("must not be empty or contain '/'", resource=kind, field="metadata.name", value=name)
    return kind_prefix(kind, namespace) + name


@lru_cache(maxsize=16384)
def parse_resource_key(key: str) -> ResourceName | None:
    """The resource a key names; None for a key of another shape or of an unknown plural."""
    if not key.startswith(RESOURCES_PREFIX):
        return None
    plural, _, rest = key[len(RESOURCES_PREFIX) :].partition("/")
    kind = _KIND_BY_PLURAL.get(plural)
    if kind is None:
        return None
    namespace = ""
    if KINDS[kind].namespaced:
        namespace, _, rest = rest.partition("/")
        if not namespace:
            return None
    if not rest or "/" in rest:
        return None
    return ResourceName(kind, namespace, _unescape(rest))


def _unescape(segment: str) -> str:
    return segment.replace("%2f", "/").replace("%25", "%") if "%" in segment else segment
