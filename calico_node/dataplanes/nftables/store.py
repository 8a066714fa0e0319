"""The kernel's nf_tables: reading tables of ours, committing steps in atomic batches."""

from __future__ import annotations

import errno
import time
from collections.abc import Iterable, Sequence

from attrs import define, field

from calico_node.dataplanes.contract import ObjectID
from calico_node.dataplanes.nftables import codec
from calico_node.dataplanes.nftables.layout import TABLE, Family, hash_of_comment
from calico_node.dataplanes.nftables.members import SetShape
from calico_node.dataplanes.nftables.plan import KnownChain, KnownSet, KnownTable, Step
from calico_node.dataplanes.nftables.tables import MAPS
from calico_node.errors import NetlinkError
from calico_node.linux.netlink import NETLINK_NETFILTER, NetlinkSocket

_BATCH_BYTES = 4 * 1024 * 1024


@define
class Outcome:
    """``refused`` the objects whose messages the kernel did not take, with its reason; then the batch they were in
    did not happen, nor any later one.  ``stale`` says that the tables are not what we thought."""

    refused: dict[ObjectID, str] = field(factory=dict)
    stale: bool = False
    error: str = ""
    seconds: float = 0.0
    batches: int = 0

    @property
    def ok(self) -> bool:
        return not self.refused and not self.stale and not self.error


class Store:
    """One netlink socket; ``netns`` (path or descriptor) for another network namespace than the caller's.

    Its methods block while the kernel works, one caller at a time: large work belongs in a worker thread.
    """

    def __init__(self, netns: int | str | None = None) -> None:
        self._socket = NetlinkSocket(NETLINK_NETFILTER, netns=netns)
        self.max_bytes = min(_BATCH_BYTES, self._socket.max_bytes - 256)

    def close(self) -> None:
        self._socket.close()

    def has_table(self, family: Family) -> bool:
        tables = self._socket.dump_now(codec.get_tables(family.number), "list tables")
        return TABLE in [codec.parse_table(payload) for payload in tables]

    def read(self, family: Family) -> KnownTable:
        """Our table of ``family`` as it is.  Raises ``NetlinkError``."""
        known = KnownTable()
        if not self.has_table(family):
            return known
        known.exists = True
        for payload in self._socket.dump_now(codec.get_chains(family.number), "list chains"):
            table, chain = codec.parse_chain(payload)
            if table == TABLE:
                known.chains[chain.name] = KnownChain((), chain.hook)
        hashes: dict[str, list[str]] = {name: [] for name in known.chains}
        for payload in self._socket.dump_now(codec.get_rules(family.number, TABLE), "list rules"):
            table, rule = codec.parse_rule(payload)
            if table == TABLE and rule.chain in hashes:
                hashes[rule.chain].append(hash_of_comment(rule.comment))
        for name, found in hashes.items():
            known.chains[name].hashes = tuple(found)
        for payload in self._socket.dump_now(codec.get_sets(family.number, TABLE), "list sets"):
            table, kernel_set = codec.parse_set(payload)
            if table == TABLE and not kernel_set.anonymous:
                self._read_set(family, known, kernel_set)
        return known

    def _read_set(self, family: Family, known: KnownTable, kernel_set: codec.KernelSet) -> None:
        try:
            payloads = self._socket.dump_now(
                codec.get_elements(family.number, TABLE, kernel_set.name), f"list set {kernel_set.name}"
            )
        except NetlinkError as error:
            if error.errno == errno.ENOENT:
                return
            raise
        if kernel_set.flags & codec.SET_MAP:
            if kernel_set.name in MAPS:
                known.maps[kernel_set.name] = {
                    key: verdict for payload in payloads for key, verdict in codec.parse_verdicts(payload)
                }
            return
        shape = SetShape(kernel_set.key_type, kernel_set.key_length, bool(kernel_set.flags & codec.SET_INTERVAL))
        members = (member for payload in payloads for member in codec.parse_members(payload))
        known.sets[kernel_set.name] = KnownSet(shape, shape.keys_of_dump(members))

    def generation(self) -> int:
        """A number that every committed transaction in this network namespace, anybody's, moves."""
        payloads = self._socket.query_now(codec.get_generation(), "nf_tables generation")
        return codec.parse_generation(payloads[0])

    def commit(self, steps: Iterable[Step]) -> Outcome:
        """Send the steps in as few transactions as fit the socket, in order, stopping at the first refused."""
        outcome = Outcome()
        pending: list[Step] = []
        size = 0
        for step in steps:
            length = step.size
            if length > self.max_bytes:
                reason = f"{length} bytes of rules are more than one transaction can hold ({self.max_bytes})"
                if step.owner is None:
                    outcome.error = reason
                else:
                    outcome.refused[step.owner] = reason
                return outcome
            if pending and size + length > self.max_bytes:
                self._send(pending, outcome)
                if not outcome.ok:
                    return outcome
                pending, size = [], 0
            pending.append(step)
            size += length
        if pending:
            self._send(pending, outcome)
        return outcome

    def _send(self, steps: Sequence[Step], outcome: Outcome) -> None:
        messages = [message for step in steps for message in step.messages]
        batch = codec.batch(messages)
        started = time.perf_counter()
        try:
            results = self._socket.request_now(batch, atomic=True, what="nf_tables")
        except NetlinkError as error:
            outcome.error = str(error)
            outcome.stale = True
            return
        finally:
            outcome.seconds += time.perf_counter() - started
            outcome.batches += 1
        if not any(results):
            for step in steps:
                step.done()
            return
        self._blame(steps, results[1:-1], outcome)
        whole = results[0] or results[-1]
        if not outcome.refused and not outcome.error:
            outcome.error = str(whole)

    def _blame(self, steps: Sequence[Step], results: Sequence[NetlinkError | None], outcome: Outcome) -> None:
        """Find whose messages were refused; a thing missing or there already means that our picture is old."""
        position = 0
        for step in steps:
            answers = results[position : position + len(step.messages)]
            position += len(step.messages)
            error = next((answer for answer in answers if answer is not None), None)
            if error is None:
                continue
            if error.errno in (errno.ENOENT, errno.EEXIST, errno.EBUSY):
                outcome.stale = True
            if step.owner is None:
                outcome.error = outcome.error or str(error)
            else:
                outcome.refused[step.owner] = str(error)
