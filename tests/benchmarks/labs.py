"""A lab for a benchmark: brought up and taken down by its command line, as a user would."""

from __future__ import annotations

import json
import os
import shlex
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import yaml
from attrs import define

BIN = Path(sys.executable).parent
FLOWS = Path(__file__).with_name("flows.py")


@define
class Lab:
    """A running lab; ``seconds`` is how long ``lab up`` took."""

    name: str
    seconds: float

    def run(self, *words: str, **options: Any) -> subprocess.CompletedProcess[str]:
        command = [str(BIN / "calico-node"), "lab", words[0], "--name", self.name, *words[1:]]
        return subprocess.run(command, check=True, text=True, **options)

    def environ(self) -> dict[str, str]:
        """The environment that points calicoctl, and our own client, at this lab."""
        text = self.run("env", stdout=subprocess.PIPE).stdout
        pairs = [word.partition("=") for word in shlex.split(text.replace(";", " ")) if "=" in word]
        return {**os.environ, **{name: value for name, _, value in pairs}}

    def pod_addresses(self, pods: list[str]) -> dict[str, str]:
        """Each pod's address, as the CNI plugin gave it."""
        probes = [{"from": pods[0], "to": pod, "protocol": "ICMP", "type": 8, "code": 0} for pod in pods]
        with tempfile.NamedTemporaryFile("w", suffix=".yaml") as file:
            yaml.safe_dump(probes, file)
            file.flush()
            answers = json.loads(self.run("probe", "--json", "--probes", file.name, stdout=subprocess.PIPE).stdout)
        return {answer["to"]: answer["ip"] for answer in answers}

    def flow(
        self, pod: str, address: str, port: int, seconds: float, rate: float, mode: str
    ) -> subprocess.Popen[str]:
        """Start ``flows.py`` in ``pod``; returns once it sends."""
        words = [sys.executable, str(FLOWS), address, str(port), str(seconds), str(rate), mode]
        command = [str(BIN / "calico-node"), "lab", "exec", "--name", self.name, pod, "--", *words]
        process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
        assert process.stderr is not None
        line = process.stderr.readline()
        if "started" not in line:
            raise SystemExit(f"the flow did not start: {line}{process.stderr.read()}")
        return process


@contextmanager
def lab(name: str, documents: list[dict[str, Any]], *options: str) -> Iterator[Lab]:
    """A lab of ``documents``; nothing is left of it afterwards."""
    with tempfile.NamedTemporaryFile("w", suffix=".yaml") as file:
        yaml.safe_dump_all(documents, file)
        file.flush()
        command = [str(BIN / "calico-node"), "lab", "up", "--name", name, "-f", file.name, *options]
        start = time.monotonic()
        subprocess.run(command, check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        yield_lab = Lab(name, time.monotonic() - start)
    try:
        yield yield_lab
    finally:
        subprocess.run([str(BIN / "calico-node"), "lab", "down", "--name", name], check=False, capture_output=True)


def pod(name: str, node: str, **labels: str) -> dict[str, Any]:
    """A pod that answers UDP on 7 and on 8."""
    return {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {"name": name, "namespace": "default", "labels": labels or {"app": name}},
        "spec": {
            "nodeName": node,
            "containers": [
                {
                    "name": "echo",
                    "ports": [
                        {"containerPort": 7, "protocol": "UDP"},
                        {"containerPort": 8, "protocol": "UDP"},
                    ],
                }
            ],
        },
    }
