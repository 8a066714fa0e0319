"""Run a command with its own view of the file system: ``/sys`` of its network namespace, its own hosts file.

``inside ETC -- COMMAND…`` in the network namespace the command belongs to; ``ETC`` holds the ``hosts`` and
``resolv.conf`` to show ("-" for none).
"""

from __future__ import annotations

import contextlib
import os
import sys

from calico_node.linux.namespaces import (
    CLONE_NEWNS,
    MS_NODEV,
    MS_NOEXEC,
    MS_NOSUID,
    MS_PRIVATE,
    MS_REC,
    bind_mount,
    mount,
    unshare,
)


def own_view(etc: str) -> None:
    """Give the (single-threaded) process a mount namespace with these files.

    What the system cannot show is left as it is: a command runs without its hosts file rather than not at all.
    """
    unshare(CLONE_NEWNS)
    mount("none", "/", flags=MS_REC | MS_PRIVATE)
    with contextlib.suppress(OSError):
        mount("sysfs", "/sys", "sysfs", MS_NOSUID | MS_NODEV | MS_NOEXEC)
    if etc == "-":
        return
    for name in ("hosts", "resolv.conf"):
        source, target = os.path.join(etc, name), os.path.realpath(f"/etc/{name}")
        if os.path.exists(source) and os.path.exists(target):
            with contextlib.suppress(OSError):
                bind_mount(source, target)


def main() -> None:
    etc, arguments = sys.argv[1], sys.argv[3:]
    own_view(etc)
    try:
        os.execvp(arguments[0], arguments)
    except OSError as error:
        sys.stderr.write(f"{arguments[0]}: {error.strerror}\n")
        sys.exit(127 if isinstance(error, FileNotFoundError) else 126)


if __name__ == "__main__":
    main()
