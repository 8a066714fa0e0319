"""What all kinds share: metadata and the base class."""

# ruff: noqa: RUF009 - the calls in class bodies declare fields (calico_node.resources.fields)

from typing import Any, ClassVar

from attrs import define

from calico_node.resources import checks
from calico_node.resources.fields import Struct, always, lst, mapping, opt

API_VERSION = "projectcalico.org/v3"


@define(kw_only=True)
class OwnerReference(Struct):
    """The object by whose deletion this one goes."""

    api_version: str | None = opt()
    kind: str | None = opt()
    name: str | None = opt()
    uid: str | None = opt()
    controller: bool | None = opt()
    block_owner_deletion: bool | None = opt()


@define(kw_only=True)
class ManagedFields(Struct):
    """What the Kubernetes API server notes of an object's writers."""

    manager: str | None = opt()
    operation: str | None = opt()
    api_version: str | None = opt()
    time: str | None = opt(check=checks.timestamp)
    fields_type: str | None = opt()
    fields_v1: Any = opt("fieldsV1")
    subresource: str | None = opt()


@define(kw_only=True)
class ObjectMeta(Struct):
    """Metadata of a resource.  ``creation_timestamp`` is RFC 3339 text, ``resource_version`` the decimal text of the
    datastore revision; the latter is never stored."""

    name: str = opt(default="")
    generate_name: str | None = opt()
    namespace: str = opt(default="")
    self_link: str | None = opt()
    uid: str | None = opt()
    resource_version: str | None = opt()
    generation: int | None = opt(zero=True)
    creation_timestamp: str | None = opt(check=checks.timestamp)
    deletion_timestamp: str | None = opt(check=checks.timestamp)
    deletion_grace_period_seconds: int | None = opt()
    labels: dict[str, str] = mapping(check=checks.labels, shared=True)
    annotations: dict[str, str] = mapping(check=checks.annotations)
    owner_references: list[Any] = lst(shape=OwnerReference)
    finalizers: list[str] = lst()
    managed_fields: list[Any] = lst(shape=ManagedFields)


@define(kw_only=True)
class Resource(Struct):
    """Base of all kinds."""

    kind: ClassVar[str] = ""
    metadata: ObjectMeta = always(ObjectMeta)

    @property
    def name(self) -> str:
        return self.metadata.name

    @property
    def namespace(self) -> str:
        return self.metadata.namespace

    @property
    def described(self) -> str:
        """``Kind(name)`` or ``Kind(namespace/name)``, as error texts name it."""
        return describe(self.kind, self.metadata.name, self.metadata.namespace)


def describe(kind: str, name: str, namespace: str = "") -> str:
    return f"{kind}({namespace}/{name})" if namespace else f"{kind}({name})"
