"""Sends UDP echo probes at a steady rate and prints every one's fate as JSON; runs inside a pod of a lab.

``python flows.py ADDRESS PORT SECONDS RATE established|new``: one socket for all (a conntrack entry that stays), or a
new source port for each probe (policy is asked each time).  Times are CLOCK_MONOTONIC, which all processes share.
"""

from __future__ import annotations

import json
import selectors
import socket
import sys
import time

GRACE = 1.0
"""Seconds to wait for the last answers."""


def main(address: str, port: int, seconds: float, rate: float, mode: str) -> None:
    count = int(seconds * rate)
    sent = [0.0] * count
    answered: list[float | None] = [None] * count
    selector = selectors.DefaultSelector()
    kept: list[socket.socket] = []

    def open_socket() -> socket.socket:
        probe = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        probe.setblocking(False)
        probe.connect((address, port))
        selector.register(probe, selectors.EVENT_READ)
        kept.append(probe)
        return probe

    def collect(timeout: float) -> None:
        for key, _ in selector.select(timeout):
            probe = key.fileobj
            assert isinstance(probe, socket.socket)
            try:
                while True:
                    number = int(probe.recv(64).split()[0])
                    answered[number] = time.monotonic()
            except (BlockingIOError, ConnectionRefusedError):
                pass
            if mode == "new":
                selector.unregister(probe)
                probe.close()

    current = open_socket() if mode == "established" else None
    print("started", file=sys.stderr, flush=True)
    start = time.monotonic()
    for number in range(count):
        due = start + number / rate
        while (left := due - time.monotonic()) > 0:
            collect(left)
        collect(0)
        probe = current or open_socket()
        sent[number] = time.monotonic()
        try:
            probe.send(b"%d probe" % number)
        except OSError:
            continue
        while mode == "new" and len(kept) > 500:
            oldest = kept.pop(0)
            if oldest.fileno() >= 0:
                selector.unregister(oldest)
                oldest.close()
    end = time.monotonic() + GRACE
    while (left := end - time.monotonic()) > 0:
        collect(left)
    json.dump([[when, reply] for when, reply in zip(sent, answered, strict=True)], sys.stdout)


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]), float(sys.argv[3]), float(sys.argv[4]), sys.argv[5])
