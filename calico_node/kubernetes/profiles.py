"""Namespace and ServiceAccount -> Profile.  Pure.

Source: Calico ``libcalico-go/lib/backend/k8s/conversion/conversion.go``.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from calico_node.resources import Profile, from_dict

NAMESPACE_PROFILE_PREFIX = "kns."
SERVICE_ACCOUNT_PROFILE_PREFIX = "ksa."
NAMESPACE_LABEL_PREFIX = "pcns."
SERVICE_ACCOUNT_LABEL_PREFIX = "pcsa."
NAME_LABEL = "projectcalico.org/name"


def namespace_profile_name(namespace: str) -> str:
    return NAMESPACE_PROFILE_PREFIX + namespace


def service_account_profile_name(namespace: str, name: str) -> str:
    return f"{SERVICE_ACCOUNT_PROFILE_PREFIX}{namespace or 'default'}.{name}"


def namespace_to_profile(namespace: Mapping[str, Any]) -> Profile:
    """``kns.<name>``: allows everything both ways (policies narrow it), and lends each endpoint the namespace's
    labels as ``pcns.<label>``."""
    metadata = namespace["metadata"]
    labels = _inherited(NAMESPACE_LABEL_PREFIX, metadata)
    spec = {"ingress": [{"action": "Allow"}], "egress": [{"action": "Allow"}], "labelsToApply": labels}
    return _profile(namespace_profile_name(metadata["name"]), spec)


def service_account_to_profile(account: Mapping[str, Any]) -> Profile:
    """``ksa.<namespace>.<name>``: no rules, lends the account's labels as ``pcsa.<label>``."""
    metadata = account["metadata"]
    labels = _inherited(SERVICE_ACCOUNT_LABEL_PREFIX, metadata)
    name = service_account_profile_name(metadata.get("namespace") or "default", metadata["name"])
    return _profile(name, {"labelsToApply": labels})


def _inherited(prefix: str, metadata: Mapping[str, Any]) -> dict[str, str]:
    labels = {prefix + label: value for label, value in (metadata.get("labels") or {}).items()}
    labels[prefix + NAME_LABEL] = metadata["name"]
    return dict(sorted(labels.items()))


def _profile(name: str, spec: dict[str, Any]) -> Profile:
    document = {
        "apiVersion": "projectcalico.org/v3",
        "kind": "Profile",
        "metadata": {"name": name},
        "spec": spec,
    }
    profile = from_dict(document)
    assert isinstance(profile, Profile)
    return profile
