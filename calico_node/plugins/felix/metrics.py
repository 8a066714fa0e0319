"""Felix's Prometheus metrics, under Felix's names."""

from __future__ import annotations

from prometheus_client import Counter, Gauge, Summary

from calico_node.model import SyncStatus
from calico_node.plugins.felix.calc import CalcGraph

ACTIVE = {
    "endpoints": Gauge("felix_active_local_endpoints", "Number of active endpoints on this host."),
    "policies": Gauge("felix_active_local_policies", "Number of active policies on this host."),
    "sets": Gauge("felix_active_local_selectors", "Number of active selectors on this host."),
}
CLUSTER = {
    kind: Gauge(f"felix_cluster_num_{kind}", f"Total number of {kind.replace('_', ' ')} cluster-wide.")
    for kind in ("hosts", "host_endpoints", "workload_endpoints", "policies", "profiles", "tiers")
}
INDEX_ENDPOINTS = Gauge("felix_label_index_num_endpoints", "Items in the label index of IP sets.")
INDEX_SELECTORS = Gauge("felix_label_index_num_active_selectors", "Selectors in the label index of IP sets.")
CALC_UPDATES = Counter("felix_calc_graph_updates_processed", "Updates given to the calculation graph.", ["type"])
CALC_EVENTS = Counter("felix_calc_graph_output_events", "Messages emitted by the calculation graph.")
CALC_TIME = Summary("felix_calc_graph_update_time_seconds", "Seconds of calculation for one batch of updates.")
MESSAGES = Counter("felix_int_dataplane_messages", "Messages given to the dataplane.", ["type"])
BATCH_SIZE = Summary("felix_int_dataplane_msg_batch_size", "Messages in one batch to the dataplane.")
APPLY_TIME = Summary("felix_int_dataplane_apply_time_seconds", "Seconds to bring one batch in force.")
FAILURES = Counter("felix_int_dataplane_failures", "Times the dataplane refused a batch.")
RESYNC_STATE = Gauge("felix_resync_state", "Datastore: 1 wait for ready, 2 resync, 3 in sync.")
RESYNCS = Counter("felix_resyncs_started", "Times a resync with the datastore began.")
REJECTED = Gauge("felix_rejected_objects", "Objects and parameters not in force as written.")

_RESYNC_NUMBERS = {SyncStatus.WAIT_FOR_DATASTORE: 1, SyncStatus.RESYNC_IN_PROGRESS: 2, SyncStatus.IN_SYNC: 3}


def resync(status: SyncStatus, before: SyncStatus | None) -> None:
    RESYNC_STATE.set(_RESYNC_NUMBERS[status])
    if status is SyncStatus.RESYNC_IN_PROGRESS and before is not status:
        RESYNCS.inc()


def graph_gauges(graph: CalcGraph) -> None:
    """Everything that is a plain count of what the graph holds."""
    for kind, gauge in ACTIVE.items():
        gauge.set(graph.sequencer.counts[kind])
    for kind, gauge in CLUSTER.items():
        gauge.set(graph.cluster_count(kind))
    INDEX_ENDPOINTS.set(len(graph.sets.index))
    INDEX_SELECTORS.set(graph.sets.index.selector_count)
