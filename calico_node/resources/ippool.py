"""Address management: pools, reservations, block affinities and the allocator's configuration."""

# ruff: noqa: RUF009 - the calls in class bodies declare fields (calico_node.resources.fields)

from typing import Any, ClassVar

from attrs import define

from calico_node.resources import checks
from calico_node.resources.fields import Codec, Fault, Struct, always, lst, opt, req
from calico_node.resources.meta import Resource
from calico_node.resources.policy import ConditionsStatus

_ENCAPSULATION = checks.one_of("Never", "Always", "CrossSubnet")


@define(kw_only=True)
class IPPoolSpec(Struct):
    """``nat_outgoing``, ``disabled`` and ``disable_bgp_export`` False mean the same as None."""

    cidr: str = req(check=checks.all_of(checks.at_most_long(48), checks.strict_cidr))
    vxlan_mode: str | None = opt(check=_ENCAPSULATION)
    ipip_mode: str | None = opt(check=_ENCAPSULATION)
    nat_outgoing: bool | None = opt(zero=True)
    disabled: bool | None = opt(zero=True)
    disable_bgp_export: bool | None = opt("disableBGPExport", zero=True)
    block_size: int | None = opt(zero=True)
    node_selector: str | None = opt(check=checks.scoped_selector)
    namespace_selector: str | None = opt(check=checks.scoped_selector)
    allowed_uses: list[str] = lst(each=checks.one_of("Workload", "Tunnel", "LoadBalancer"))
    assignment_mode: str | None = opt(check=checks.one_of("Automatic", "Manual"))


@define(kw_only=True)
class IPPool(Resource):
    kind: ClassVar[str] = "IPPool"
    spec: IPPoolSpec = always(IPPoolSpec)
    status: ConditionsStatus | None = opt()


@define(kw_only=True)
class IPReservationSpec(Struct):
    reserved_cidrs: list[str] = lst("reservedCIDRs", each=checks.cidr_with_length)


@define(kw_only=True)
class IPReservation(Resource):
    kind: ClassVar[str] = "IPReservation"
    spec: IPReservationSpec = always(IPReservationSpec)


@define(kw_only=True)
class IPAMConfigurationSpec(Struct):
    """``max_blocks_per_host`` 0 or None means no limit."""

    strict_affinity: bool = opt(default=False, always=True)
    auto_allocate_blocks: bool = opt(default=True, always=True)
    max_blocks_per_host: int | None = opt(check=checks.between(0, 1_000_000))
    kube_virt_vm_address_persistence: str | None = opt(
        "kubeVirtVMAddressPersistence", checks.one_of("Enabled", "Disabled")
    )
    ip_cooldown_seconds: int | None = opt(check=checks.between(0, 1200))


@define(kw_only=True)
class IPAMConfiguration(Resource):
    kind: ClassVar[str] = "IPAMConfiguration"
    spec: IPAMConfigurationSpec = always(IPAMConfigurationSpec)


def _read_deleted(raw: Any) -> str | bool:
    if isinstance(raw, bool) or raw in ("true", "false"):
        return raw  # type: ignore[no-any-return]
    raise Fault("must be true or false", raw)


@define(kw_only=True)
class BlockAffinitySpec(Struct):
    """``deleted`` is the text "true" or "false" in some stores and a bool in others; it is kept as found."""

    state: str = req(check=checks.one_of("confirmed", "pending", "pendingDeletion"))
    node: str = req()
    type: str | None = opt(check=checks.one_of("host", "virtual"))
    cidr: str = req(check=checks.strict_cidr)
    deleted: str | bool = opt(default="false", codec=Codec(_read_deleted), always=True)


@define(kw_only=True)
class BlockAffinity(Resource):
    kind: ClassVar[str] = "BlockAffinity"
    spec: BlockAffinitySpec = always(BlockAffinitySpec)
