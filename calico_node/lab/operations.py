"""What a lab can be told to do.  One instance, in the supervisor, holds all of the lab's state."""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import os
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import structlog
from attrs import define, field

from calico_node.datastores import Client, open_client
from calico_node.errors import CalicoError, DatastoreError, LabError, ResourceAlreadyExists, ResourceDoesNotExist
from calico_node.kubernetes import KubernetesStore, Object, Ref
from calico_node.lab import cluster, conditions, intake
from calico_node.lab import datastore as lab_datastore
from calico_node.lab import services as kube_proxy
from calico_node.lab import spec as lab_spec
from calico_node.lab.children import Children
from calico_node.lab.control import Handler, Progress
from calico_node.lab.fabric import Fabric
from calico_node.lab.names import resolv_conf, to_json
from calico_node.lab.node import NodeRunner, agent_environ, base_environ
from calico_node.lab.paths import LabPaths
from calico_node.lab.probes import DNS_POD
from calico_node.lab.questions import Questions
from calico_node.lab.worker import Worker
from calico_node.resources import Node, ObjectMeta, Resource
from calico_node.settings import Settings

log = structlog.get_logger("lab")

READY_TIMEOUT = 45.0
APPLY_TIMEOUT = 60.0
"""Seconds until a node that does not become ready, or does not acknowledge a write, is reported."""
_REACH_TIMEOUT = 10.0
_POLL = 0.05
_LOOK_AT_POOLS = 0.5
_CNI_AT_ONCE = 4
ROUTING = ("felix", "bgp")
"""Components that are not ready while nodes cannot reach each other's pods."""
_EARLY = ("IPPool", "IPReservation", "BGPConfiguration", "FelixConfiguration", "IPAMConfiguration", "Tier")
"""Kinds written before the nodes start, so that no default takes their place first."""


@define
class RunningPod:
    """A pod that the CNI plugin has wired (or that shares its node's namespace)."""

    pod: cluster.Pod
    container: str
    netns: str
    ip: str
    ips: tuple[str, ...] = ()


