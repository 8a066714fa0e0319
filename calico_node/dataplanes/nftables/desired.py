"""The desired state: contract messages in, chains, sets and map elements of each family out.

Pure and incremental: a message marks what depends on it, ``refresh`` renders only that.  An object that cannot be
rendered, or that the kernel refused, is closed (its chain drops) and named in ``errors``.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping

from attrs import define

from calico_node.dataplanes.contract import (
    ActivePolicyRemove,
    ActivePolicyUpdate,
    ActiveProfileRemove,
    ActiveProfileUpdate,
    ConfigUpdate,
    DataplaneRule,
    HostEndpointRemove,
    HostEndpointUpdate,
    HostMetadataRemove,
    HostMetadataUpdate,
    IPPoolRemove,
    IPPoolUpdate,
    IPSetDeltaUpdate,
    IPSetRemove,
    IPSetType,
    IPSetUpdate,
    Message,
    ObjectID,
    WorkloadEndpointID,
    WorkloadEndpointRemove,
    WorkloadEndpointUpdate,
)
from calico_node.dataplanes.nftables import chains
from calico_node.dataplanes.nftables import expressions as e
from calico_node.dataplanes.nftables import layout as names
from calico_node.dataplanes.nftables.config import RenderConfig
from calico_node.dataplanes.nftables.layout import Chain, Family
from calico_node.dataplanes.nftables.matches import collapse, interface_name
from calico_node.dataplanes.nftables.members import parse_members, parse_net, set_shape
from calico_node.dataplanes.nftables.rules import RenderError, RuleOrigin, referenced_sets
from calico_node.dataplanes.nftables.tables import DesiredSet, DesiredTable
from calico_node.errors import DataplaneError, ValidationError
from calico_node.model import PolicyKey

CONFIGURATION = "felixconfiguration/merged"
"""The object that is at fault when a parameter cannot be used."""
_UNSUPPORTED_HOST_ENDPOINT = "host endpoints are not enforced by this version"


@define
class IPSet:
    kind: IPSetType
    error: str = ""


class Desired:
    """Everything the dataplane was told, and what follows from it."""

    def __init__(self, config: RenderConfig, families: Iterable[Family]) -> None:
        self.config = config
        self.tables = {family.version: DesiredTable(family) for family in families}
        self.policies: dict[PolicyKey, ActivePolicyUpdate] = {}
        self.profiles: dict[str, ActiveProfileUpdate] = {}
        self.endpoints: dict[WorkloadEndpointID, WorkloadEndpointUpdate] = {}
        self.host_endpoints: dict[str, HostEndpointUpdate] = {}
        self.ip_sets: dict[str, IPSet] = {}
        self.hosts: dict[str, HostMetadataUpdate] = {}
        self.pools: dict[str, IPPoolUpdate] = {}
        self.errors: dict[ObjectID, str] = {}
        self.refused: dict[ObjectID, str] = {}
        """Objects the kernel refused as they were, until they change."""
        self.touched: set[ObjectID] = set()
        """Objects whose status may have changed since it was last taken."""
        self._by_interface: dict[str, set[WorkloadEndpointID]] = defaultdict(set)
        self._policy_users: dict[tuple[PolicyKey, bool], set[WorkloadEndpointID]] = defaultdict(set)
        self._profile_users: dict[str, set[WorkloadEndpointID]] = defaultdict(set)
        self._set_users: dict[str, set[ObjectID]] = defaultdict(set)
        self._dirty_policies: set[PolicyKey] = set()
        self._dirty_profiles: set[str] = set()
        self._dirty_interfaces: set[str] = set()
        self._dirty_static = True
        self._dirty_pools = True
        self._dirty_sources = True

    # Messages

    def feed(self, message: Message) -> None:
        """Take a message in.  What cannot be used is noted in ``errors``, and closed."""
        match message:
            case IPSetUpdate():
                self._update_set(message)
            case IPSetDeltaUpdate():
                self._delta_set(message)
            case IPSetRemove():
                self._remove_set(message.id)
            case ActivePolicyUpdate():
                self._update_policy(message)
            case ActivePolicyRemove():
                self._forget_policy(message.key)
            case ActiveProfileUpdate():
                self._update_profile(message)
            case ActiveProfileRemove():
                self._forget_profile(message.name)
            case WorkloadEndpointUpdate():
                self._update_endpoint(message)
            case WorkloadEndpointRemove():
                self._forget_endpoint(message.id)
            case HostEndpointUpdate():
                self.host_endpoints[message.id] = message
                self._error(message.id, _UNSUPPORTED_HOST_ENDPOINT)
            case HostEndpointRemove():
                self.host_endpoints.pop(message.id, None)
                self._clear(message.id)
            case HostMetadataUpdate():
                self.hosts[message.hostname] = message
                self._dirty_pools = True
            case HostMetadataRemove():
                self.hosts.pop(message.hostname, None)
                self._dirty_pools = True
            case IPPoolUpdate():
                self.pools[message.cidr] = message
                self._dirty_pools = True
            case IPPoolRemove():
                self.pools.pop(message.cidr, None)
                self._dirty_pools = True
            case ConfigUpdate():
                self._update_config(message)

    def _update_config(self, message: ConfigUpdate) -> None:
        """A configuration that cannot be used leaves the one before it in place."""
        try:
            config = RenderConfig.parse(message.config)
        except DataplaneError as error:
            self._error(CONFIGURATION, str(error))
            return
        self._clear(CONFIGURATION)
        if config == self.config:
            return
        self.config = config
        self._dirty_static = self._dirty_pools = self._dirty_sources = True
        self._dirty_policies.update(self.policies)
        self._dirty_profiles.update(self.profiles)
        self._dirty_interfaces.update(self._by_interface)

    def refuse(self, owner: ObjectID, reason: str) -> None:
        """The kernel did not take ``owner`` as rendered: close it until it changes."""
        self.refused[owner] = reason
        self.touched.add(owner)
        if isinstance(owner, PolicyKey):
            self._dirty_policies.add(owner)
        elif isinstance(owner, WorkloadEndpointID):
            if owner in self.endpoints:
                self._dirty_interfaces.add(self.endpoints[owner].name)
        elif owner.startswith("profile/"):
            self._dirty_profiles.add(owner.removeprefix("profile/"))
        elif owner.startswith("ipset/"):
            set_id = owner.removeprefix("ipset/")
            if set_id in self.ip_sets:
                self._break_set(set_id, reason)

    def _error(self, owner: ObjectID, reason: str) -> None:
        self.errors[owner] = reason
        self.touched.add(owner)

    def _clear(self, owner: ObjectID) -> None:
        self.refused.pop(owner, None)
        if self.errors.pop(owner, None) is not None:
            self.touched.add(owner)

    # IP sets

    def _update_set(self, message: IPSetUpdate) -> None:
        owner = f"ipset/{message.id}"
        before = self.ip_sets.get(message.id)
        try:
            keys = parse_members(message.type, message.members)
        except ValidationError as error:
            self.ip_sets[message.id] = IPSet(message.type)
            self._break_set(message.id, str(error))
            return
        self._clear(owner)
        self.ip_sets[message.id] = IPSet(message.type)
        for table in self.tables.values():
            name = names.set_name(table.family, message.id)
            shape = set_shape(table.family, message.type)
            present = table.sets.get(name)
            if present is None or present.shape != shape:
                present = table.sets[name] = DesiredSet(shape, owner)
            present.replace(keys[table.family.version])
            table.changed_sets.add(name)
        if before is None or before.error or before.kind is not message.type:
            self._dirty_owners(self._set_users.get(message.id, ()))

    def _delta_set(self, message: IPSetDeltaUpdate) -> None:
        present = self.ip_sets.get(message.id)
        if present is None or present.error:
            if present is None:
                self._error(f"ipset/{message.id}", "a delta came before the set itself")
            return
        try:
            added = parse_members(present.kind, message.added)
            removed = parse_members(present.kind, message.removed)
        except ValidationError as error:
            self._break_set(message.id, str(error))
            return
        for table in self.tables.values():
            version = table.family.version
            if not added[version] and not removed[version]:
                continue
            name = names.set_name(table.family, message.id)
            content = table.sets[name]
            for key in removed[version]:
                content.remove(key)
            for key in added[version]:
                content.add(key)
            table.changed_sets.add(name)

    def _break_set(self, set_id: str, reason: str) -> None:
        """Nothing certain can be said of the set's members: whoever looks it up is closed."""
        self.ip_sets[set_id].error = reason
        self._error(f"ipset/{set_id}", reason)
        self._drop_set(set_id)
        self._dirty_owners(self._set_users.get(set_id, ()))

    def _drop_set(self, set_id: str) -> None:
        for table in self.tables.values():
            name = names.set_name(table.family, set_id)
            if table.sets.pop(name, None) is not None:
                table.changed_sets.add(name)

    def _remove_set(self, set_id: str) -> None:
        self._clear(f"ipset/{set_id}")
        if self.ip_sets.pop(set_id, None) is None:
            return
        self._drop_set(set_id)
        self._dirty_owners(self._set_users.get(set_id, ()))

    def _dirty_owners(self, owners: Iterable[ObjectID]) -> None:
        for owner in owners:
            if isinstance(owner, PolicyKey):
                self._dirty_policies.add(owner)
            elif isinstance(owner, str):
                self._dirty_profiles.add(owner.removeprefix("profile/"))

    def _use_sets(self, owner: ObjectID, before: Iterable[DataplaneRule], after: Iterable[DataplaneRule]) -> None:
        old = frozenset().union(*map(referenced_sets, before))
        new = frozenset().union(*map(referenced_sets, after))
        for set_id in old - new:
            self._set_users[set_id].discard(owner)
            if not self._set_users[set_id]:
                del self._set_users[set_id]
        for set_id in new - old:
            self._set_users[set_id].add(owner)

    # Policies and profiles

    def _update_policy(self, message: ActivePolicyUpdate) -> None:
        before = self.policies.get(message.key)
        self.policies[message.key] = message
        self.refused.pop(message.key, None)
        self._dirty_policies.add(message.key)
        self._use_sets(message.key, _rules(before), _rules(message))
        if before is None:
            self._dirty_users(message.key)

    def _forget_policy(self, key: PolicyKey) -> None:
        before = self.policies.pop(key, None)
        self._clear(key)
        if before is not None:
            self._use_sets(key, _rules(before), ())
            self._dirty_policies.add(key)
            self._dirty_users(key)

    def _dirty_users(self, key: PolicyKey) -> None:
        for inbound in (True, False):
            self._dirty_endpoints(self._policy_users.get((key, inbound), ()))

    def _dirty_endpoints(self, users: Iterable[WorkloadEndpointID]) -> None:
        self._dirty_interfaces.update(self.endpoints[user].name for user in users)

    def _update_profile(self, message: ActiveProfileUpdate) -> None:
        before = self.profiles.get(message.name)
        self.profiles[message.name] = message
        self.refused.pop(f"profile/{message.name}", None)
        self._dirty_profiles.add(message.name)
        self._use_sets(f"profile/{message.name}", _rules(before), _rules(message))
        if before is None:
            self._dirty_endpoints(self._profile_users.get(message.name, ()))

    def _forget_profile(self, name: str) -> None:
        before = self.profiles.pop(name, None)
        self._clear(f"profile/{name}")
        if before is not None:
            self._use_sets(f"profile/{name}", _rules(before), ())
            self._dirty_profiles.add(name)
            self._dirty_endpoints(self._profile_users.get(name, ()))

    # Endpoints

    def _update_endpoint(self, message: WorkloadEndpointUpdate) -> None:
        before = self.endpoints.get(message.id)
        if before is not None:
            self._unindex_endpoint(before)
        self.endpoints[message.id] = message
        self.refused.pop(message.id, None)
        self._by_interface[message.name].add(message.id)
        for key, inbound in _policies(message):
            users = self._policy_users[(key, inbound)]
            if not users:
                self._dirty_policies.add(key)
            users.add(message.id)
        for profile in message.profile_ids:
            if not self._profile_users[profile]:
                self._dirty_profiles.add(profile)
            self._profile_users[profile].add(message.id)
        self._dirty_interfaces.add(message.name)
        if message.allow_spoofed_source_prefixes:
            self._dirty_sources = True
        self.touched.add(message.id)

    def _forget_endpoint(self, endpoint: WorkloadEndpointID) -> None:
        before = self.endpoints.get(endpoint)
        self._clear(endpoint)
        self.touched.discard(endpoint)
        if before is not None:
            self._unindex_endpoint(before)
            del self.endpoints[endpoint]

    def _unindex_endpoint(self, endpoint: WorkloadEndpointUpdate) -> None:
        self._by_interface[endpoint.name].discard(endpoint.id)
        self._dirty_interfaces.add(endpoint.name)
        for key, inbound in _policies(endpoint):
            users = self._policy_users[(key, inbound)]
            users.discard(endpoint.id)
            if not users:
                del self._policy_users[(key, inbound)]
                self._dirty_policies.add(key)
        for profile in endpoint.profile_ids:
            users = self._profile_users[profile]
            users.discard(endpoint.id)
            if not users:
                del self._profile_users[profile]
                self._dirty_profiles.add(profile)
        if endpoint.allow_spoofed_source_prefixes:
            self._dirty_sources = True

    # Rendering

    @property
    def backlog(self) -> int:
        """How many objects ``refresh`` would render; hosts and pools count for little each."""
        dirty = len(self._dirty_policies) + len(self._dirty_profiles) + len(self._dirty_interfaces)
        if self._dirty_pools:
            dirty += (len(self.hosts) + len(self.pools)) // 50
        return dirty + (1 if self._dirty_static else 0)

    def refresh(self) -> None:
        """Render what the messages since the last call have made out of date."""
        if self._dirty_static:
            for table in self.tables.values():
                for chain in chains.static_chains(table.family, self.config):
                    table.put_chain(chain)
        if self._dirty_static or self._dirty_pools:
            self._refresh_pools()
        for key in self._dirty_policies:
            self._refresh_policy(key)
        for profile in self._dirty_profiles:
            self._refresh_profile(profile)
        for interface in self._dirty_interfaces:
            self._refresh_interface(interface)
        if self._dirty_sources:
            self._refresh_sources()
        self._dirty_static = self._dirty_pools = self._dirty_sources = False
        self._dirty_policies.clear()
        self._dirty_profiles.clear()
        self._dirty_interfaces.clear()

    def _refresh_policy(self, key: PolicyKey) -> None:
        policy = self.policies.get(key)
        directions = {}
        for inbound in (True, False):
            name = names.policy_chain_name(key, inbound=inbound)
            if policy is None or (key, inbound) not in self._policy_users:
                self._drop_chain(name)
            else:
                directions[name] = policy.inbound_rules if inbound else policy.outbound_rules
        if policy is not None:
            self._render_rules(key, directions, RuleOrigin(policy.tier, key))

    def _refresh_profile(self, name: str) -> None:
        profile = self.profiles.get(name)
        directions = {}
        for inbound in (True, False):
            chain_name = names.profile_chain_name(name, inbound=inbound)
            if profile is None or name not in self._profile_users:
                self._drop_chain(chain_name)
            else:
                directions[chain_name] = profile.inbound_rules if inbound else profile.outbound_rules
        if profile is not None:
            self._render_rules(f"profile/{name}", directions, RuleOrigin(profile=name))

    def _drop_chain(self, name: str) -> None:
        for table in self.tables.values():
            table.drop_chain(name)

    def _render_rules(
        self, owner: ObjectID, directions: Mapping[str, tuple[DataplaneRule, ...]], origin: RuleOrigin
    ) -> None:
        """The chains of an object's used directions; all of them closed where one rule cannot be enforced."""
        reason = self.refused.get(owner, "") or next(filter(None, map(self._missing_set, directions.values())), "")
        rendered: list[tuple[DesiredTable, Chain]] = []
        try:
            for name, rules in directions.items():
                for table in self.tables.values():
                    if reason:
                        chain = chains.closed_chain(name, reason)
                    else:
                        chain = chains.policy_chain(table.family, self.config, name, rules, origin)
                    rendered.append((table, chain))
        except RenderError as error:
            reason = str(error)
            rendered = [
                (table, chains.closed_chain(name, reason)) for name in directions for table in self.tables.values()
            ]
        for table, chain in rendered:
            table.put_chain(chain, owner)
        self._settle_error(owner, reason)

    def _missing_set(self, rules: tuple[DataplaneRule, ...]) -> str:
        """Which IP set of ``rules`` cannot be looked up and why, "" when all can."""
        for number, rule in enumerate(rules, 1):
            for set_id in sorted(referenced_sets(rule)):
                if set_id not in self.ip_sets:
                    return f"rule {number}: IP set {set_id} is not known"
                if self.ip_sets[set_id].error:
                    return f"rule {number}: IP set {set_id}: {self.ip_sets[set_id].error}"
        return ""

    def _settle_error(self, owner: ObjectID, reason: str) -> None:
        if reason:
            self._error(owner, reason)
        elif self.errors.pop(owner, None) is not None:
            self.touched.add(owner)

    def _refresh_interface(self, interface: str) -> None:
        claimants = sorted(
            self._by_interface.get(interface, ()), key=lambda i: (i.orchestrator, i.workload, i.endpoint)
        )
        if not claimants:
            self._by_interface.pop(interface, None)
        for loser in claimants[1:]:
            winner = claimants[0]
            self._error(loser, f"interface {interface} belongs to {winner.workload} {winner.endpoint}")
        fault = self._interface_error(interface)
        for inbound, map_name in ((True, names.TO_WORKLOAD_DISPATCH), (False, names.FROM_WORKLOAD_DISPATCH)):
            name = names.workload_chain_name(interface, inbound=inbound)
            for table in self.tables.values():
                if fault or not claimants:
                    table.drop_chain(name)
                    table.put_element(map_name, interface_name(interface), None)
                    continue
                table.put_chain(self._workload_chain(self.endpoints[claimants[0]], inbound=inbound), claimants[0])
                table.put_element(map_name, interface_name(interface), e.Verdict(e.NFT_GOTO, name))
        if claimants:
            endpoint = self.endpoints[claimants[0]]
            reason = fault or self.refused.get(endpoint.id, "") or self._prefix_error(endpoint)
            self._settle_error(endpoint.id, reason)

    def _interface_error(self, interface: str) -> str:
        if not interface.startswith(self.config.interface_prefixes):
            prefixes = ", ".join(self.config.interface_prefixes)
            return f"interface {interface!r} does not begin with the workload interface prefix ({prefixes})"
        if len(interface.encode()) > 15 or not interface.isprintable() or "/" in interface or " " in interface:
            return f"{interface!r} cannot be an interface name"
        return ""

    def _prefix_error(self, endpoint: WorkloadEndpointUpdate) -> str:
        """Such an endpoint may use its own addresses only."""
        try:
            for prefix in endpoint.allow_spoofed_source_prefixes:
                parse_net(prefix)
        except ValidationError as error:
            return f"allowed source prefix: {error}"
        return ""

    def _workload_chain(self, endpoint: WorkloadEndpointUpdate, *, inbound: bool) -> Chain:
        if endpoint.id in self.refused:
            name = names.workload_chain_name(endpoint.name, inbound=inbound)
            return chains.closed_chain(name, self.refused[endpoint.id])
        return chains.workload_chain(
            self.config,
            endpoint,
            inbound=inbound,
            policy_known=self.policies.__contains__,
            profile_known=self.profiles.__contains__,
        )

    def _refresh_sources(self) -> None:
        spoofers = [
            endpoint
            for endpoint in self.endpoints.values()
            if endpoint.allow_spoofed_source_prefixes
            and not self._interface_error(endpoint.name)
            and not self._prefix_error(endpoint)
        ]
        for table in self.tables.values():
            table.put_chain(chains.reverse_path_chain(table.family, spoofers))

    def _refresh_pools(self) -> None:
        workload_pools = [pool for pool in self.pools.values() if set(pool.allowed_uses) - {"LoadBalancer"}]
        masqueraded = [pool.cidr for pool in self.pools.values() if pool.masquerade]
        for table in self.tables.values():
            hosts = [
                address.partition("/")[0]
                for host in self.hosts.values()
                for address in (host.ipv4_addr, host.ipv6_addr)
                if address
            ]
            content = {
                chains.ALL_POOLS: [pool.cidr for pool in workload_pools],
                chains.MASQUERADED_POOLS: masqueraded,
                chains.ALL_HOSTS: [*hosts, *self.config.external_nodes],
            }
            for set_id, nets in content.items():
                self._put_special_set(table, set_id, nets)
            masquerading = bool(table.sets[names.set_name(table.family, chains.MASQUERADED_POOLS)].keys)
            table.put_chain(chains.nat_outgoing_chain(table.family, self.config, masquerading=masquerading))

    def _put_special_set(self, table: DesiredTable, set_id: str, nets: Iterable[str]) -> None:
        good = []
        reason = ""
        for net in nets:
            try:
                parse_net(net)
                good.append(net)
            except ValidationError as error:
                reason = str(error)
        self._settle_error(f"ipset/{set_id}", reason)
        keys = {parse_net(str(net))[1] for net in collapse(good, table.family)}
        name = names.set_name(table.family, set_id)
        content = table.sets.setdefault(name, DesiredSet(set_shape(table.family, IPSetType.NET), None))
        content.replace(keys)
        table.changed_sets.add(name)


def _rules(update: ActivePolicyUpdate | ActiveProfileUpdate | None) -> tuple[DataplaneRule, ...]:
    return () if update is None else (*update.inbound_rules, *update.outbound_rules)


def _policies(endpoint: WorkloadEndpointUpdate) -> Iterable[tuple[PolicyKey, bool]]:
    for tier in endpoint.tiers:
        for key in tier.ingress_policies:
            yield key, True
        for key in tier.egress_policies:
            yield key, False
