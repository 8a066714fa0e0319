"""BGP messages to bytes and back."""

from calico_node.plugins.bgp.packet.attributes import LLGR_STALE, NO_LLGR, Attributes, Context, Segment
from calico_node.plugins.bgp.packet.errors import Cease, Code, MessageError, OpenError, describe
from calico_node.plugins.bgp.packet.messages import (
    Keepalive,
    Message,
    Notification,
    Refresh,
    RouteRefresh,
    Update,
    announce,
    decode,
    encode,
    end_of_rib,
    split,
    withdraw,
)
from calico_node.plugins.bgp.packet.nlri import NLRI
from calico_node.plugins.bgp.packet.open import Capabilities, GracefulRestart, Open

__all__ = [
    "LLGR_STALE",
    "NLRI",
    "NO_LLGR",
    "Attributes",
    "Capabilities",
    "Cease",
    "Code",
    "Context",
    "GracefulRestart",
    "Keepalive",
    "Message",
    "MessageError",
    "Notification",
    "Open",
    "OpenError",
    "Refresh",
    "RouteRefresh",
    "Segment",
    "Update",
    "announce",
    "decode",
    "describe",
    "encode",
    "end_of_rib",
    "split",
    "withdraw",
]
