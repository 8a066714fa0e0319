"""The host's interfaces as events, and static neighbours."""

from __future__ import annotations

from collections.abc import AsyncGenerator
from typing import NamedTuple

from calico_node.linux.netlink import HEADER_LENGTH, NETLINK_ROUTE, NetlinkSocket, Subscription, message_type
from calico_node.linux.rtnetlink import (
    RTM_DELLINK,
    RTM_NEWLINK,
    RTNLGRP_LINK,
    Link,
    get_link,
    get_links,
    permanent_neighbour,
    read_link,
)


class LinksView(NamedTuple):
    """All interfaces by name, and the names that came, went or changed their state since the view before."""

    links: dict[str, Link]
    changed: frozenset[str]

    @property
    def up(self) -> frozenset[str]:
        """The names of those with carrier."""
        return frozenset(name for name, link in self.links.items() if link.running)


async def watch_links(*, netns: int | str | None = None) -> AsyncGenerator[LinksView, None]:
    """First the interfaces as they are, then again after each change (coalesced).

    An interface that was deleted and made anew under its name counts as changed even if both happened between two
    views.  Raises ``NetlinkError`` when the kernel cannot be asked.
    """
    with (
        Subscription(NETLINK_ROUTE, (RTNLGRP_LINK,), netns=netns) as subscription,
        NetlinkSocket(NETLINK_ROUTE, netns=netns) as sock,
    ):
        by_index = await _read(sock)
        yield LinksView(_by_name(by_index), frozenset(link.name for link in by_index.values()))
        while True:
            messages, lost = await subscription.receive()
            changed: set[str] = set()
            for msg in messages:
                kind, payload = message_type(msg), msg[HEADER_LENGTH:]
                if kind not in (RTM_NEWLINK, RTM_DELLINK) or payload[0] != 0:
                    continue
                link = read_link(payload)
                old = by_index.get(link.ifindex)
                if kind == RTM_DELLINK:
                    by_index.pop(link.ifindex, None)
                else:
                    by_index[link.ifindex] = link
                changed |= _difference(old, link if kind == RTM_NEWLINK else None)
            if lost:
                before, by_index = by_index, await _read(sock)
                for index in before.keys() | by_index.keys():
                    changed |= _difference(before.get(index), by_index.get(index))
            if changed:
                yield LinksView(_by_name(by_index), frozenset(changed))


async def _read(sock: NetlinkSocket) -> dict[int, Link]:
    links = [read_link(payload) for payload in await sock.dump(get_links(), "read interfaces")]
    return {link.ifindex: link for link in links}


def _by_name(links: dict[int, Link]) -> dict[str, Link]:
    return {link.name: link for link in links.values()}


def _difference(old: Link | None, new: Link | None) -> set[str]:
    if old == new:
        return set()
    return {link.name for link in (old, new) if link is not None}


async def set_static_neighbour(device: str, address: str, mac: str, *, netns: int | str | None = None) -> None:
    """A permanent ARP or NDP entry on ``device``.  Raises ``NetlinkError``, also where there is no such device."""
    what = f"neighbour {address} on {device}"
    with NetlinkSocket(NETLINK_ROUTE, netns=netns) as sock:
        link = read_link((await sock.query(get_link(device), what))[0])
        errors = await sock.request([permanent_neighbour(link.ifindex, address, mac)], what=what)
        if errors[0] is not None:
            raise errors[0]
