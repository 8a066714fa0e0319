"""The user's documents, read, sorted and checked.  Nothing is applied before all of them have passed.

Calico resources and Lab documents are strict: unknown kinds and fields are refused.  Kubernetes kinds that mean
something to the network get the API server's defaults and are checked for what matters here; every other kind, and
what a pod's specification says of other things than the network, is left out and named once.
"""

from __future__ import annotations

import sys
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from attrs import define, field, frozen

from calico_node.errors import LabError, ValidationError
from calico_node.kubernetes import Object, Ref, apply_api_defaults, is_kubernetes, ref_of
from calico_node.kubernetes import validate as validate_kubernetes
from calico_node.lab import spec as lab_spec
from calico_node.resources import Document, Resource, apply_defaults, expand_lists, load_documents, validate

SUFFIXES = (".yaml", ".yml", ".json")
POLICY_KINDS = (
    "NetworkPolicy",
    "GlobalNetworkPolicy",
    "StagedNetworkPolicy",
    "StagedGlobalNetworkPolicy",
    "StagedKubernetesNetworkPolicy",
)
BUILT_IN_TIERS = ("default", "kube-admin", "kube-baseline")
_FIRST = ("ClusterInformation", "IPPool", "IPReservation", "BGPConfiguration", "FelixConfiguration", "Tier")
"""Kinds that others lean on, in the order they are applied."""
_POD_FIELDS = frozenset(
    ("nodeName", "nodeSelector", "hostname", "subdomain", "serviceAccountName", "serviceAccount", "hostNetwork",
     "containers", "initContainers")
)  # fmt: skip
_CONTAINER_FIELDS = frozenset(("name", "ports"))
_Seen = dict[tuple[str, Ref], tuple[object, str]]
"""What each name stands for so far, and where that is."""


@frozen
class Source:
    """The text of one file."""

    name: str
    text: str


@define
class Intake:
    """What the documents hold; ``skipped`` names kinds and pod fields without meaning here."""

    lab: lab_spec.LabSpec = field(factory=lab_spec.LabSpec)
    calico: list[Resource] = field(factory=list)
    kubernetes: dict[Ref, Object] = field(factory=dict)
    skipped: list[str] = field(factory=list)
    origins: dict[Ref, str] = field(factory=dict)

    @property
    def policies(self) -> Intake:
        """Only the policies, Calico's and Kubernetes'."""
        return Intake(
            calico=[resource for resource in self.calico if resource.kind in POLICY_KINDS],
            kubernetes={ref: item for ref, item in self.kubernetes.items() if ref.kind == "NetworkPolicy"},
            origins=self.origins,
        )

    @property
    def without_policies(self) -> Intake:
        """All but the policies."""
        return Intake(
            lab=self.lab,
            calico=[resource for resource in self.calico if resource.kind not in POLICY_KINDS],
            kubernetes={ref: item for ref, item in self.kubernetes.items() if ref.kind != "NetworkPolicy"},
            skipped=self.skipped,
            origins=self.origins,
        )

    @property
    def summary(self) -> str:
        """One line that names what was left out; "" when nothing was."""
        return f"left out, without meaning for the network: {', '.join(self.skipped)}" if self.skipped else ""


def read_sources(paths: Iterable[str]) -> list[Source]:
    """The files named, and those in the folders named: their ``.yaml``, ``.yml`` and ``.json`` files in order of
    their names, without sub-folders, as kubectl reads them; ``-`` is standard input.  Raises ``LabError`` for one
    that cannot be read."""
    sources: list[Source] = []
    for text in paths:
        if text == "-":
            sources.append(Source("standard input", sys.stdin.read()))
            continue
        path = Path(text)
        if path.is_dir():
            files = sorted(item for item in path.iterdir() if item.suffix in SUFFIXES and item.is_file())
            if not files:
                raise LabError(f"{text}: no {', '.join(SUFFIXES)} files in this folder")
        else:
            files = [path]
        for file in files:
            try:
                sources.append(Source(str(file), file.read_text(encoding="utf-8")))
            except (OSError, UnicodeDecodeError) as error:
                reason = error.strerror if isinstance(error, OSError) else "is not UTF-8 text"
                raise LabError(f"{file}: {reason}") from None
    return sources


def read(sources: Iterable[Source], *, tiers: Iterable[str] = ()) -> Intake:
    """Parse and check everything.  ``tiers`` are those that exist already.

    Raises ``ValidationError`` for the first document that is refused, with file, document, resource, field, value
    and reason.
    """
    intake = Intake()
    labs: list[lab_spec.LabSpec] = []
    skipped: dict[str, None] = {}
    documents: list[tuple[Resource, Document]] = []
    seen: _Seen = {}
    for source in sources:
        loaded = [item for item in load_documents(source.text, source.name) if not _is_probe_list(item.data)]
        for document in expand_lists(loaded):
            kind = _kind(document)
            group = str(document.data["apiVersion"]).partition("/")[0]
            if group == "lab.calico-node":
                labs.append(_lab(document, kind))
            elif group.endswith("projectcalico.org"):
                resource = _calico(document)
                ref = Ref(resource.kind, resource.metadata.namespace, resource.metadata.name)
                if _first(document, ref, resource, seen):
                    documents.append((resource, document))
            elif is_kubernetes(document.data):
                _kubernetes(document, intake, skipped, seen)
            else:
                _not_a_misspelt_group(document, group)
                skipped[kind] = None
    _check_tiers(documents, {*BUILT_IN_TIERS, *tiers})
    order = {kind: index for index, kind in enumerate(_FIRST)}
    intake.calico = sorted((resource for resource, _ in documents), key=lambda r: order.get(r.kind, len(order)))
    intake.lab = lab_spec.merge(labs)
    intake.skipped = list(skipped)
    return intake


