"""The executables ``calico`` and ``calico-ipam``: they hand a CNI call to the agent and print its answer.

Runs once or twice per pod and starts cold each time, so it imports the C socket module alone and parses no JSON on
the good path.  It opens CNI_NETNS itself and passes the descriptor: in a container the agent could not resolve the
path.  Request: ``CNI1 <role> <bytes of environment> <bytes of configuration>\\n``, the CNI_* variables as
zero-terminated ``NAME=value``, standard input.  Answer: ``<exit status> <length>\\n`` and the standard output.
Source: CNI specification 1.1.0, sections 2 and 3.
"""

from __future__ import annotations

import _socket
import os
import sys

SUPPORTED_VERSIONS = ("0.1.0", "0.2.0", "0.3.0", "0.3.1", "0.4.0", "1.0.0", "1.1.0")
_COMMANDS = ("ADD", "DEL", "CHECK", "GC", "STATUS")
_NEED_NETNS = ("ADD", "CHECK")

INVALID_ENVIRONMENT = 4
INVALID_NETNS = 8
TRY_AGAIN = 11
PLUGIN_NOT_AVAILABLE = 50


def main() -> int:
    """The interface plugin; returns the exit status."""
    return _run("calico")


def main_ipam() -> int:
    """The IPAM plugin."""
    return _run("calico-ipam")


def _run(role: str) -> int:
    command = os.environ.get("CNI_COMMAND", "")
    if command == "VERSION":
        supported = ",".join(f'"{version}"' for version in SUPPORTED_VERSIONS)
        return _print(f'{{"cniVersion":"{SUPPORTED_VERSIONS[-1]}","supportedVersions":[{supported}]}}\n'.encode(), 0)
    config = b"" if sys.stdin is None or os.isatty(0) else _read_all()
    if command not in _COMMANDS:
        return _fail(config, INVALID_ENVIRONMENT, f"CNI_COMMAND = {command!r}: unknown CNI command")
    netns = -1
    path = os.environ.get("CNI_NETNS", "")
    if path:
        try:
            netns = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
        except OSError as error:
            if command in _NEED_NETNS:
                return _fail(config, INVALID_NETNS, f"failed to open netns {path!r}: {error.strerror}")
    elif command in _NEED_NETNS and role == "calico":
        return _fail(config, INVALID_ENVIRONMENT, "required env variables [CNI_NETNS] missing")
    socket_path = os.path.join(os.environ.get("CALICO_RUN_DIR") or "/var/run/calico", "cni.sock")
    try:
        answer = _exchange(socket_path, _request(role, config), netns)
    except OSError as error:
        code = PLUGIN_NOT_AVAILABLE if command == "STATUS" else TRY_AGAIN
        reason = error.strerror or str(error)
        return _fail(config, code, f"calico-node is not running on this host: {socket_path}: {reason}")
    head, newline, body = answer.partition(b"\n")
    status, _, length = head.partition(b" ")
    if not newline or not status.isdigit() or not length.isdigit() or len(body) != int(length):
        return _fail(config, TRY_AGAIN, "calico-node ended before it answered; its log says why")
    return _print(body, int(status))


def _read_all() -> bytes:
    parts = []
    while part := os.read(0, 65536):
        parts.append(part)
    return b"".join(parts)


def _request(role: str, config: bytes) -> bytes:
    environment = b"".join(
        name + b"=" + value + b"\0" for name, value in os.environb.items() if name.startswith(b"CNI_")
    )
    return f"CNI1 {role} {len(environment)} {len(config)}\n".encode() + environment + config


def _exchange(path: str, request: bytes, netns: int) -> bytes:
    sock = _socket.socket(_socket.AF_UNIX, _socket.SOCK_STREAM)
    try:
        sock.connect(path)
        ancillary = []
        if netns >= 0:
            ancillary.append((_socket.SOL_SOCKET, _socket.SCM_RIGHTS, netns.to_bytes(4, sys.byteorder)))
        sent = sock.sendmsg([request], ancillary)
        sock.sendall(request[sent:])
        sock.shutdown(_socket.SHUT_WR)
        parts = []
        while part := sock.recv(65536):
            parts.append(part)
        return b"".join(parts)
    finally:
        sock.close()


def _print(output: bytes, status: int) -> int:
    while output:
        output = output[os.write(1, output) :]
    return status


def _fail(config: bytes, code: int, text: str) -> int:
    import json

    version = "1.0.0"
    try:
        data = json.loads(config)
        version = next((str(value) for key, value in data.items() if key.lower() == "cniversion" and value), version)
    except (ValueError, AttributeError, RecursionError):
        pass
    error = {"cniVersion": version, "code": code, "msg": text}
    return _print(json.dumps(error, separators=(",", ":")).encode() + b"\n", 1)


if __name__ == "__main__":
    sys.exit(main_ipam() if os.path.basename(sys.argv[0]) == "calico-ipam" else main())
