"""Kubernetes objects -> the Calico objects that stand for them in the datastore, and the difference carried out.

Owned here, by kind and name prefix, and never anything else: Profiles ``kns.*`` and ``ksa.*``, NetworkPolicies
``knp.default.*``.  WorkloadEndpoints are the CNI's; only the labels and the service account of existing ones follow
their pods.

Source: Calico ``kube-controllers/pkg/controllers/{networkpolicy,namespace,serviceaccount,pod}``.
"""

from __future__ import annotations

import copy
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

import anyio.lowlevel
import structlog
from attrs import evolve, frozen

from calico_node.datastores.client import Client
from calico_node.errors import (
    CalicoError,
    DatastoreError,
    ResourceAlreadyExists,
    ResourceDoesNotExist,
    UpdateConflict,
    ValidationError,
)
from calico_node.kubernetes import (
    Object,
    Ref,
    convert_network_policy,
    namespace_to_profile,
    network_policy_to_calico,
    service_account_of,
    service_account_to_profile,
    workload_endpoint_name,
    workload_labels,
)
from calico_node.kubernetes.pods import ORCHESTRATOR, is_networked
from calico_node.kubernetes.policies import POLICY_PREFIX
from calico_node.kubernetes.profiles import NAMESPACE_PROFILE_PREFIX, SERVICE_ACCOUNT_PROFILE_PREFIX
from calico_node.resources import apply_defaults

log = structlog.get_logger(__name__)

TRIES = 5
SLICE = 64
"""Objects compared between two turns of the event loop: a few milliseconds."""
_CONVERTED = ("Namespace", "ServiceAccount", "NetworkPolicy")
_OWNED = {
    "Profile": (NAMESPACE_PROFILE_PREFIX, SERVICE_ACCOUNT_PROFILE_PREFIX),
    "NetworkPolicy": (POLICY_PREFIX,),
}


@frozen
class Target:
    """A Calico resource."""

    kind: str
    namespace: str
    name: str

    @property
    def owned(self) -> bool:
        return self.name.startswith(_OWNED[self.kind])


def target_of(ref: Ref) -> Target:
    """The Calico resource that stands for a Kubernetes object."""
    if ref.kind == "Namespace":
        return Target("Profile", "", NAMESPACE_PROFILE_PREFIX + ref.name)
    if ref.kind == "ServiceAccount":
        return Target("Profile", "", f"{SERVICE_ACCOUNT_PROFILE_PREFIX}{ref.namespace}.{ref.name}")
    return Target("NetworkPolicy", ref.namespace, POLICY_PREFIX + ref.name)


def convert(ref: Ref, document: Object) -> tuple[Any, list[str]]:
    """The Calico resource for a Kubernetes object, and what of it had to be left out.  Raises ``ValidationError``."""
    if ref.kind == "Namespace":
        return namespace_to_profile(document), []
    if ref.kind == "ServiceAccount":
        return service_account_to_profile(document), []
    return network_policy_to_calico(document), convert_network_policy(document)[1]