def refuse_nothing(sources: Sequence[Source], intake: Intake) -> None:
    """Raises ``LabError`` where files were given and nothing is in any of them: more likely a mistake than a wish."""
    if sources and intake == Intake():
        raise LabError(f"{', '.join(source.name for source in sources)}: no documents")


def _is_probe_list(data: object) -> bool:
    """Whether this is a list of probes or expectations: it may lie in the folder of the documents it belongs to."""
    return (
        isinstance(data, list)
        and bool(data)
        and all(isinstance(item, Mapping) and {"from", "to"} <= item.keys() for item in data)
    )


def _kind(document: Document) -> str:
    data = document.data
    if not isinstance(data, Mapping):
        raise ValidationError("a document must be a map", value=data, origin=document.origin())
    for name in ("apiVersion", "kind"):
        if not isinstance(data.get(name), str) or not data[name]:
            raise ValidationError("is required", field=name, value=data.get(name), origin=document.origin(name))
    return str(data["kind"])


def _lab(document: Document, kind: str) -> lab_spec.LabSpec:
    for name, value, wanted in (
        ("apiVersion", document.data["apiVersion"], lab_spec.API_VERSION),
        ("kind", kind, "Lab"),
    ):
        if value != wanted:
            raise ValidationError(f"must be {wanted}", field=name, value=value, origin=document.origin(name))
    try:
        return lab_spec.parse(document.data, document.origin())
    except ValidationError as error:
        raise document.located(error) from None


def _calico(document: Document) -> Resource:
    resource = document.resource()
    try:
        apply_defaults(resource)
        validate(resource)
    except ValidationError as error:
        raise document.located(error) from None
    return resource


def _first(document: Document, ref: Ref, content: object, seen: _Seen) -> bool:
    """Whether nothing of this name was there before.  The same again does no harm; something else of the name would
    silently take the first one's place, and is refused."""
    # Kubernetes' NetworkPolicy and Calico's are different kinds of one name.
    key = (str(document.data["apiVersion"]), ref)
    if key not in seen:
        seen[key] = content, document.origin()
        return True
    earlier, where = seen[key]
    if earlier == content:
        return False
    raise ValidationError(
        f"another one of this name is in {where}",
        resource=str(ref),
        field="metadata.name",
        value=ref.name,
        origin=document.origin("metadata.name"),
    )


def _kubernetes(document: Document, intake: Intake, skipped: dict[str, None], seen: _Seen) -> None:
    item = apply_api_defaults(document.data)
    try:
        validate_kubernetes(item)
    except ValidationError as error:
        raise document.located(error) from None
    ref = ref_of(item)
    _first(document, ref, item, seen)
    intake.kubernetes[ref] = item
    intake.origins[ref] = document.origin()
    for name in _meaningless(item):
        skipped[name] = None


def _meaningless(item: Object) -> list[str]:
    """Fields of the pod specification in ``item`` that the network knows nothing of."""
    spec = item.get("spec") or {}
    if item["kind"] == "CronJob":
        spec = (spec.get("jobTemplate") or {}).get("spec") or {}
    if item["kind"] not in ("Pod", "Namespace", "ServiceAccount", "Service", "NetworkPolicy"):
        spec = (spec.get("template") or {}).get("spec") or {}
    elif item["kind"] != "Pod":
        return []
    found = [f"Pod spec.{name}" for name in spec if name not in _POD_FIELDS]
    for group in ("containers", "initContainers"):
        for container in spec.get(group) or ():
            found += [f"Pod spec.{group}.{name}" for name in container if name not in _CONTAINER_FIELDS]
    return found


def _not_a_misspelt_group(document: Document, group: str) -> None:
    """``projectcalico/v3`` or ``calico.org/v3`` would otherwise be skipped as some other Kubernetes kind."""
    if "calico" in group.lower():
        raise ValidationError(
            f"unknown API group; Calico's resources are projectcalico.org/v3, a lab is {lab_spec.API_VERSION}",
            field="apiVersion",
            value=document.data["apiVersion"],
            origin=document.origin("apiVersion"),
        )


def _check_tiers(documents: Sequence[tuple[Resource, Document]], tiers: set[str]) -> None:
    known = tiers | {resource.metadata.name for resource, _ in documents if resource.kind == "Tier"}
    for resource, document in documents:
        tier: Any = getattr(getattr(resource, "spec", None), "tier", None)
        if resource.kind in POLICY_KINDS and tier and tier not in known:
            name = "/".join(part for part in (resource.metadata.namespace, resource.metadata.name) if part)
            raise document.located(
                ValidationError(
                    f"there is no such tier; known are {', '.join(sorted(known))}",
                    resource=f"{resource.kind}({name})",
                    field="spec.tier",
                    value=tier,
                )
            )
