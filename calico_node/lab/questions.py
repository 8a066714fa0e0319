"""What a lab can be asked: who reaches whom, how it does, and the way into its namespaces."""

from __future__ import annotations

import asyncio
import os
import sys
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from attrs import define

from calico_node.errors import LabError
from calico_node.lab import lookup
from calico_node.lab.control import Answer, Handler, Progress
from calico_node.lab.datastore import MACHINE, STALE
from calico_node.lab.probes import Place, Result, default_probes, probe_from_json, probe_to_json

if TYPE_CHECKING:
    from calico_node.lab.operations import Lab


@define(eq=False)
class Questions:
    """Handlers that change nothing."""

    _lab: Lab

    def handlers(self) -> dict[str, Handler]:
        return {
            "probe": self._op_probe,
            "status": self._op_status,
            "enter": self._op_enter,
            "env": self._op_env,
            "places": self._op_places,
        }

    def places(self) -> dict[str, lookup.Location]:
        """Everything that can send or answer, by name, workloads' names included."""
        found: dict[str, lookup.Location] = {}
        for key, running in sorted(self._lab.pods.items()):
            place = Place(key, running.ip, running.pod.node, running.pod.listen, running.ips)
            found[key] = lookup.Location(place, running.netns)
            if running.pod.alias:
                found.setdefault(running.pod.alias, found[key])
        for kind, machines in (("node", self._lab.spec.nodes), ("host", self._lab.spec.hosts)):
            for machine in machines:
                name = f"{kind}:{machine.name}"
                place = Place(name, machine.ip, machine.name if kind == "node" else "", machine.listen)
                found[name] = lookup.Location(place, str(self._lab.paths.netns(kind, machine.name)))
        return found

    async def _op_places(self, request: Mapping[str, Any], progress: Progress) -> Any:
        """What the default list of probes asks, and the short names of pods that are their workload's only one."""
        unique = {location.place.name: location.place for location in self.places().values()}
        return {
            "probes": [probe_to_json(probe) for probe in default_probes(unique.values())],
            "aliases": {key: running.pod.alias for key, running in self._lab.pods.items() if running.pod.alone},
        }

    async def _op_probe(self, request: Mapping[str, Any], progress: Progress) -> Any:
        """Carry out ``probes``; results in their order."""
        if not self._lab.responder.running:
            # Everything would look denied.
            raise LabError("the process that answers for the pods has ended (see lab.log); take the lab down")
        probes = [probe_from_json(item) for item in request["probes"]]
        locations = self.places()
        by_service = {service.key: service for service in self._lab.services}
        requests = [lookup.resolve(probe, locations, by_service) for probe in probes]
        answers = await self._lab.prober.ask(
            "probe",
            lambda done, total: progress("probes", done, total) if done % 16 == 0 or done == total else None,
            probes=requests,
        )
        return [
            Result(probe, asked["ip"], answer["allowed"], answer["error"]).as_json()
            for probe, asked, answer in zip(probes, requests, answers, strict=True)
        ]

    async def _op_status(self, request: Mapping[str, Any], progress: Progress) -> Any:
        """Nodes with their agents' components and BGP sessions, pods, hosts and services."""
        statuses = await asyncio.gather(*(runner.status() for runner in self._lab.nodes.values()))
        return {
            "name": self._lab.paths.name,
            "datastore": self._lab.datastore.status(),
            "pid_namespace": os.stat("/proc/self/ns/pid").st_ino,
            "nodes": [
                {
                    "name": name,
                    "address": runner.node.address,
                    "pid": runner.process.pid,
                    "starts": runner.process.starts,
                    "components": components,
                    "sessions": components.get("bgp", {}).get("extra", {}).get("sessions", []),
                }
                for (name, runner), components in zip(self._lab.nodes.items(), statuses, strict=True)
            ],
            "pods": [
                {"name": key, "node": running.pod.node, "ip": running.ip, "ips": list(running.ips)}
                for key, running in sorted(self._lab.pods.items())
            ],
            "hosts": [{"name": host.name, "address": host.address} for host in self._lab.spec.hosts],
            "services": [
                {"name": item.key, "address": item.address, "ports": [[p.protocol, p.number] for p in item.ports]}
                for item in self._lab.services
            ],
        }

    async def _op_enter(self, request: Mapping[str, Any], progress: Progress) -> Any:
        """Descriptors of the user, PID, mount and network namespaces of ``target``, and how it should look there."""
        target = request["target"]
        datastore = self._lab.datastore
        environ: dict[str, str | None] = {}
        if target == MACHINE and datastore.machine:
            netns, namespace = datastore.machine, "nodes"
            environ = {**dict.fromkeys(STALE), **datastore.inside}
        else:
            location = self.places().get(target)
            if location is None:
                raise LabError(lookup.unknown(target, self.places()))
            kind, _, name = target.partition(":") if ":" in target else ("pod", "", target)
            netns = location.netns
            namespace = location.place.name.partition("/")[0] if kind == "pod" else "nodes"
            if kind == "node":
                settings = self._lab.nodes[name].environ
                environ = {**dict.fromkeys(STALE), **settings}
                # calicoctl and the CNI plugins, whatever the caller's PATH says.
                environ["PATH"] = os.pathsep.join([os.path.dirname(sys.executable), settings.get("PATH", os.defpath)])
        paths = ["/proc/self/ns/user", "/proc/self/ns/pid", "/proc/self/ns/mnt", netns]
        descriptors = [os.open(path, os.O_RDONLY | os.O_CLOEXEC) for path in paths]
        return Answer({"environ": environ, "etc": str(self._lab.paths.etc("ns", namespace))}, descriptors)

    async def _op_env(self, request: Mapping[str, Any], progress: Progress) -> Any:
        """Variables that point calicoctl and the CNI clients at this lab, as ``node`` (the first one) sees it; None
        for those that would lead elsewhere."""
        name = request.get("node") or next(iter(self._lab.nodes), "")
        if name not in self._lab.nodes:
            raise LabError(f"there is no node {name!r}; the lab has {', '.join(self._lab.nodes)}")
        environ = self._lab.nodes[name].environ
        wanted = ("CALICO_RUN_DIR", "CALICO_STATE_DIR", "NODENAME", "CALICO_KUBERNETES_STORE")
        settings = {variable: environ[variable] for variable in wanted}
        return {**dict.fromkeys(STALE), **self._lab.datastore.outside, **settings}
