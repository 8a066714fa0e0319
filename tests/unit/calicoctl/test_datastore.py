"""``calicoctl datastore``: lock, export, import, and policies under their own names."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
from contextlib import suppress
from pathlib import Path

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from calico_node.calicoctl.datastore.restore import parse_export
from calico_node.calicoctl.errors import InputError
from calico_node.calicoctl.ipam.release import read_report
from calico_node.datastores import Client
from calico_node.datastores.kv import KeyValue
from calico_node.ipam import IPAM, AssignRequest, KVStore
from tests.unit.calicoctl.conftest import Run
from tests.unit.calicoctl.test_ipam import with_client
from tests.unit.calicoctl.test_node import unpack

WORLD = """\
kind: Node
apiVersion: projectcalico.org/v3
metadata: {name: n1, labels: {rack: a}}
spec: {orchRefs: [{nodeName: kube-1, orchestrator: k8s}], ipv4VXLANTunnelAddr: 10.65.0.0}
---
kind: Node
apiVersion: projectcalico.org/v3
metadata: {name: bare}
---
kind: IPPool
apiVersion: projectcalico.org/v3
metadata: {name: pool}
spec: {cidr: 10.65.0.0/24, blockSize: 29}
---
kind: Tier
apiVersion: projectcalico.org/v3
metadata: {name: first}
spec: {order: 5}
---
kind: NetworkPolicy
apiVersion: projectcalico.org/v3
metadata: {name: web, namespace: prod, annotations: {odd: "a===\\nb\\n===\\n"}}
spec: {tier: first, selector: app == 'web', ingress: [{action: Allow}]}
---
kind: BGPFilter
apiVersion: projectcalico.org/v3
metadata: {name: some}
---
kind: BGPPeer
apiVersion: projectcalico.org/v3
metadata: {name: tor}
spec: {peerIP: 10.0.0.9, asNumber: 65000, filters: [some]}
---
kind: FelixConfiguration
apiVersion: projectcalico.org/v3
metadata: {name: node.n1}
spec: {logSeverityScreen: Debug}
---
kind: Profile
apiVersion: projectcalico.org/v3
metadata: {name: kns.prod}
spec: {labelsToApply: {a: b}}
---
kind: WorkloadEndpoint
apiVersion: projectcalico.org/v3
metadata: {name: n1-k8s-web-eth0, namespace: prod}
spec: {node: n1, orchestrator: k8s, pod: web, endpoint: eth0, interfaceName: cali1, containerID: abc,
       ipNetworks: [10.65.0.1/32]}
"""
MIGRATION = "/calico/resources/v3/projectcalico.org/livemigrations/prod/move"


async def fill(client: Client) -> None:
    ipam = IPAM(KVStore(client))
    tunnel = {"node": "n1", "type": "vxlanTunnelAddress"}
    await ipam.assign_ip("10.65.0.0", hostname="n1", handle_id="vxlan-tunnel-addr-n1", attributes=tunnel)
    request = AssignRequest("n1", num4=1, handle_id="net.abc", attributes={"node": "n1", "pod": "web"})
    assert (await ipam.auto_assign(request)).complete


@pytest.fixture
def world(run: Run) -> Run:
    applied = run("apply", "-f", "w.yaml", files={"w.yaml": WORLD})
    assert (applied.err, applied.status) == ("", 0)
    assert run("ipam", "configure", "--ip-cooldown-seconds=30").status == 0
    with_client(fill)
    # A newer Calico wrote a field that is unknown here.
    key = "/calico/resources/v3/projectcalico.org/ippools/pool"
    stored, _ = with_client(lambda client: client.kv.get(key))
    assert stored is not None
    data = json.loads(stored.value)
    data["spec"]["fromTheFuture"] = {"x": 1}
    with_client(lambda client: client.kv.put(key, json.dumps(data).encode()))
    return run


def everything() -> dict[str, object]:
    """The values of all keys but ClusterInformation's, as data."""

    async def read(client: Client) -> tuple[KeyValue, ...]:
        return (await client.kv.range("/calico/")).kvs

    return {kv.key: json.loads(kv.value) for kv in with_client(read) if "clusterinformations" not in kv.key}


