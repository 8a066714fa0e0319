"""``calicoctl convert``."""

from __future__ import annotations

import copy
import sys
from typing import Any

from calico_node.calicoctl import output
from calico_node.calicoctl.convert.v1 import API_VERSION as V1
from calico_node.calicoctl.convert.v1 import convert_v1
from calico_node.calicoctl.errors import InputError
from calico_node.calicoctl.manifests import documents
from calico_node.errors import CalicoError, ValidationError
from calico_node.resources import (
    Document,
    Resource,
    apply_defaults,
    from_dict,
    validate,
)

KUBERNETES = ("networking.k8s.io/v1", "extensions/v1beta1")


def convert(options: dict[str, Any]) -> int:
    """Print every document as v3, or nothing.  Raises ``InputError`` that names each document at fault."""
    format_ = output.Format.parse(options["output"])
    if format_.name not in ("yaml", "json"):
        raise InputError(f"-o = {options['output']!r}: must be yaml or json")
    check = not options["ignore_validation"]
    found: dict[str, Resource] = {}
    faults: list[CalicoError] = []
    for document in documents(options["filename"], options["recursive"], faults):
        try:
            resource = _resource(document, check=check)
            if resource.described in found:
                raise ValidationError("another document has become this one, too", resource=resource.described)
            found[resource.described] = resource
        except ValidationError as error:
            faults.append(document.located(error))
    if faults:
        head = "" if len(faults) == 1 else f"{len(faults)} documents cannot be converted, nothing was printed:\n  "
        raise InputError(head + "\n  ".join(str(fault) for fault in faults))
    if not found and not options["skip_empty"]:
        raise InputError("No resources specified")
    if found:
        sys.stdout.write(output.render(list(found.values()), format_))
    return 0


def _resource(document: Document, *, check: bool) -> Resource:
    data = document.data
    if not isinstance(data, dict):
        raise ValidationError("must be an object", value=data)
    if data.get("apiVersion") == V1:
        resource = from_dict(convert_v1(data))
    elif data.get("apiVersion") in KUBERNETES and data.get("kind") == "NetworkPolicy":
        resource = from_dict(_kubernetes(data, check=check))
    else:
        resource = document.resource()
    if check:
        prepared = copy.deepcopy(resource)
        apply_defaults(prepared)
        validate(prepared)
    return resource


def _kubernetes(data: dict[str, Any], *, check: bool) -> dict[str, Any]:
    from calico_node.kubernetes.policies import convert_network_policy

    metadata = data.get("metadata")
    if not isinstance(metadata, dict) or not isinstance(metadata.get("name"), str):
        raise ValidationError("is missing", resource="NetworkPolicy", field="metadata.name")
    try:
        converted, problems = convert_network_policy(data)
    except (TypeError, AttributeError, KeyError, ValueError) as error:
        # What an API server would have refused.
        raise ValidationError(f"is not a Kubernetes NetworkPolicy: {error}", field="spec") from None
    for problem in problems:
        if check:
            raise ValidationError(problem, resource=f"NetworkPolicy({metadata['name']})")
        print(f"NetworkPolicy({metadata['name']}): {problem}", file=sys.stderr)
    return converted