class Reconciler:
    """``rejected`` maps objects to why they are not, or not wholly, in force: always the whole present set."""

    def __init__(self, client: Client) -> None:
        self._client = client
        self._stored: dict[Target, Any] = {}
        self._endpoints: dict[tuple[str, str], dict[str, Any]] = {}
        self._pod_of: dict[tuple[str, str], tuple[str, str]] = {}
        self.pods: dict[tuple[str, str], Object] = {}
        self.rejected: dict[str, str] = {}

    async def resync(self, objects: Mapping[Ref, Object]) -> None:
        """Bring the datastore to ``objects``, whatever it holds now.  Raises ``DatastoreError``."""
        self._stored = {}
        for kind in _OWNED:
            for item in (await self._client.list(kind)).items:
                target = Target(kind, item.metadata.namespace or "", item.metadata.name)
                if target.owned:
                    self._stored[target] = item
        self._endpoints, self._pod_of = {}, {}
        for endpoint in (await self._client.list("WorkloadEndpoint")).items:
            self._remember(endpoint)
        self.rejected = {}
        self.pods = {}
        changes: dict[Ref, Object | None] = dict(objects)
        await self._apply(changes)
        wanted = {target_of(ref) for ref in objects if ref.kind in _CONVERTED}
        await self._delete([target for target in self._stored if target not in wanted])
        for number, (ref, pod) in enumerate(self._pods_in(changes)):
            if number % SLICE == 0:
                await anyio.lowlevel.checkpoint()
            await self._follow(ref, pod)

    async def update(self, changes: Mapping[Ref, Object | None]) -> None:
        """Carry out what changed.  Raises ``DatastoreError``."""
        await self._apply(changes)
        await self._delete(
            [target_of(ref) for ref, item in changes.items() if item is None and ref.kind in _CONVERTED]
        )
        for ref, pod in self._pods_in(changes):
            # The CNI may have written the endpoint with the labels of a moment ago: look, do not trust the cache.
            await self._look_up(ref, pod)
            await self._follow(ref, pod)

    async def endpoint_changed(self, endpoint: Any) -> None:
        """A WorkloadEndpoint was created or changed by anybody."""
        key = self._remember(endpoint)
        if key is not None and (pod := self.pods.get(key)) is not None:
            await self._follow(Ref("Pod", *key), pod)

    def endpoint_deleted(self, namespace: str, name: str) -> None:
        pod = self._pod_of.pop((namespace, name), None)
        if pod is not None:
            known = self._endpoints[pod]
            del known[name]
            if not known:
                del self._endpoints[pod]

    async def revision(self) -> int:
        """The datastore's revision now: not older than anything written here."""
        return (await self._client.kv.get("/calico/resources/v3/projectcalico.org/clusterinformations/default"))[1]

    # -- profiles and policies ----------------------------------------------------------------------------------

    async def _apply(self, changes: Mapping[Ref, Object | None]) -> None:
        for kind in _CONVERTED:  # profiles first: policies select by the labels that they lend
            for number, (ref, document) in enumerate(changes.items()):
                if number % SLICE == 0:
                    await anyio.lowlevel.checkpoint()
                if ref.kind != kind:
                    continue
                self.rejected.pop(str(ref), None)
                if document is None:
                    continue
                try:
                    resource, problems = convert(ref, document)
                    apply_defaults(resource)
                    await self._write(target_of(ref), resource)
                    if problems:
                        self.rejected[str(ref)] = "; ".join(problems)
                except DatastoreError:
                    raise
                except CalicoError as error:
                    self.rejected[str(ref)] = str(error)
                    log.warning("A Kubernetes object cannot be carried out", object=str(ref), reason=str(error))

    async def _write(self, target: Target, wanted: Any) -> None:
        for attempt in range(TRIES):
            stored = self._stored.get(target)
            try:
                if stored is None:
                    self._stored[target] = await self._client.create(wanted)
                elif stored.spec != wanted.spec:
                    update = copy.copy(stored)
                    update.spec = evolve(wanted.spec, extra=stored.spec.extra)
                    self._stored[target] = await self._client.update(update)
                return
            except (ResourceAlreadyExists, ResourceDoesNotExist, UpdateConflict):
                if attempt == TRIES - 1:
                    raise
                await self._reread(target)

    async def _reread(self, target: Target) -> None:
        try:
            self._stored[target] = await self._client.get(target.kind, target.name, target.namespace)
        except ResourceDoesNotExist:
            self._stored.pop(target, None)

    async def _delete(self, targets: Iterable[Target]) -> None:
        for target in list(targets):
            assert target.owned
            try:
                await self._client.delete(target.kind, target.name, target.namespace)
            except ResourceDoesNotExist:
                pass
            self._stored.pop(target, None)

    # -- endpoints ----------------------------------------------------------------------------------------------

    def _pods_in(self, changes: Mapping[Ref, Object | None]) -> Iterator[tuple[Ref, Object]]:
        for ref, pod in changes.items():
            if ref.kind != "Pod":
                continue
            if pod is None:
                self.pods.pop((ref.namespace, ref.name), None)
            else:
                self.pods[ref.namespace, ref.name] = pod
                yield ref, pod

    def _remember(self, endpoint: Any) -> tuple[str, str] | None:
        if endpoint.spec.orchestrator != ORCHESTRATOR or not endpoint.spec.pod:
            return None
        namespace, name = endpoint.metadata.namespace, endpoint.metadata.name
        key = (namespace, endpoint.spec.pod)
        if self._pod_of.get((namespace, name)) != key:
            self.endpoint_deleted(namespace, name)
        self._pod_of[namespace, name] = key
        self._endpoints.setdefault(key, {})[name] = endpoint
        return key

    async def _look_up(self, ref: Ref, pod: Object) -> None:
        if not is_networked(pod):
            return
        await self._look_at(ref, workload_endpoint_name(pod["spec"]["nodeName"], ORCHESTRATOR, ref.name, "eth0"))

    async def _look_at(self, ref: Ref, name: str) -> None:
        try:
            self._remember(await self._client.get("WorkloadEndpoint", name, ref.namespace))
        except ResourceDoesNotExist:
            self.endpoint_deleted(ref.namespace, name)
        except ValidationError as error:
            self.endpoint_deleted(ref.namespace, name)
            self.rejected[str(ref)] = f"its endpoint cannot be read: {error}"

    async def _follow(self, ref: Ref, pod: Object) -> None:
        """Give the pod's endpoints its labels and service account."""
        labels, account = workload_labels(pod), service_account_of(pod)
        known = self._endpoints.get((ref.namespace, ref.name), {})
        for name in list(known):
            for attempt in range(TRIES):
                endpoint = known[name]
                if endpoint.metadata.labels == labels and (endpoint.spec.service_account_name or "") == account:
                    break
                update = copy.deepcopy(endpoint)
                update.metadata.labels = dict(labels)
                update.spec.service_account_name = account or None
                try:
                    known[name] = await self._client.update(update)
                    self.rejected.pop(str(ref), None)
                except UpdateConflict:
                    if attempt == TRIES - 1:
                        raise
                    await self._look_at(ref, name)
                    if name not in known:
                        break
                except ResourceDoesNotExist:
                    self.endpoint_deleted(ref.namespace, name)
                    break
                except DatastoreError:
                    raise
                except CalicoError as error:
                    self.rejected[str(ref)] = f"its labels cannot be given to the endpoint: {error}"
                    break
