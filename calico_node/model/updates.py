"""What a syncer delivers to a consumer."""

from __future__ import annotations

import enum

from attrs import frozen

from calico_node.model.keys import Key


class SyncStatus(enum.Enum):
    """Calico's syncer statuses (libcalico-go ``bapi.SyncStatus``)."""

    WAIT_FOR_DATASTORE = "wait-for-ready"
    RESYNC_IN_PROGRESS = "resync"
    IN_SYNC = "in-sync"


@frozen
class Update:
    """The value now at ``key``; None means absent.  A delete may come for a key never seen, the same value may be
    repeated, and intermediate values may be skipped.  ``revision`` is the datastore revision of the value."""

    key: Key
    value: object | None
    revision: int = 0


@frozen
class SyncBatch:
    """A slice of the stream: after applying ``updates`` the consumer reflects the datastore at ``revision``.

    ``revision`` also moves when nothing this consumer watches changed.  Updates of one batch have distinct keys;
    order between keys is arbitrary.
    """

    status: SyncStatus
    revision: int
    updates: tuple[Update, ...] = ()