@define(eq=False)
class Lab:
    """The state of one lab, and the handlers of its control socket."""

    paths: LabPaths
    children: Children
    _stop: asyncio.Event
    detached: bool = field(default=False, init=False)
    _settled: bool = field(default=False, init=False)
    spec: lab_spec.LabSpec = field(factory=lab_spec.LabSpec, init=False)
    nodes: dict[str, NodeRunner] = field(factory=dict, init=False)
    pods: dict[str, RunningPod] = field(factory=dict, init=False)
    given: dict[Ref, Object] = field(factory=dict, init=False)
    plan: cluster.Plan = field(factory=cluster.Plan, init=False)
    services: list[kube_proxy.Service] = field(factory=list, init=False)
    _stored: dict[Ref, Object] = field(factory=dict, init=False)
    _store: KubernetesStore = field(init=False)
    datastore: lab_datastore.Datastore = field(init=False)
    _client: Client | None = field(default=None, init=False)
    _fabric: Fabric = field(init=False)
    responder: Worker = field(factory=lambda: Worker("calico_node.lab.responder"), init=False)
    prober: Worker = field(factory=lambda: Worker("calico_node.lab.prober"), init=False)
    _unbuilt: conditions.Unbuilt = field(factory=conditions.Unbuilt, init=False)
    _lock: asyncio.Lock = field(factory=asyncio.Lock, init=False)
    _datastore_lock: asyncio.Lock = field(factory=asyncio.Lock, init=False)
    _tasks: list[asyncio.Task[None]] = field(factory=list, init=False)
    _generation: int = field(default=0, init=False)
    _listening: dict[str, object] = field(factory=dict, init=False)
    _written: list[kube_proxy.Service] | None = field(default=None, init=False)
    _serial: int = field(default=0, init=False)

    def __attrs_post_init__(self) -> None:
        self._store = KubernetesStore(self.paths.kubernetes_store)
        self._fabric = Fabric(self.paths)
        self.datastore = lab_datastore.Embedded(self.paths)

    def handlers(self) -> dict[str, Handler]:
        return {
            "up": self._op_up,
            "apply": self._op_apply,
            "policies": self._op_policies,
            "delete": self._op_delete,
            "restart": self._op_restart,
            "datastore": self._op_datastore,
            "down": self._op_down,
            **Questions(self).handlers(),
        }

    # Coming up

    async def _op_up(self, request: Mapping[str, Any], progress: Progress) -> Any:
        """Build everything; ``sources`` and ``nodes`` from the command line.  With ``detach`` the lab outlives it."""
        async with self._lock:
            if self.nodes:
                raise LabError("the lab is up already")
            wanted = intake.read(_sources(request))
            if not request.get("policies", True):
                wanted = wanted.without_policies
            self.spec = lab_spec.complete(wanted.lab, request.get("nodes") or 0)
            # Everything is checked before anything is made.
            plan = self._plan(wanted.kubernetes, wanted.origins)
            for node in self.spec.nodes:
                self.paths.check_length(node.name)
            self.datastore = lab_datastore.make(
                request.get("datastore") or "embedded", self.spec, self.paths, self.children
            )
            progress("fabric", 0, 1)
            await asyncio.to_thread(self._fabric.build, self.spec, self.datastore.machine, self.datastore.address)
            log_fd = os.open(self.paths.log, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o600)
            progress("fabric", 1, 1)
            await self._open_datastore(wanted)
            await self._store_objects(plan)
            await self._start_nodes(log_fd)
            await self._listen_on_machines()
            unready = await self._wait_ready(progress)
            if unready and not request.get("detach"):
                raise LabError("the nodes do not become ready:" + "".join(f"\n  {text}" for text in unready))
            self._tasks.append(asyncio.create_task(self._fabric.follow_blocks(self._api, self.spec)))
            result = await self._carry_out(wanted, progress, wait=True)
            self._settled = True
            self.detached = bool(request.get("detach"))
            return {**result, "skipped": wanted.summary, "unready": unready}

    @property
    def _api(self) -> Client:
        if self._client is None:
            raise LabError("the lab is not up yet")
        return self._client

    async def _open_datastore(self, wanted: intake.Intake) -> None:
        await self.datastore.start()
        environ = {
            **self.datastore.outside,
            "NODENAME": "lab",
            "CALICO_STATE_DIR": str(self.paths.root),
            "CALICO_RUN_DIR": str(self.paths.root),
        }
        ready: asyncio.Future[Client] = asyncio.get_running_loop().create_future()

        async def hold() -> None:
            try:
                async with open_client(Settings.load(environ)) as client:
                    ready.set_result(client)
                    await asyncio.get_running_loop().create_future()
            except CalicoError as error:
                if not ready.done():
                    ready.set_exception(error)

        self._tasks.append(asyncio.create_task(hold()))
        self._client = await ready
        for node in self.spec.nodes:
            labels = {cluster.HOSTNAME_LABEL: node.name, **node.labels}
            try:
                await self._client.create(Node(metadata=ObjectMeta(name=node.name, labels=labels)))
            except ResourceAlreadyExists:
                pass
        for resource in wanted.calico:
            if resource.kind in _EARLY:
                await self._client.apply(resource)

    async def _start_nodes(self, log_fd: int) -> None:
        environ = {**base_environ(), "PYTHONUNBUFFERED": "1"}
        for index, node in enumerate(self.spec.nodes):
            settings = agent_environ(node, self.paths, self.datastore, controllers=index == 0)
            self.nodes[node.name] = NodeRunner(node, self.paths, self.children, settings)
        await asyncio.gather(
            self.responder.start(self.children, environ, log_fd),
            self.prober.start(self.children, environ, log_fd),
            *(runner.process.start() for runner in self.nodes.values()),
        )

    async def _listen_on_machines(self) -> None:
        for kind, machines in (("node", self.spec.nodes), ("host", self.spec.hosts)):
            for machine in machines:
                name = f"{kind}:{machine.name}"
                node = machine.name if kind == "node" else ""
                await self._listen(name, node, str(self.paths.netns(kind, machine.name)), machine.listen)

    async def _listen(self, name: str, node: str, netns: str, listen: Sequence[lab_spec.Listen]) -> None:
        request: dict[str, Any] = {
            "name": name,
            "node": node,
            "netns": netns,
            "dns": name == DNS_POD,
            "listen": [[item.port, item.protocol] for item in listen],
        }
        if self._listening.get(name) == request:
            return
        failed = await self.responder.ask("listen", **request)
        self._listening[name] = request
        if failed:
            log.warning("ports that cannot answer", place=name, ports=failed)

    async def _wait_ready(self, progress: Progress) -> list[str]:
        """Until every component of every agent says it is ready; BGP sessions among them.  Returns why not, after
        a while, or once it is known that they never will be: documents may describe such a cluster, and a lab is
        there to look at it."""

        def missing(components: Mapping[str, Any]) -> list[str]:
            return [
                f"{name}: {state['reason'] or 'not ready'}"
                for name, state in sorted(components.items())
                if not (state["ready"] or (self._unbuilt.reasons and name in ROUTING and state["revision"]))
            ]

        # As soon as the agents have written the default pool, what the pools ask for is known.
        self._unbuilt = conditions.Unbuilt()
        waiting = asyncio.create_task(self._wait(progress, "nodes ready", READY_TIMEOUT, missing))
        try:
            while not (await asyncio.wait({waiting}, timeout=_LOOK_AT_POOLS))[0]:
                with contextlib.suppress(DatastoreError):
                    self._unbuilt = await conditions.unbuilt(self._api)
            return [*self._unbuilt.reasons, *await waiting]
        finally:
            waiting.cancel()

    async def _wait_revision(self, revision: int, progress: Progress) -> None:
        """Until every node has applied a datastore revision that is not older than ``revision``."""
        lagging = await self._wait(
            progress,
            "nodes acknowledge",
            APPLY_TIMEOUT,
            lambda components: [
                f"{name} is at revision {state['revision']}, not {revision}"
                for name, state in sorted(components.items())
                if name in ("felix", "bgp") and state["revision"] < revision
            ],
        )
        if lagging:
            raise LabError(f"not acknowledged within {APPLY_TIMEOUT:g} s: {'; '.join(lagging)}")

    async def _wait(
        self, progress: Progress, stage: str, timeout: float, missing: Callable[[Mapping[str, Any]], list[str]]
    ) -> list[str]:
        deadline = asyncio.get_running_loop().time() + timeout
        waiting = dict(self.nodes)
        reasons: dict[str, list[str]] = {}
        while waiting:
            statuses = await asyncio.gather(*(runner.status() for runner in waiting.values()))
            for (name, runner), components in zip(list(waiting.items()), statuses, strict=True):
                reasons[name] = missing(components) if components else ["the agent does not answer yet"]
                if not reasons[name]:
                    del waiting[name]
                elif (process := runner.process).starts > 2:
                    raise LabError(
                        f"the agent of {name} keeps ending (exit status {process.last_exit}); its log ends with\n"
                        f"{runner.log_tail()}"
                    )
            progress(stage, len(self.nodes) - len(waiting), len(self.nodes))
            if waiting and asyncio.get_running_loop().time() > deadline:
                return [f"{name}: {', '.join(reasons[name])}" for name in waiting]
            if waiting:
                await asyncio.sleep(_POLL)
        return []

    # Changing

    async def _op_apply(self, request: Mapping[str, Any], progress: Progress) -> Any:
        async with self._lock:
            wanted, locked = await self._read_change(request)
            wait = bool(request.get("wait", True)) and not locked
            result = await self._carry_out(wanted, progress, wait=wait)
            return {**result, "skipped": wanted.summary, "locked": locked}

    async def _read_change(self, request: Mapping[str, Any]) -> tuple[intake.Intake, str]:
        """The documents of a change to a running lab, and why nodes will not take it up yet ("": they will).

        Raises ``LabError`` for what cannot be carried out now, before anything is written.
        """
        self._refuse_while_away()
        tiers = [tier.metadata.name for tier in (await self._api.list("Tier")).items]
        wanted = intake.read(_sources(request), tiers=tiers)
        if wanted.lab.nodes or wanted.lab.hosts:
            raise LabError("a Lab document can be given only to lab up and lab run: nodes and hosts stay as they are")
        locked = conditions.LOCKED if await conditions.locked(self._api) else ""
        if locked and wanted.kubernetes:
            raise LabError(f"{locked}; Kubernetes objects, pods for one, cannot be changed before that")
        return wanted, locked

    def _refuse_while_away(self) -> None:
        if self.datastore.away:
            raise LabError(f"the lab's datastore is away: {self.datastore.away}")

    async def _op_policies(self, request: Mapping[str, Any], progress: Progress) -> Any:
        """Apply only the policies of documents that are known already."""
        async with self._lock:
            return await self._carry_out(intake.read(_sources(request)).policies, progress, wait=True)

    async def _carry_out(self, wanted: intake.Intake, progress: Progress, *, wait: bool) -> dict[str, Any]:
        """Apply documents that were checked; the revision that shows them all."""
        given = {**self.given, **wanted.kubernetes}
        plan = self._plan(given, wanted.origins)
        done: list[str] = []
        for resource in wanted.calico:
            try:
                await self._api.apply(resource)
            except CalicoError as error:
                raise LabError(_half_done(error, done, "applied")) from None
            done.append(_title(resource))
        await self._become(given, plan, progress)
        return await self._acknowledged(len(done) + len(wanted.kubernetes), progress, wait=wait)

    def _plan(self, given: Mapping[Ref, Object], origins: Mapping[Ref, str]) -> cluster.Plan:
        placed = {key: running.pod.node for key, running in self.pods.items()}
        plan = cluster.make_plan(given, self.spec, placed, origins)
        known = {service.key: service.address for service in self.services}
        cluster.services(plan, {}, known)  # refuses what cannot be before anything is written
        return plan

    async def _acknowledged(self, count: int, progress: Progress, *, wait: bool) -> dict[str, Any]:
        revision = await self._revision()
        known, self._unbuilt = self._unbuilt.reasons, await conditions.unbuilt(self._api)
        if wait:
            await self._wait_revision(revision, progress)
            await self._fabric.wait_routes(self._api, self.spec, progress, without=self._unbuilt.covers)
        rejected = dict(self._store.acknowledged().rejected)
        for name, runner in self.nodes.items() if wait else ():
            for component, state in (await runner.status()).items():
                for item, reason in state["rejected"].items():
                    rejected[f"{name}: {component}: {item}"] = reason
        unready = [reason for reason in self._unbuilt.reasons if reason not in known]
        return {"revision": revision, "objects": count, "rejected": rejected, "unready": unready}

    async def _op_delete(self, request: Mapping[str, Any], progress: Progress) -> Any:
        async with self._lock:
            wanted, locked = await self._read_change(request)
            given = {ref: item for ref, item in self.given.items() if ref not in wanted.kubernetes}
            gone = [ref.name for ref in wanted.kubernetes if ref.kind == "Namespace"]
            given = {ref: item for ref, item in given.items() if ref.namespace not in gone}
            plan = self._plan(given, {})
            done: list[str] = []
            for resource in reversed(wanted.calico):
                metadata = resource.metadata
                try:
                    await self._api.delete(resource.kind, metadata.name, metadata.namespace)
                except ResourceDoesNotExist:
                    continue
                except CalicoError as error:
                    raise LabError(_half_done(error, done, "deleted")) from None
                done.append(_title(resource))
            count = len(done) + sum(ref in self.given for ref in wanted.kubernetes)
            await self._become(given, plan, progress)
            wait = bool(request.get("wait", True)) and not locked
            return {**await self._acknowledged(count, progress, wait=wait), "locked": locked}

    async def _become(self, given: dict[Ref, Object], plan: cluster.Plan, progress: Progress) -> None:
        """Make store, pods, services and names what ``plan`` says."""
        self.given, self.plan = given, plan
        await self._store_objects(plan)
        await self._store.wait_acknowledged(self._generation, APPLY_TIMEOUT)
        await self._change_pods(progress)
        await self._update_services()

    async def _store_objects(self, plan: cluster.Plan) -> None:
        changed = [item for ref, item in plan.objects.items() if self._stored.get(ref) != item]
        gone = [ref for ref in self._stored if ref not in plan.objects]
        if changed or gone:
            self._generation = await asyncio.to_thread(self._store.apply, changed, gone)
            self._stored = dict(plan.objects)

    async def _change_pods(self, progress: Progress) -> None:
        wanted = self.plan.pods
        gone = [
            running
            for key, running in self.pods.items()
            if key not in wanted or _sandbox(running.pod) != _sandbox(wanted[key])
        ]
        await asyncio.gather(*(self._remove_pod(running) for running in gone))
        new = [pod for key, pod in wanted.items() if key not in self.pods]
        done = 0
        limits = {name: asyncio.Semaphore(_CNI_AT_ONCE) for name in self.nodes}

        async def add(pod: cluster.Pod) -> None:
            nonlocal done
            async with limits[pod.node]:
                await self._add_pod(pod)
            done += 1
            progress("pods", done, len(new))

        outcomes = await asyncio.gather(*(add(pod) for pod in new), return_exceptions=True)
        failures = [outcome for outcome in outcomes if isinstance(outcome, BaseException)]
        for failure in failures:
            if not isinstance(failure, CalicoError):
                raise failure
        if failures:
            texts = "".join(f"\n  {failure}" for failure in failures)
            hint = " (apply again to retry)" if self._settled else ""
            raise LabError(f"{len(failures)} of {len(new)} pods did not come up{hint}:{texts}")
        for key, pod in wanted.items():
            running = self.pods[key]
            running.pod = pod
            await self._listen(key, pod.node, running.netns, pod.listen)

    async def _add_pod(self, pod: cluster.Pod) -> None:
        runner = self.nodes[pod.node]
        if pod.host_network:
            self.pods[pod.key] = RunningPod(pod, "", runner.netns, runner.node.ip)
            return
        self._serial += 1
        container = hashlib.sha256(f"{self.paths.name}/{pod.key}/{self._serial}".encode()).hexdigest()
        netns = str(self.paths.netns("pod", pod.key))
        await asyncio.to_thread(self._fabric.make_netns, netns)
        try:
            result = await runner.cni("ADD", container=container, netns=netns, namespace=pod.namespace, pod=pod.name)
            addresses = tuple(str(item["address"]).partition("/")[0] for item in result.get("ips") or ())
            if not addresses:
                raise LabError(f"CNI ADD of pod {pod.key} gave no address")
        except BaseException:
            # As a kubelet does: what a failed ADD may have left is deleted.
            with contextlib.suppress(CalicoError):
                await runner.cni("DEL", container=container, netns=netns, namespace=pod.namespace, pod=pod.name)
            self._fabric.drop_netns(netns)
            raise
        self.pods[pod.key] = RunningPod(pod, container, netns, addresses[0], addresses)

    async def _remove_pod(self, running: RunningPod) -> None:
        pod = running.pod
        await self.responder.ask("drop", name=pod.key)
        self._listening.pop(pod.key, None)
        if not pod.host_network:
            await self.nodes[pod.node].cni(
                "DEL", container=running.container, netns=running.netns, namespace=pod.namespace, pod=pod.name
            )
            self._fabric.drop_netns(running.netns)
        del self.pods[pod.key]

    async def _update_services(self) -> None:
        addresses = {key: running.ip for key, running in self.pods.items()}
        known = {service.key: service.address for service in self.services}
        self.services = cluster.services(self.plan, addresses, known)
        if self.services != self._written:
            for runner in self.nodes.values():
                await asyncio.to_thread(kube_proxy.write_table, runner.netns, self.services)
            self._written = self.services
        machines = [(machine.name, machine.ip) for machine in (*self.spec.nodes, *self.spec.hosts)]
        names = cluster.names(self.plan, addresses, self.services, machines)
        await self.responder.ask("set_names", names=to_json(names))
        namespaces = {running.pod.namespace for running in self.pods.values()}
        server = next((item.address for item in self.services if item.key == DNS_POD), kube_proxy.DNS_ADDRESS)
        await asyncio.to_thread(self._write_etc, names.hosts_file, namespaces, server)

    def _write_etc(self, hosts_file: Callable[[str], str], namespaces: Iterable[str], server: str) -> None:
        for namespace in ("", *namespaces):
            folder = self.paths.etc("ns", namespace or "nodes")
            folder.mkdir(parents=True, exist_ok=True)
            (folder / "hosts").write_text(hosts_file(namespace))
            if namespace:
                (folder / "resolv.conf").write_text(resolv_conf(server, namespace))

    async def _op_restart(self, request: Mapping[str, Any], progress: Progress) -> Any:
        """End the agent of ``node`` (with signal ``signal``) and start it anew; waits until it is ready."""
        async with self._lock:
            name = request["node"]
            if name not in self.nodes:
                raise LabError(f"there is no node {name!r}; the lab has {', '.join(self.nodes)}")
            runner = self.nodes[name]
            await runner.process.stop(int(request.get("signal") or 15))
            runner.process.starts = 0
            await runner.process.start()
            if self.datastore.away:
                unready = [f"{name}: waits for the datastore, which is away: {self.datastore.away}"]
            else:
                unready = await self._wait_ready(progress) if request.get("wait", True) else []
            return {"node": name, "unready": unready}

    async def _op_datastore(self, request: Mapping[str, Any], progress: Progress) -> Any:
        """Stop, start, restart or kill the datastore (``action``); waits until the nodes have caught up.

        Beside other operations: one that waits for a datastore must not keep it from being started.
        """
        async with self._datastore_lock:
            if not self.nodes:
                raise LabError("the lab is not up yet")
            await self.datastore.operate(request["action"])
            if self.datastore.away or not request.get("wait", True):
                return self.datastore.status()
            if not await self._until_reached():
                await self._wait_revision(await self._revision(), progress)
            return self.datastore.status()

    async def _until_reached(self) -> bool:
        """Whether the datastore is locked, once our own client, which knocks at intervals, has reached it."""
        deadline = asyncio.get_running_loop().time() + _REACH_TIMEOUT
        while True:
            try:
                return await conditions.locked(self._api)
            except DatastoreError:
                if asyncio.get_running_loop().time() > deadline:
                    raise
            await asyncio.sleep(_POLL)

    async def _revision(self) -> int:
        return (await self._api.kv.range("/calico/", limit=1)).revision

    async def _op_down(self, request: Mapping[str, Any], progress: Progress) -> Any:
        """End the lab; the answer leaves first."""
        asyncio.get_running_loop().call_later(0.05, self._stop.set)
        return {}


def _sources(request: Mapping[str, Any]) -> list[intake.Source]:
    return [intake.Source(name, text) for name, text in request.get("sources") or ()]


def _sandbox(pod: cluster.Pod) -> tuple[object, ...]:
    """What a running pod cannot change: a difference makes a new one."""
    annotations = pod.document["metadata"].get("annotations") or {}
    account = pod.document["spec"].get("serviceAccountName")
    ports = tuple(sorted(str(sorted(port.items(), key=str)) for port in pod.ports if port.get("name")))
    return (pod.node, pod.host_network, tuple(sorted(annotations.items())), account, ports)


def _title(resource: Resource) -> str:
    name = "/".join(part for part in (resource.metadata.namespace, resource.metadata.name) if part)
    return f"{resource.kind}({name})"


def _half_done(error: CalicoError, done: Sequence[str], what: str) -> str:
    return f"{error}; {what} before that: {', '.join(done) or 'nothing'}"
