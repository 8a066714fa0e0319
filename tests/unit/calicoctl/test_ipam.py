"""``calicoctl ipam``: what it shows of blocks in a datastore, finds wrong there, releases and changes."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import TypeVar

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from calico_node.calicoctl.ipam.usage import usage
from calico_node.datastores import Client, open_client
from calico_node.ipam import IPAM, AssignRequest, Block, KVStore, Pool
from calico_node.settings import Settings
from tests.unit.calicoctl.conftest import Run

T = TypeVar("T")

WORLD = """\
kind: Node
apiVersion: projectcalico.org/v3
metadata: {name: n1}
spec: {ipv4VXLANTunnelAddr: 10.65.0.0}
---
kind: Node
apiVersion: projectcalico.org/v3
metadata: {name: n2}
---
kind: IPPool
apiVersion: projectcalico.org/v3
metadata: {name: pool}
spec: {cidr: 10.65.0.0/24, blockSize: 29}
---
kind: IPPool
apiVersion: projectcalico.org/v3
metadata: {name: six}
spec: {cidr: "fd00::/112", blockSize: 122}
---
kind: IPReservation
apiVersion: projectcalico.org/v3
metadata: {name: kept}
spec: {reservedCIDRs: [10.65.0.128/25, 10.65.0.7/32]}
"""
ENDPOINT = """\
kind: WorkloadEndpoint
apiVersion: projectcalico.org/v3
metadata: {name: n1-k8s-web-eth0, namespace: prod}
spec:
  {node: n1, orchestrator: k8s, pod: web, endpoint: eth0, interfaceName: cali1, containerID: abc,
   ipNetworks: [10.65.0.1/32]}