def other_store(monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    Path(name).mkdir()
    monkeypatch.setenv("CALICO_DATASTORE_PATH", f"{Path(name).resolve()}/datastore.db")


def test_lock_and_unlock(run: Run) -> None:
    for command, ready in (("lock", False), ("lock", False), ("unlock", True)):
        assert run("datastore", "migrate", command).out == f"Datastore {command}ed.\n"
        shown = yaml.safe_load(run("get", "clusterinfo", "default", "-o", "yaml").out)
        assert shown["spec"]["datastoreReady"] is ready


def test_a_lost_datastore_comes_back_from_a_backup(world: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    before = everything()
    guid = world("get", "clusterinfo", "-o", "custom-columns=CLUSTERGUID").out
    assert world("datastore", "migrate", "export", "--all").err.startswith("the datastore is not locked: run")
    world("datastore", "migrate", "lock")
    Path("backup").write_text(world("datastore", "migrate", "export", "--all").out)

    other_store(monkeypatch, "new")
    done = world("datastore", "migrate", "import", "-f", "backup")
    assert (done.err, done.status) == ("", 0)
    assert done.out.startswith("Successfully imported 13 resource(s) and 5 IPAM document(s)\n")
    assert everything() == before
    assert world("get", "clusterinfo", "-o", "custom-columns=CLUSTERGUID").out == guid
    assert "false" in world("get", "clusterinfo", "-o", "custom-columns=DATASTOREREADY").out
    assert world("ipam", "check").out.endswith("Check complete; found 0 problems.\n")


def test_a_backup_names_what_it_does_not_hold(world: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    """Live migrations and virtual affinities are in it; what a newer Calico stores is not, and is said to be not."""
    future = ["/calico/ipam/v3/plan", "/calico/ipam/v2/plan/a", f"{MIGRATION.rpartition('/live')[0]}/futures/f"]
    affinity = "/calico/ipam/v2/virtual/load-balancer/ipv4/block/10.65.0.8-29"
    identity = {"uid": "9c1a3a1e-1f0c-4d51-8b0c-4a63a32a2f05", "creationTimestamp": "2026-01-01T00:00:00Z"}
    live = {"metadata": {"name": "move", "namespace": "prod", **identity}, "spec": {"source": {"name": "a"}}}

    async def add(client: Client) -> None:
        for key in future:
            await client.kv.put(key, b"{}")
        document = {"kind": "LiveMigration", "apiVersion": "projectcalico.org/v3", **live}
        await client.kv.put(MIGRATION, json.dumps(document).encode())
        await client.kv.put(affinity, b'{"state":"confirmed","deleted":false}')
        await client.kv.put("/calico/felix/v2/no-region/host/n1/last_reported_status", b"{}")
        await client.kv.put("/calico/some/status", b"{}", lease=await client.kv.grant(100))

    with_client(add)
    world("datastore", "migrate", "lock")
    exported = world("datastore", "migrate", "export", "--all")
    assert exported.status == 0
    first, *named = exported.err.splitlines()
    assert first == "left out, 3 keys that this calicoctl does not know:"
    assert sorted(line.strip() for line in named) == sorted(future)
    Path("backup").write_text(exported.out)
    before = everything()
    other_store(monkeypatch, "new")
    assert world("datastore", "migrate", "import", "-f", "backup").status == 0
    after = everything()
    assert {after[key] == before[key] for key in (MIGRATION, affinity)} == {True}


def test_an_export_for_kubernetes_speaks_of_its_nodes(world: Run) -> None:
    world("datastore", "migrate", "lock")
    exported = world("datastore", "migrate", "export")
    assert exported.status == 0
    assert exported.err == "Node(bare) has no name in Kubernetes and keeps its own\n"
    resources, cluster, ipam = exported.out.split("\n===\n")
    lists = {data["kind"]: data["items"] for data in yaml.safe_load_all(resources) if data}
    assert "ProfileList" not in lists
    assert "WorkloadEndpointList" not in lists
    assert [node["metadata"] for node in lists["NodeList"]] == [
        {"name": "bare"},
        {"name": "kube-1", "labels": {"rack": "a"}},
    ]
    assert [item["metadata"]["name"] for item in lists["FelixConfigurationList"]] == ["node.kube-1"]
    assert json.loads(cluster)["kind"] == "ClusterInformation"
    data = json.loads(ipam)
    assert data["block_affinities"][0]["Key"] == "/calico/ipam/v2/host/kube-1/ipv4/block/10.65.0.0-29"
    (block,) = data["blocks"]
    assert block["Key"] == "/calico/ipam/v2/assignment/ipv4/block/10.65.0.0-29"
    assert block["Value"]["affinity"] == "host:kube-1"
    assert block["Value"]["attributes"][0] == {
        "handle_id": "vxlan-tunnel-addr-kube-1",
        "secondary": {"node": "kube-1", "type": "vxlanTunnelAddress"},
    }
    assert [entry["Key"].rpartition("/")[2] for entry in data["handles"]] == ["net.abc", "vxlan-tunnel-addr-kube-1"]
    assert data["config"] == {
        "Key": "/calico/ipam/v2/config",
        "Value": {"auto_allocate_blocks": True, "kubeVirtVMAddressPersistence": "Enabled", "ipCooldownSeconds": 30},
        "TTL": 0,
    }


def test_what_cannot_be_read_is_named_and_nothing_exported(world: Run, tmp_path: Path) -> None:
    world("datastore", "migrate", "lock")

    async def damage(client: Client) -> None:
        await client.kv.put("/calico/ipam/v2/host/n1", b"")
        await client.kv.put("/calico/ipam/v2/host/n1/ipv4/block/10.65.0.8-29", b"")
        await client.kv.put("/calico/resources/v3/projectcalico.org/tiers/odd", b'{"metadata": {}}')
        await client.kv.put("/calico/ipam/v2/handle/odd", b"[]")

    with_client(damage)
    refused = world("datastore", "migrate", "export", "--all")
    assert (refused.status, refused.out) == (1, "")
    assert refused.err.startswith("nothing was exported, 2 stored objects cannot be read:\n")
    assert "Tier at /calico/resources/v3/projectcalico.org/tiers/odd: metadata.name: is missing" in refused.err
    assert "/calico/ipam/v2/handle/odd: IPAM handle" in refused.err
    found = unpack(world("cluster", "diags").out, tmp_path / "out")
    assert "tiers/odd" in found["datastore/unreadable"]


def test_such_an_export_can_be_imported_too(world: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    world("datastore", "migrate", "lock")
    Path("export").write_text(world("datastore", "migrate", "export").out)
    other_store(monkeypatch, "new")
    assert world("datastore", "migrate", "import", "-f", "export").status == 0
    assert world("get", "nodes", "-o", "name").out == "node/bare\nnode/kube-1\n"
    assert world("get", "np", "web", "-n", "prod", "-o", "custom-columns=TIER").lines()[1] == ["first"]


def test_import_wants_an_empty_datastore(world: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    world("datastore", "migrate", "lock")
    Path("export").write_text(world("datastore", "migrate", "export").out)
    refused = world("datastore", "migrate", "import", "-f", "export")
    assert (refused.status, refused.out) == (1, "")
    assert "is not empty: it holds BGPFilter(some); nothing was imported" in refused.err
    other_store(monkeypatch, "new")
    assert world("ipam", "configure", "--ip-cooldown-seconds=30").status == 0
    refused = world("datastore", "migrate", "import", "-f", "export")
    assert "is not empty: it holds /calico/ipam/v2/config; nothing was imported" in refused.err


KILLED = """\
import os, signal, sys
from calico_node.calicoctl import main
from calico_node.datastores.embedded import EmbeddedEngine
from calico_node.datastores.etcd.engine import EtcdEngine
left = int(sys.argv[1])
Engine = EtcdEngine if "ETCD_ENDPOINTS" in os.environ else EmbeddedEngine
write = Engine.txn
async def txn(*arguments):
    global left
    if left == 0:
        os.kill(os.getpid(), signal.SIGKILL)
    left -= 1
    return await write(*arguments)
Engine.txn = txn
main.main(["datastore", "migrate", "import", "-f", "export"])
"""


@pytest.mark.parametrize("everything_", [False, True])
def test_an_import_that_was_killed_is_completed(
    world: Run, monkeypatch: pytest.MonkeyPatch, everything_: bool
) -> None:
    sets = (f"kind: GlobalNetworkSet\napiVersion: projectcalico.org/v3\nmetadata: {{name: s{n}}}" for n in range(250))
    world("apply", "-f", "sets.yaml", files={"sets.yaml": "\n---\n".join(sets)})
    world("datastore", "migrate", "lock")
    Path("export").write_text(world("datastore", "migrate", "export", *(["--all"] if everything_ else [])).out)
    guid = world("get", "clusterinfo", "-o", "custom-columns=CLUSTERGUID").out
    other_store(monkeypatch, "whole")
    assert world("datastore", "migrate", "import", "-f", "export").status == 0
    whole = everything()
    other_store(monkeypatch, "killed")
    seen: list[int] = []
    # Each attempt dies after two writes: of the cluster, its tiers, the lock, and a hundred objects at a time.
    for _ in range(5):
        killed = subprocess.run([sys.executable, "-c", KILLED, "2"], check=False, capture_output=True)
        assert killed.returncode == -signal.SIGKILL
        seen.append(len(everything()))
    assert seen == sorted(seen)
    assert 100 < seen[3] < len(whole)
    done = world("datastore", "migrate", "import", "-f", "export")
    assert done.status == 0
    assert "are there from an import of this file that did not end" in done.err
    assert everything().keys() == whole.keys()
    if everything_:
        assert everything() == whole
    assert world("get", "clusterinfo", "-o", "custom-columns=CLUSTERGUID").out == guid
    assert "is not empty" in world("datastore", "migrate", "import", "-f", "export").err


def test_an_import_goes_on_with_nothing_but_its_own(world: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    world("datastore", "migrate", "lock")
    Path("export").write_text(world("datastore", "migrate", "export").out)
    other_store(monkeypatch, "new")
    world("apply", "-f", "f.yaml", files={"f.yaml": WORLD.partition("---")[0]})
    refused = world("datastore", "migrate", "import", "-f", "export")
    assert "is not empty" in refused.err  # not locked
    world("datastore", "migrate", "lock")
    first = next(iter(yaml.safe_load_all(WORLD)))
    first["metadata"]["labels"] = {"other": "x"}
    world("apply", "-f", "o.yaml", files={"o.yaml": yaml.safe_dump(first)})
    before = everything()
    assert "is not empty" in world("datastore", "migrate", "import", "-f", "export").err
    assert everything() == before


GOOD = 'kind: Tier\napiVersion: projectcalico.org/v3\nmetadata: {name: t}\n===\n{"spec": {}}\n===\n{}'
BLOCK = '{"blocks": [{"Key": "/calico/ipam/v2/assignment/ipv4/block/10.0.0.0-29", "Value": %s}]}'
AFFINITY = '{"block_affinities": [{"Key": "/calico/ipam/v2/host/n/ipv4/block/%s", "Value": {}}]}'


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("", "is not what 'calicoctl datastore migrate export' writes: it has 1 part(s), not 3"),
        (GOOD.replace("Tier", "Pod"), "x, document 1, line 1"),
        (GOOD.replace("Tier", "BlockAffinity"), "is not among what an export holds"),
        (GOOD.replace("{name: t}", "{name: T}"), "metadata.name = 'T'"),
        (GOOD.replace("kind: Tier", "kind: ["), "malformed YAML"),
        (GOOD.replace('{"spec": {}}', "{"), "ClusterInformation: not JSON"),
        (GOOD.replace('{"spec": {}}', "[]"), "ClusterInformation: not a JSON object"),
        (GOOD.replace('{"spec": {}}', "{}"), "the second part is no ClusterInformation"),
        (GOOD.replace("===\n{}", '===\n{"more": []}'), "unknown member 'more'"),
        (GOOD.replace("===\n{}", "===\n[]"), "IPAM's part: not a JSON object"),
        (GOOD.replace("===\n{}", '===\n{"handles": [5]}'), "handles: an entry without Key and Value"),
        (GOOD.replace("===\n{}", '===\n{"handles": 5}'), "handles: must be a list"),
        (GOOD.replace("===\n{}", '===\n{"config": {"Key": "/etc", "Value": {}}}'), "key '/etc' does not fit"),
        (GOOD.replace("===\n{}", '===\n{"config": {"Key": 5, "Value": {}}}'), "config: an entry without"),
        (GOOD.replace("===\n{}", "===\n" + BLOCK % "{}"), "IPAM block"),
        (GOOD.replace("===\n{}", "===\n" + AFFINITY % "10.0.0.x-29"), "does not fit"),
        (GOOD.replace("===\n{}", "===\n" + BLOCK % "[]"), "not a JSON object"),
    ],
)
def test_import_refuses_a_damaged_file_before_it_writes(run: Run, text: str, reason: str) -> None:
    refused = run("datastore", "migrate", "import", "-f", "x", files={"x": text})
    assert (refused.status, refused.out) == (1, "")
    assert reason in refused.err
    assert everything() == {}


JSON = st.recursive(
    st.none() | st.booleans() | st.integers(-1, 2**64 - 1) | st.text(max_size=5),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(st.sampled_from(("Key", "Value", "spec", "cidr", "block", "state", "x")), inner, max_size=3)
    ),
    max_leaves=8,
)
PARTS = st.sampled_from(("block_affinities", "blocks", "handles", "config", "x"))
REPORTED = st.sampled_from(("version", "clusterGUID", "clusterInformationRevision", "allocations", "leakedHandles"))


@given(JSON, st.dictionaries(PARTS, JSON) | JSON)
def test_a_damaged_export_is_always_refused_in_words(cluster: object, ipam: object) -> None:
    text = "===\n".join(("---\n", json.dumps(cluster) + "\n", json.dumps(ipam)))
    with suppress(InputError):
        assert parse_export("x", text.encode()).resources == 0


@given(st.dictionaries(REPORTED, JSON | st.just("1")) | JSON)
def test_a_damaged_report_is_always_refused_in_words(tmp_path_factory: pytest.TempPathFactory, data: object) -> None:
    file = tmp_path_factory.getbasetemp() / "report.json"
    file.write_text(json.dumps(data))
    with suppress(InputError):
        assert read_report(str(file)).file == str(file)


def test_policies_move_to_the_key_of_their_name(run: Run) -> None:
    run("apply", "-f", "w.yaml", files={"w.yaml": WORLD.split("---\n")[4].replace("tier: first, ", "")})
    folder = "/calico/resources/v3/projectcalico.org/networkpolicies/prod/"

    async def age(client: Client) -> None:
        stored, _ = await client.kv.get(f"{folder}web")
        assert stored is not None
        old = json.loads(stored.value)
        del old["metadata"]["annotations"]
        for name in ("old", "web"):
            old["metadata"]["name"] = f"default.{name}"
            await client.kv.put(f"{folder}default.{name}", json.dumps(old).encode())

    with_client(age)
    assert run("datastore", "migrate-policy-names").out == "Policy name migration complete, migrated 2 policies.\n"
    assert [key.removeprefix(folder) for key in everything() if key.startswith(folder)] == ["old", "web"]
    assert run("get", "np", "-n", "prod", "-o", "name").out.split() == [
        "networkpolicy/prod/old", "networkpolicy/prod/web"
    ]  # fmt: skip
    assert run("datastore", "migrate-policy-names").out == "Policy name migration complete, migrated 0 policies.\n"
