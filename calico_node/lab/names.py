"""Names in the lab: what the cluster's name server answers, and the ``hosts`` file of a pod or node.  Pure.

Served are, under ``cluster.local``: ``SERVICE.NS.svc`` (its cluster IP, or the pods of a headless Service),
``HOSTNAME.SERVICE.NS.svc`` (pods of a headless Service), ``A-B-C-D.NS.pod`` (that address) and, for convenience in a
lab, ``POD.NS.pod``; SRV for named ports of Services; and PTR for all of these addresses.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Iterable, Mapping, Sequence

import dns.exception
import dns.flags
import dns.message
import dns.name
import dns.rcode
import dns.rdataclass
import dns.rdatatype
import dns.rrset
from attrs import field, frozen

DOMAIN = "cluster.local"
TTL = 5
"""Seconds an answer may be kept: Kubernetes' default for Services."""


@frozen
class NamedService:
    """``address`` is "" for a headless Service; ``ports`` are (name, protocol in lower case, number)."""

    namespace: str
    name: str
    address: str = ""
    ports: tuple[tuple[str, str, int], ...] = ()
    endpoints: tuple[tuple[str, str], ...] = ()  # (hostname, address)


@frozen
class NamedPod:
    namespace: str
    name: str
    address: str


@frozen
class Names:
    """Everything that has a name; ``machines`` are nodes and outside hosts."""

    services: tuple[NamedService, ...] = ()
    pods: tuple[NamedPod, ...] = ()
    machines: tuple[tuple[str, str], ...] = ()
    _forward: Mapping[str, tuple[str, ...]] = field(init=False, repr=False, eq=False)
    _reverse: Mapping[str, str] = field(init=False, repr=False, eq=False)
    _known: frozenset[str] = field(init=False, repr=False, eq=False)
    _namespaces: frozenset[str] = field(init=False, repr=False, eq=False)

    @_namespaces.default
    def _collect_namespaces(self) -> frozenset[str]:
        return frozenset({s.namespace for s in self.services} | {p.namespace for p in self.pods})

    @_forward.default
    def _collect_forward(self) -> dict[str, tuple[str, ...]]:
        found: dict[str, list[str]] = {}
        for pod in self.pods:
            found.setdefault(f"{pod.name}.{pod.namespace}.pod", []).append(pod.address)
        for service in self.services:
            base = f"{service.name}.{service.namespace}.svc"
            if service.address:
                found.setdefault(base, []).append(service.address)
            else:
                found.setdefault(base, []).extend(address for _, address in service.endpoints)
                for hostname, address in service.endpoints:
                    found.setdefault(f"{hostname}.{base}", []).append(address)
        return {name: tuple(dict.fromkeys(addresses)) for name, addresses in found.items()}

    @_reverse.default
    def _collect_reverse(self) -> dict[str, str]:
        found = {address: f"{pod.name}.{pod.namespace}.pod" for pod in self.pods for address in (pod.address,)}
        found.update((s.address, f"{s.name}.{s.namespace}.svc") for s in self.services if s.address)
        return found

    @_known.default
    def _collect_known(self) -> frozenset[str]:
        # Names that exist without records of their own (RFC 8020): every parent of a name.
        known: set[str] = {"svc", "pod", ""}
        for name in self._forward:
            labels = name.split(".")
            known.update(".".join(labels[index:]) for index in range(len(labels)))
        return frozenset(known)

    def addresses(self, name: str) -> tuple[str, ...] | None:
        """Addresses of ``name`` (relative to cluster.local, lower case); None where there is no such name."""
        if name in self._forward:
            return self._forward[name]
        labels = name.split(".")
        if len(labels) == 3 and labels[2] == "pod" and labels[1] in self._namespaces:
            for separator in (".", ":"):
                try:
                    return (str(ipaddress.ip_address(labels[0].replace("-", separator))),)
                except ValueError:
                    continue
        return () if name in self._known else None

    def answer(self, query: dns.message.Message) -> dns.message.Message:
        """The response to ``query``; names outside cluster.local are refused: the lab has no way out."""
        response = dns.message.make_response(query)
        response.flags |= dns.flags.AA
        if not query.question or query.opcode() != 0:
            response.set_rcode(dns.rcode.NOTIMP)
            return response
        question = query.question[0]
        name = question.name.to_text(omit_final_dot=True).lower()
        if question.rdclass != dns.rdataclass.IN:
            response.set_rcode(dns.rcode.REFUSED)
        elif name.endswith((".in-addr.arpa", ".ip6.arpa")):
            self._answer_reverse(question, response)
        elif name == DOMAIN or name.endswith(f".{DOMAIN}"):
            self._answer_forward(question, name.removesuffix(DOMAIN).rstrip("."), response)
        else:
            response.set_rcode(dns.rcode.REFUSED)
        return response

    def _answer_reverse(self, question: dns.rrset.RRset, response: dns.message.Message) -> None:
        import dns.reversename

        try:
            address = dns.reversename.to_address(question.name)
        except (dns.exception.DNSException, ValueError):
            response.set_rcode(dns.rcode.NXDOMAIN)
            return
        name = self._reverse.get(address)
        if name is None:
            response.set_rcode(dns.rcode.NXDOMAIN)
        elif question.rdtype in (dns.rdatatype.PTR, dns.rdatatype.ANY):
            response.answer.append(dns.rrset.from_text(question.name, TTL, "IN", "PTR", f"{name}.{DOMAIN}."))

    def _answer_forward(self, question: dns.rrset.RRset, name: str, response: dns.message.Message) -> None:
        if name.startswith("_"):
            self._answer_srv(question, name, response)
            return
        addresses = self.addresses(name)
        if addresses is None:
            response.set_rcode(dns.rcode.NXDOMAIN)
            return
        for kind, version in ((dns.rdatatype.A, 4), (dns.rdatatype.AAAA, 6)):
            if question.rdtype not in (kind, dns.rdatatype.ANY):
                continue
            texts = [text for text in addresses if ipaddress.ip_address(text).version == version]
            if texts:
                response.answer.append(dns.rrset.from_text(question.name, TTL, "IN", kind.name, *texts))

    def _answer_srv(self, question: dns.rrset.RRset, name: str, response: dns.message.Message) -> None:
        labels = name.split(".", 2)
        if len(labels) == 3:
            for service in self.services:
                if labels[2] != f"{service.name}.{service.namespace}.svc":
                    continue
                for port, protocol, number in service.ports:
                    if (f"_{port}", f"_{protocol}") == (labels[0], labels[1]):
                        if question.rdtype in (dns.rdatatype.SRV, dns.rdatatype.ANY):
                            text = f"0 100 {number} {labels[2]}.{DOMAIN}."
                            response.answer.append(dns.rrset.from_text(question.name, TTL, "IN", "SRV", text))
                        return
        response.set_rcode(dns.rcode.NXDOMAIN)

    def hosts_file(self, namespace: str = "") -> str:
        """``/etc/hosts`` as seen from a pod of ``namespace`` (its own names also short), or from a node ("")."""
        lines = ["127.0.0.1\tlocalhost", "::1\tlocalhost ip6-localhost ip6-loopback"]
        lines += [f"{address}\t{name}" for name, address in self.machines]
        taken = {(service.namespace, service.name) for service in self.services}
        for pod in self.pods:
            names = [f"{pod.name}.{pod.namespace}.pod.{DOMAIN}"]
            # A name that a Service has too is the Service's, as in a cluster.
            if (pod.namespace, pod.name) not in taken:
                names = _short([f"{pod.name}.{pod.namespace}", *names], pod.name, pod.namespace, namespace)
            lines.append(f"{pod.address}\t{' '.join(names)}")
        for service in self.services:
            if service.address:
                base = f"{service.name}.{service.namespace}"
                names = [base, f"{base}.svc", f"{base}.svc.{DOMAIN}"]
                names = _short(names, service.name, service.namespace, namespace)
                lines.append(f"{service.address}\t{' '.join(names)}")
        return "\n".join(lines) + "\n"