"""


def with_client(work: Callable[[Client], Awaitable[T]]) -> T:
    async def run() -> T:
        async with open_client(Settings.load()) as client:
            return await work(client)

    return asyncio.run(run())


async def fill(client: Client) -> None:
    """A tunnel address and two pods of n1, one of them leaked, and an address that n2 borrows."""
    ipam = IPAM(KVStore(client))
    tunnel = {"node": "n1", "type": "vxlanTunnelAddress"}
    await ipam.assign_ip("10.65.0.0", hostname="n1", handle_id="vxlan-tunnel-addr-n1", attributes=tunnel)
    for pod, handle in (("web", "net.abc"), ("gone", "net.def")):
        request = AssignRequest(
            "n1", num4=1, handle_id=handle, attributes={"node": "n1", "pod": pod, "namespace": "prod"}
        )
        assert (await ipam.auto_assign(request)).complete
    await ipam.assign_ip(
        "10.65.0.3", hostname="n2", handle_id="b", attributes={"node": "n2", "pod": "far", "namespace": "x"}
    )


@pytest.fixture
def world(run: Run) -> Run:
    applied = run("apply", "-f", "w.yaml", files={"w.yaml": f"{WORLD}---\n{ENDPOINT}"})
    assert (applied.err, applied.status) == ("", 0)
    with_client(fill)
    return run


def test_show(world: Run) -> None:
    assert world("ipam", "show").out == (
        "+----------+--------------+-----------+------------+--------------+--------------+\n"
        "| GROUPING | CIDR         | IPS TOTAL | IPS IN USE | IPS RESERVED | IPS FREE     |\n"
        "+----------+--------------+-----------+------------+--------------+--------------+\n"
        "| IP Pool  | 10.65.0.0/24 |       256 |     4 (2%) |    129 (50%) |    123 (48%) |\n"
        "| IP Pool  | fd00::/112   |     65536 |     0 (0%) |       0 (0%) | 65536 (100%) |\n"
        "+----------+--------------+-----------+------------+--------------+--------------+\n"
    )
    blocks = world("ipam", "show", "--show-blocks").out
    assert "| Block    | 10.65.0.0/29 |         8 |    4 (50%) |      1 (12%) |      3 (38%) |" in blocks
    borrowed = world("ipam", "show", "--show-borrowed").out.splitlines()
    assert borrowed[1] == "| IP        | BORROWING-NODE | BLOCK        | BLOCK OWNER | TYPE | ALLOCATED-TO |"
    assert borrowed[3] == "| 10.65.0.3 | n2             | 10.65.0.0/29 | n1          | pod  | x/far        |"
    assert len(borrowed) == 5


def test_show_one_address(world: Run) -> None:
    assert world("ipam", "show", "--ip=10.65.0.1").out == (
        "IP 10.65.0.1 is in use\nHandle ID: net.abc\nActive Owner Attributes:\n"
        "  namespace: prod\n  node: n1\n  pod: web\n"
    )
    assert world("ipam", "show", "--ip", "10.65.0.5").out == "10.65.0.5 is not assigned\n"
    assert world("ipam", "show", "--ip", "1.2.3.4").out == "1.2.3.4 is not assigned\n"
    for wrong in ("10.65.0", "10.65.0.1/32", "x"):
        refused = world("ipam", "show", "--ip", wrong)
        assert refused.status == 1
        assert refused.out == f"Error executing command: invalid IP address specified: {wrong}\n"


def test_a_pool_that_is_gone_leaves_its_blocks_in_the_view(world: Run) -> None:
    with_client(lambda client: client.kv.delete("/calico/resources/v3/projectcalico.org/ippools/pool"))
    shown = world("ipam", "show", "--show-blocks").lines()
    assert [row[1:5] for row in shown[3:5]] == [
        ["IP", "Pool", "|", "fd00::/112"],
        ["Block", "|", "10.65.0.0/29", "|"],
    ]


def test_configure(run: Run) -> None:
    shown = run("ipam", "show", "--show-configuration")
    assert [row[1::2] for row in shown.lines() if len(row) == 5] == [
        ["PROPERTY", "VALUE"],
        ["StrictAffinity", "false"],
        ["AutoAllocateBlocks", "true"],
        ["MaxBlocksPerHost", "0"],
        ["KubeVirtVMAddressPersistence", "Enabled"],
        ["IPCooldownSeconds", "0"],
    ]
    done = run("ipam", "configure", "--strictaffinity=true", "--max-blocks-per-host=4")
    assert done.out == "Successfully set StrictAffinity to: true\nSuccessfully set MaxBlocksPerHost to: 4\n"
    done = run("ipam", "configure", "--kubevirt-ip-persistence", "Disabled", "--ip-cooldown-seconds=60")
    assert done.out == (
        "Successfully set KubeVirtVMAddressPersistence to: Disabled\nSuccessfully set IPCooldownSeconds to: 60\n"
    )
    stored, _ = with_client(lambda client: client.kv.get("/calico/ipam/v2/config"))
    assert stored is not None
    assert json.loads(stored.value) == {
        "auto_allocate_blocks": True,
        "maxBlocksPerHost": 4,
        "strict_affinity": True,
        "kubeVirtVMAddressPersistence": "Disabled",
        "ipCooldownSeconds": 60,
    }


@pytest.mark.parametrize(
    ("arguments", "reason"),
    [
        ((), "give at least one of --strictaffinity"),
        (("--strictaffinity=yes",), "--strictaffinity = 'yes': must be true or false"),
        (("--max-blocks-per-host=-1",), "--max-blocks-per-host = '-1': must be a number from 0"),
        (("--max-blocks-per-host=²",), "must be a number"),
        (("--max-blocks-per-host=3",), "MaxBlocksPerHost requires StrictAffinity"),
        (("--ip-cooldown-seconds=1201",), "must be a number from 0 to 1200"),
        (("--kubevirt-ip-persistence=on",), "must be Enabled or Disabled"),
    ],
)
def test_configure_refuses(run: Run, arguments: tuple[str, ...], reason: str) -> None:
    refused = run("ipam", "configure", *arguments)
    assert (refused.status, refused.out) == (1, "")
    assert reason in refused.err


def test_release_one_address(world: Run) -> None:
    assert world("ipam", "release", "--ip=10.65.0.2").out == "Successfully released IP address 10.65.0.2\n"
    again = world("ipam", "release", "--ip=10.65.0.2")
    assert (again.status, again.err) == (1, "IP address 10.65.0.2 is not assigned\n")
    assert world("ipam", "release").status == 1
    stored, _ = with_client(lambda client: client.kv.get("/calico/ipam/v2/handle/net.def"))
    assert stored is None


def test_check_counts_what_leaks(world: Run) -> None:
    found = world("ipam", "check", "--show-problem-ips")
    assert (found.status, found.err) == (0, "")
    assert "Found 2 IPs allocated but not in use." in found.out
    assert "  10.65.0.2 leaked; attrs Main:net.def Extra:namespace=prod,node=n1,pod=gone\n" in found.out
    assert found.out.endswith("\nCheck complete; found 2 problems.\n")
    assert "10.65.0.1 belongs to Workload(prod/n1-k8s-web-eth0)" in world("ipam", "check", "--show-all-ips").out


def test_check_finds_every_kind_of_damage(world: Run) -> None:
    world(
        "apply",
        "-f",
        "e.yaml",
        files={"e.yaml": ENDPOINT.replace("10.65.0.1/32", "10.65.0.60/32, 9.9.9.9/32, 10.65.0.1/32")},
    )

    async def damage(client: Client) -> None:
        await client.kv.put("/calico/ipam/v2/handle/nobody", b'{"block":{},"deleted":false}')
        await client.kv.delete("/calico/ipam/v2/handle/b")
        key = "/calico/ipam/v2/assignment/ipv4/block/10.65.0.0-29"
        stored, _ = await client.kv.get(key)
        assert stored is not None
        block = json.loads(stored.value)
        block["unallocated"].remove(6)
        block["attributes"].append({"releasedAt": "2200-01-01T00:00:00Z"})
        await client.kv.put(key, json.dumps(block).encode())
        await client.kv.put("/calico/ipam/v2/assignment/ipv4/block/10.65.0.8-29", b'{"cidr":"10.65.0.8/29"}')

    with_client(damage)
    found = world("ipam", "check", "--show-problem-ips").out
    for line in (
        "Found 1 IPs in use outside every active IP pool.\n  9.9.9.9 in use by Workload(prod/n1-k8s-web-eth0)",
        "Found 1 IPs in use inside an active IP pool, but not allocated.\n  10.65.0.60 in use by",
        "Found 1 handles without an IP.\n  nobody",
        "Found 1 handles named by blocks but not stored.\n  b",
        "IPAM block 10.65.0.8-29: 0 allocations in a block of 8 addresses",
        "IPAM block 10.65.0.0/29: no allocation points to attribute",
        "IPAM block 10.65.0.0/29: attribute 4 was released in the future",
        "IPAM block 10.65.0.0/29: 10.65.0.6 is neither allocated nor unallocated",
        "Check complete; found 10 problems.",
    ):
        assert line in found


def test_check_compares_the_counts_of_handles(world: Run) -> None:
    async def miscount(client: Client) -> None:
        prefix = "/calico/ipam/v2/handle/"
        await client.kv.put(f"{prefix}net.abc", b'{"block":{"10.65.0.0/29":3,"10.65.0.8/29":1},"deleted":false}')
        await client.kv.put(f"{prefix}net.def", b'{"block":{},"deleted":false}')
        await client.kv.put(f"{prefix}b", b'{"block":5}')

    with_client(miscount)
    found = world("ipam", "check", "--show-problem-ips").out
    for line in (
        "Found 1 handles that count too few IPs, the rest of which a release passes by.\n"
        "  net.def counts 0 in 10.65.0.0/29, where 1 name it\n",
        "Found 2 handles that count too many IPs (no problem by itself).\n"
        "  net.abc counts 3 in 10.65.0.0/29, where 1 name it\n"
        "  net.abc counts 1 in 10.65.0.8/29, where 0 name it\n",
        "IPAM handle b: 'block' must map block CIDRs to counts",
        "Check complete; found 4 problems.",
    ):
        assert line in found


def test_release_what_reports_agree_on(world: Run) -> None:
    assert world("datastore", "migrate", "lock").out == "Datastore locked.\n"
    world("ipam", "check", "-o", "one.json")
    report = json.loads(Path("one.json").read_text())
    assert report["datastoreLocked"] is True
    sequence = report["allocations"]["10.65.0.2"][0].pop("sequenceNumber")
    assert sequence > 1 << 60
    assert report["allocations"]["10.65.0.2"] == [
        {
            "ip": "10.65.0.2",
            "handle": "net.def",
            "pod": "gone",
            "namespace": "prod",
            "node": "n1",
            "inUse": False,
            "owners": None,
        }
    ]
    assert report["allocations"]["10.65.0.0"][0]["owners"] == ["Node(n1)"]
    # In the second report 10.65.0.3 is in use, so it is not beyond doubt.
    other = json.loads(Path("one.json").read_text())
    other["allocations"]["10.65.0.3"][0]["inUse"] = True
    Path("two.json").write_text(json.dumps(other))
    done = world("ipam", "release", "--from-report=one.json", "--from-report=two.json")
    assert (done.status, done.err) == (0, "")
    assert done.out.startswith("Released 1 IPs; 0 were released before\nDeleted 0 handles; 0 have changed")
    assert world("ipam", "show", "--ip=10.65.0.2").out == "10.65.0.2 is not assigned\n"
    assert "in use" in world("ipam", "show", "--ip=10.65.0.3").out


def test_release_deletes_leaked_handles_that_did_not_change(world: Run) -> None:
    for name in ("idle", "moved"):
        with_client(lambda client, name=name: client.kv.put(f"/calico/ipam/v2/handle/{name}", b"{}"))  # type: ignore[misc]
    world("datastore", "migrate", "lock")
    world("ipam", "check", "-o", "r.json")
    with_client(lambda client: client.kv.put("/calico/ipam/v2/handle/moved", b"{}"))
    done = world("ipam", "release", "--from-report=r.json")
    assert "Released 2 IPs; 0 were released before\nDeleted 1 handles; 1 have changed since the report\n" in done.out


def test_release_refuses_reports_that_do_not_fit(world: Run) -> None:
    world("ipam", "check", "-o", "r.json")
    good = json.loads(Path("r.json").read_text())
    unlocked = world("ipam", "release", "--from-report=r.json")
    assert unlocked.status == 1
    assert "not locked" in unlocked.err
    for change, reason in (
        ({"clusterGUID": "0" * 32}, "is a report of cluster 0000"),
        ({"version": "v1.0"}, "was made by version v1.0"),
        ({"clusterInformationRevision": "1"}, "ClusterInformation has changed since"),
        ({"allocations": []}, "is not a report of 'ipam check'"),
        ({"allocations": {"x": [{"ip": "x", "inUse": False}]}}, "is not a report of 'ipam check'"),
        ({"leakedHandles": [{"ID": 5}]}, "ID = 5 must be a string"),
    ):
        refused = world("ipam", "release", "--from-report=b", files={"b": json.dumps({**good, **change})})
        assert (refused.status, refused.out) == (1, "")
        assert reason in refused.err
    assert "is not a report of" in world("ipam", "release", "--from-report=x", files={"x": "{"}).err
    assert "cannot read none.json" in world("ipam", "release", "--from-report=none.json").err
    forced = world("ipam", "release", "--from-report=r.json", "--force")
    assert forced.status == 0
    assert "WARNING: the datastore is not locked" in forced.err


def test_split_keeps_addresses_and_settings(world: Run) -> None:
    refused = world("ipam", "split", "2", "--name=pool")
    assert (refused.status, refused.out) == (1, "")
    assert "the datastore is not locked" in refused.err
    world("datastore", "migrate", "lock")
    done = world("ipam", "split", "4", "--cidr=10.65.0.0/24")
    assert done.out == (
        "IP pool pool was split into 4 pools:\n  split-pool-0 10.65.0.0/26\n  split-pool-1 10.65.0.64/26\n"
        "  split-pool-2 10.65.0.128/26\n  split-pool-3 10.65.0.192/26\n"
    )
    pools = yaml.safe_load(world("get", "ippools", "-o", "yaml").out)["items"]
    assert [pool["metadata"]["name"] for pool in pools] == ["six", *(f"split-pool-{part}" for part in range(4))]
    assert {pool["spec"]["blockSize"] for pool in pools[1:]} == {29}
    assert len({pool["metadata"]["uid"] for pool in pools}) == 5
    assert "in use" in world("ipam", "show", "--ip=10.65.0.1").out


@pytest.mark.parametrize(
    ("arguments", "reason"),
    [
        (("3", "--name=pool"), "'3' is not a number to split into"),
        (("1", "--name=pool"), "'1' is not a number to split into"),
        (("x", "--name=pool"), "'x' is not a number to split into"),
        (("128", "--name=pool"), "from 2 to 64"),
        (("64", "--name=pool"), "too small for 64 pools with blocks of /29"),
        (("2", "--name=none"), "resource does not exist: IPPool(none)"),
        (("2", "--cidr=10.0.0.0/8"), "no IP pool has the CIDR 10.0.0.0/8"),
        (("2", "--cidr=x"), "'x' is not a valid CIDR"),
        (("2",), "give either --name or --cidr"),
    ],
)
def test_split_refuses(world: Run, arguments: tuple[str, ...], reason: str) -> None:
    world("datastore", "migrate", "lock")
    refused = world("ipam", "split", *arguments)
    assert (refused.status, refused.out) == (1, "")
    assert reason in refused.err
    assert len(world("get", "ippools", "-o", "name").out.split()) == 2


def test_split_changes_nothing_when_a_part_exists(world: Run) -> None:
    world("datastore", "migrate", "lock")
    other = WORLD.split("---\n")[2].replace("name: pool", "name: split-pool-1").replace("10.65.0.0/24", "10.1.0.0/24")
    world("apply", "-f", "o.yaml", files={"o.yaml": other})
    refused = world("ipam", "split", "2", "--name=pool")
    assert refused.err.startswith("resource already exists: IPPool(split-pool-1)")
    assert "ippool/pool\n" in world("get", "ippools", "-o", "name").out


def test_a_deleted_pool_gives_its_blocks_back(world: Run) -> None:
    world("ipam", "release", "--ip=10.65.0.3")
    assert world("delete", "ippool", "pool").status == 0
    stored, _ = with_client(lambda client: client.kv.get("/calico/ipam/v2/host/n1/ipv4/block/10.65.0.0-29"))
    assert stored is None


def test_a_deleted_node_gives_its_addresses_back(world: Run) -> None:
    assert world("delete", "node", "n1").status == 0
    assert world("ipam", "show", "--ip=10.65.0.1").out == "10.65.0.1 is not assigned\n"
    assert world("ipam", "show", "--ip=10.65.0.0").out == "10.65.0.0 is not assigned\n"


@given(
    st.lists(st.integers(0, 63), unique=True),
    st.lists(st.tuples(st.integers(0, 63), st.integers(27, 32)), max_size=4),
)
def test_use_of_a_pool_is_what_counting_its_addresses_gives(
    taken: list[int], reserved: list[tuple[int, int]]
) -> None:
    pool = Pool("p", "10.0.0.0/26", 28)
    blocks = []
    for index in range(4):
        block = Block.new(f"10.0.0.{16 * index}/28", "host:n", 1)
        blocks.append(block.assigned([o - 16 * index for o in taken if o // 16 == index], "h", {}))
    cidrs = [f"10.0.0.{address}/{length}" for address, length in reserved]
    held = {o for o in range(64) if any(o >> (32 - bits) == base >> (32 - bits) for base, bits in reserved)}
    (counted,) = usage([pool], blocks, cidrs)
    assert counted.pool is not None
    assert counted.pool.in_use == len(taken)
    assert counted.pool.reserved == len(held)
    assert counted.pool.free == len(set(range(64)) - set(taken) - held) == sum(block.free for block in counted.blocks)
