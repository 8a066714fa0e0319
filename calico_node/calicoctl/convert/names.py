"""Names of the v1 API as names of the v3 API, by the rules of Calico's upgrade.  Pure.

A name that has to change gets the start of its SHA-1 sum at its end, so that two names stay two.
"""

from __future__ import annotations

import hashlib
import re

from calico_node.addresses import parse_address

NAMESPACE_LABEL = "projectcalico.org/namespace"
OLD_NAMESPACE_LABEL = "calico/k8s_ns"

_FOREIGN = re.compile(r"[^-.a-z0-9]+")
_DOTTED = re.compile(r"[.-]*\.[.-]*")


def node_name(name: str) -> str:
    """Lower case, ``/`` as a dot, other signs as dashes; without a sum, as hosts find themselves by it."""
    return _DOTTED.sub(".", _FOREIGN.sub("-", name.lower().replace("/", "."))).strip(".-")


def plain_name(name: str) -> str:
    return _with_sum(name, node_name(name))


def policy_name(name: str) -> str:
    """Without dots: those part a tier from a policy."""
    return _with_sum(name, node_name(name).replace(".", "-"))


def profile_name(name: str) -> str:
    """The profile of a Kubernetes namespace was ``k8s_ns.<namespace>`` and is ``kns.<namespace>``."""
    old = "k8s_ns."
    return plain_name("kns." + name.removeprefix(old) if name.startswith(old) else name)


def address_name(address: str) -> str:
    """``10-0-0-1``, or the eight groups of an IPv6 address.  Raises ``ValidationError``."""
    return parse_address(address).exploded.replace(".", "-").replace(":", "-")


def pool_name(cidr: str) -> str:
    return re.sub("[.:/]", "-", cidr)


def selector(text: str) -> str:
    return text.replace(OLD_NAMESPACE_LABEL, NAMESPACE_LABEL)


def _with_sum(old: str, new: str) -> str:
    return old if old == new else f"{new}-{hashlib.sha1(old.encode(), usedforsecurity=False).hexdigest()[:8]}"