def _short(names: Sequence[str], name: str, namespace: str, own: str) -> list[str]:
    return [name, *names] if own and own == namespace else list(names)


def resolv_conf(server: str, namespace: str) -> str:
    """A pod's ``/etc/resolv.conf``, as a kubelet with dnsPolicy ClusterFirst writes it."""
    search = f"{namespace}.svc.{DOMAIN} svc.{DOMAIN} {DOMAIN}"
    return f"nameserver {server}\nsearch {search}\noptions ndots:5\n"


def respond(names: Names, wire: bytes, *, limit: int = 65535) -> bytes:
    """The answer to the message ``wire``, cut to ``limit`` bytes with TC set; b"" for what is no DNS query at all."""
    try:
        query = dns.message.from_wire(wire, ignore_trailing=True)
    except dns.message.ShortHeader:
        return b""
    except Exception:
        # A header that could be read deserves FORMERR (RFC 1035, 4.1.1).
        return wire[:2] + b"\x80\x01" + b"\0" * 8 if len(wire) >= 12 and not wire[2] & 0x80 else b""
    if query.flags & dns.flags.QR:
        return b""
    response = names.answer(query)
    limit = min(limit, max(512, query.payload)) if limit < 65535 else limit
    try:
        return response.to_wire(max_size=limit)
    except dns.exception.TooBig:
        short = dns.message.make_response(query)
        short.flags |= dns.flags.AA | dns.flags.TC
        return short.to_wire()


def from_json(data: Mapping[str, Iterable[Sequence[object]]]) -> Names:
    """The inverse of ``to_json``."""
    services = tuple(
        NamedService(
            str(namespace),
            str(name),
            str(address),
            tuple((str(p[0]), str(p[1]), int(p[2])) for p in ports),  # type: ignore[attr-defined]
            tuple((str(e[0]), str(e[1])) for e in endpoints),  # type: ignore[attr-defined]
        )
        for namespace, name, address, ports, endpoints in data.get("services", ())
    )
    pods = tuple(
        NamedPod(str(namespace), str(name), str(address)) for namespace, name, address in data.get("pods", ())
    )
    machines = tuple((str(name), str(address)) for name, address in data.get("machines", ()))
    return Names(services, pods, machines)


def to_json(names: Names) -> dict[str, list[list[object]]]:
    """Plain lists, for the way to the responder."""
    return {
        "services": [[s.namespace, s.name, s.address, list(s.ports), list(s.endpoints)] for s in names.services],
        "pods": [[pod.namespace, pod.name, pod.address] for pod in names.pods],
        "machines": [list(machine) for machine in names.machines],
    }
