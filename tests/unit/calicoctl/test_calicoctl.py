"""calicoctl against an embedded datastore: what it does, prints and exits with."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from calico_node import settings
from calico_node.calicoctl import manifests
from tests.unit.calicoctl.conftest import Run

COMMAND = (sys.executable, "-m", "calico_node.calicoctl")
NODE = """\
apiVersion: projectcalico.org/v3
kind: Node
metadata: {name: node1}
spec: {bgp: {ipv4Address: 10.0.0.1/24}}
"""
POOL = """\
apiVersion: projectcalico.org/v3
kind: IPPool
metadata: {name: pool}
spec: {cidr: 192.168.0.0/16, natOutgoing: true, vxlanMode: CrossSubnet}
"""
POLICY = """\
apiVersion: projectcalico.org/v3
kind: NetworkPolicy
metadata: {name: web, namespace: prod}
spec:
  selector: >
    app == 'web'
  order: 10
  ingress:
  - action: Allow
    protocol: TCP
    source: {selector: role == 'fe' && has(x)}
    destination: {ports: [80, "1:9", http]}
"""


def test_apply_get_replace_and_delete(run: Run) -> None:
    applied = run("apply", "-f", "all.yaml", files={"all.yaml": f"{NODE}---\n{POOL}---\n{POLICY}"})
    assert (applied.out, applied.err, applied.status) == ("Successfully applied 3 resource(s)\n", "", 0)
    assert run("get", "np", "-n", "prod").lines() == [["NAMESPACE", "NAME", "TIER"], ["prod", "web", "default"], []]
    assert run("get", "policy").lines() == [["NAME", "TIER"], []]
    assert run("get", "policy", "-A").lines()[1] == ["prod", "web", "default"]

    stored = yaml.safe_load(run("get", "np", "web", "-n", "prod", "-o", "yaml").out)
    assert stored["spec"]["selector"] == "app == 'web'"
    assert stored["spec"]["types"] == ["Ingress"]
    assert stored["metadata"]["labels"] == {"projectcalico.org/tier": "default"}
    assert "annotations" not in stored["metadata"]

    changed = POLICY.replace("order: 10", "order: 20")
    replaced = run("replace", "-f", "policy.yaml", files={"policy.yaml": changed})
    assert (replaced.out, replaced.status) == ("Successfully replaced 1 'NetworkPolicy' resource(s)\n", 0)
    again = json.loads(run("get", "np", "web", "-n", "prod", "-o", "json").out)
    assert again["spec"]["order"] == 20
    assert again["metadata"]["uid"] == stored["metadata"]["uid"]
    assert int(again["metadata"]["resourceVersion"]) > int(stored["metadata"]["resourceVersion"])

    deleted = run("delete", "-f", "all.yaml")
    assert (deleted.out, deleted.status) == ("Successfully deleted 3 resource(s)\n", 0)
    assert run("get", "nodes").lines() == [["NAME"], []]


def test_what_get_shows_can_be_applied_again(run: Run) -> None:
    run("apply", "-f", "p.yaml", files={"p.yaml": POLICY})
    for form in ("yaml", "json"):
        for target in (("np", "-A"), ("np", "web", "-n", "prod")):
            text = run("get", *target, "-o", form).out
            applied = run("apply", "-f", "again", files={"again": text})
            assert applied.out == "Successfully applied 1 'NetworkPolicy' resource(s)\n"


def test_tables(run: Run) -> None:
    run("apply", "-f", "all.yaml", files={"all.yaml": f"{NODE}---\n{POOL}"})
    assert run("get", "ippool").out == (
        "NAME   CIDR             SELECTOR   \npool   192.168.0.0/16   all()      \n\n"
    )
    assert run("get", "pools", "-o", "wide").lines() == [
        [
            "NAME",
            "CIDR",
            "NAT",
            "IPIPMODE",
            "VXLANMODE",
            "DISABLED",
            "DISABLEBGPEXPORT",
            "SELECTOR",
            "ASSIGNMENTMODE",
        ],
        ["pool", "192.168.0.0/16", "true", "Never", "CrossSubnet", "false", "false", "all()", "Automatic"],
        [],
    ]
    assert run("get", "node", "-o", "wide").lines()[1] == ["node1", "(64512)", "10.0.0.1/24"]
    head = "kind: BGPConfiguration, apiVersion: projectcalico.org/v3, metadata: {name: default}"
    config = f"{{{head}, spec: {{asNumber: 65001}}}}"
    run("apply", "-f", "bgp.yaml", files={"bgp.yaml": config})
    assert run("get", "node", "node1", "-o", "custom-columns=ASN").lines()[1] == ["(65001)"]
    assert run("get", "tiers").lines()[:2] == [["NAME", "ORDER"], ["kube-admin", "1000"]]
    assert run("get", "ippool", "-o", "custom-columns=cidr,NAME").lines()[1] == ["192.168.0.0/16", "pool"]
    assert run("get", "ippool", "-o", "name").out == "ippool/pool\n"
    unknown = run("get", "ippool", "-o", "custom-columns=COLOUR")
    assert unknown.status == 1
    assert unknown.err.startswith("unknown heading COLOUR, valid values are: NAME, CIDR, ")


def test_the_form_of_json_and_yaml(run: Run) -> None:
    run("apply", "-f", "p.yaml", files={"p.yaml": POLICY})
    one = run("get", "np", "web", "-n", "prod", "-o", "json").out
    assert one.startswith('{\n  "kind": "NetworkPolicy",\n  "apiVersion": "projectcalico.org/v3",\n  "metadata": {')
    assert not one.endswith("\n")
    assert r'"selector": "role == ' in one
    assert r"\u0026\u0026" in one
    listed = json.loads(run("get", "np", "-A", "-o", "json").out)
    assert (listed["kind"], len(listed["items"])) == ("NetworkPolicyList", 1)
    assert json.loads(run("get", "pools", "-o", "json").out)["items"] == []
    several = json.loads(run("get", "tier", "default", "kube-admin", "-o", "json").out)
    assert [item["metadata"]["name"] for item in several] == ["default", "kube-admin"]
    assert list(yaml.safe_load(run("get", "tier", "default", "-o", "yaml").out)) == [
        "apiVersion",
        "kind",
        "metadata",
        "spec",
        "status",
    ]
    exported = yaml.safe_load(run("get", "np", "web", "-n", "prod", "-o", "yaml", "--export").out)
    assert set(exported["metadata"]) == {"name", "labels"}
    assert run("get", "np", "-A", "-o", "json", "--export").out == run("get", "np", "-A", "-o", "json").out


def test_create_refuses_what_exists_unless_told(run: Run) -> None:
    run("create", "-f", "pool.yaml", files={"pool.yaml": POOL})
    again = run("create", "-f", "pool.yaml")
    assert (again.out, again.status) == ("", 1)
    assert again.err.startswith("failed to create 'IPPool' resource: [resource already exists: IPPool(pool)")
    skipped = run("create", "-f", "pool.yaml", "--skip-exists")
    assert (skipped.out, skipped.status) == ("Successfully created 1 'IPPool' resource(s)\n", 0)


def test_partial_success_is_said(run: Run) -> None:
    other = POOL.replace("name: pool", "name: other").replace("192.168.0.0/16", "10.0.0.0/16")
    run("create", "-f", "pool.yaml", files={"pool.yaml": POOL})
    partial = run("create", "-f", "both.yaml", files={"both.yaml": f"{other}---\n{POOL}"})
    assert partial.out == "Partial success: created the first 1 out of 2 'IPPool' resources:\n  IPPool(other)\n"
    assert partial.err.startswith("hit error: [resource already exists: IPPool(pool)")
    assert partial.status == 1
    # What stands behind an error is tried too.
    text = f"{other.replace('10.0.0.0', '192.168.0.0')}---\n{NODE}"
    again = run("apply", "-f", "two.yaml", files={"two.yaml": text})
    assert again.out == "Partial success: applied the first 1 out of 2 resources:\n  Node(node1)\n"
    assert again.err.startswith("hit error: [")
    none = run("create", "-f", "both.yaml")
    assert none.err.startswith("failed to create any 'IPPool' resources: [resource already exists: IPPool(other)")


def test_nothing_is_written_when_one_document_is_wrong(run: Run) -> None:
    policy, node = POLICY.replace("protocol: TCP", "protocol: tcp"), NODE.replace("10.0.0.1/24", "10.0.0.300")
    text = f"{POOL}---\n{policy}---\n{node}"
    refused = run("apply", "-f", "bad.yaml", files={"bad.yaml": text})
    assert (refused.out, refused.status) == ("", 1)
    assert "2 documents cannot be used, nothing was done:" in refused.err
    assert "bad.yaml, document 2, line 15: NetworkPolicy(prod/web): spec.ingress[0].protocol = 'tcp':" in refused.err
    assert "bad.yaml, document 3, line 22: Node(node1): spec.bgp.ipv4Address = '10.0.0.300': is not" in refused.err
    assert run("get", "pools").lines()[1:] == [[]]


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("{", "bad.yaml, line 2, column 1: malformed YAML"),
        (
            "kind: Pod\napiVersion: v1\nmetadata: {name: p}",
            "Pod(p): apiVersion = 'v1': must be projectcalico.org/v3;",
        ),
        (
            POOL.replace("IPPool", "IPool"),
            "kind = 'IPool': unknown kind in projectcalico.org/v3 (did you mean IPPool?)",
        ),
        (POOL.replace("cidr", "cdir"), "line 4: IPPool(pool): spec.cdir: field in document is not recognized"),
        (POOL.replace("name: pool", "name: Pool"), "metadata.name = 'Pool'"),
        ("", "No resources specified"),
        (POLICY.replace("app ==", "app ="), "invalid selector at position 4"),
        (
            POLICY.replace("  order", "  tier: x\n  order"),
            "bad.yaml, document 1, line 7: NetworkPolicy(prod/web): spec.tier",
        ),
        (POLICY.replace("  order", "  tier: no\n  order"), "spec.tier = False: must be a string (put it in quotes)"),
        ("kind: ClusterInformation\napiVersion: projectcalico.org/v3\nmetadata: {name: default}", "read-only"),
        (POLICY.replace("name: web", "name: knp.default.web"), "is not supported on NetworkPolicy(prod/knp"),
        ("kind: IPPoolList\napiVersion: projectcalico.org/v3\nitems: 5", "items = 5: must be a list"),
    ],
)
def test_bad_input_is_one_clear_text(run: Run, text: str, reason: str) -> None:
    refused = run("apply", "-f", "bad.yaml", files={"bad.yaml": text})
    assert (refused.out, refused.status) == ("", 1)
    assert reason in refused.err


@pytest.mark.parametrize(
    ("arguments", "reason"),
    [
        (("get",), "KIND"),
        (("get", "foo"), "resource type 'foo' is not supported"),
        (("get", "blockaffinity"), "is not supported"),
        (("get", "nodes", "-o", "xml"), "unrecognized output format 'xml'"),
        (("get", "node", "x"), "resource does not exist: Node(x)"),
        (("get", "np", "x", "-A"), "cannot use --all-namespace flag for getting a single resource"),
        (("get", "np", "-A", "-n", "x"), "cannot use both --namespace and --all-namespaces flags at the same time"),
        (("get", "node", "-A"), "Node is not namespaced"),
        (("delete", "node", "x", "-n", "y"), "Node is not namespaced"),
        (("get", "node", ""), "resource name may not be empty"),
        (("get", "nodes", "-l", "loud"), "unknown log level: loud, expected one of: panic, fatal,"),
        (("label", "nodes", "x", "a=b"), "nodes x not found"),
        (("label", "nodes", "x", "a"), "invalid label a"),
        (("patch", "node", "x", "-p", "{}"), "hit error: resource does not exist: Node(x)"),
        (("get", "foo"), "failed to get resources: resource type 'foo' is not supported"),
        (("delete", "node", "x", "y"), "Failed to delete 'Node' resource: resource does not exist: Node(y)"),
        (("get", "-f", "missing.yaml"), "cannot read missing.yaml: No such file"),
        (("delete", "node"), "name of the Node"),
        (("delete", "node", "x"), "Failed to delete 'Node' resource: resource does not exist: Node(x)"),
        (("delete", "clusterinfo", "default"), "operation Delete is not supported on ClusterInformation(default)"),
        (("delete", "tier", "default"), "Failed to delete 'Tier' resource:"),
        (("apply",), "-f"),
        (("fly",), "No such command 'fly'"),
        (("get", "nodes", "-c", "missing.cfg"), "Error reading config file: missing.cfg"),
    ],
)
def test_wrong_use_is_one_clear_text(run: Run, arguments: tuple[str, ...], reason: str) -> None:
    refused = run(*arguments)
    assert refused.status == 1
    assert reason in refused.err
    assert refused.out == ""


def test_a_namespace_is_refused_where_there_is_none(run: Run) -> None:
    refused = run("apply", "-f", "p.yaml", "-n", "x", files={"p.yaml": POOL})
    assert "IPPool is not namespaced" in refused.err
    refused = run("apply", "-f", "p.yaml", files={"p.yaml": POOL.replace("name: pool", "name: pool, namespace: x")})
    assert "IPPool is not a namespaced resource" in refused.err
    assert (refused.status, refused.out) == (1, "")


def test_what_is_not_there_is_null(run: Run) -> None:
    assert run("get", "node", "x", "-o", "json").out == "null"
    assert run("get", "node", "x", "-o", "yaml").out.startswith("null\n")
    assert run("get", "node", "x").out == ""


def test_each_name_has_a_table_of_its_own(run: Run) -> None:
    run("apply", "-f", "pool.yaml", files={"pool.yaml": POOL})
    assert run("get", "tier", "default", "kube-admin").lines() == [
        *(["NAME", "ORDER"], ["default", "1e+06"], []),
        *(["NAME", "ORDER"], ["kube-admin", "1000"], []),
    ]


def test_delete_goes_on_and_can_skip_what_is_not_there(run: Run) -> None:
    run("apply", "-f", "pool.yaml", files={"pool.yaml": POOL})
    mixed = run("delete", "ippool", "x", "pool")
    assert mixed.out == "Successfully deleted 1 'IPPool' resource(s)\n"
    assert "IPPool(x)" in mixed.err
    assert mixed.status == 1
    skipped = run("delete", "ippool", "x", "--skip-not-exists")
    assert (skipped.err, skipped.status) == ("", 0)


def test_namespaces(run: Run) -> None:
    without = POLICY.replace(", namespace: prod", "")
    run("apply", "-f", "p.yaml", files={"p.yaml": without})
    assert run("apply", "-f", "p.yaml", "-n", "test").status == 0
    assert [row[:2] for row in run("get", "np", "-A").lines()[1:3]] == [["default", "web"], ["test", "web"]]
    contradicting = run("apply", "-f", "q.yaml", "-n", "test", files={"q.yaml": POLICY})
    assert contradicting.status == 1
    assert (
        "q.yaml, document 1, line 3: NetworkPolicy(prod/web): metadata.namespace: "
        "resource namespace does not match client namespace. prod != test" in contradicting.err
    )


def test_folders(run: Run) -> None:
    files = {"d/a.yaml": POOL, "d/b.json": json.dumps(yaml.safe_load(NODE)), "d/c.txt": "{", "d/e/p.yml": POLICY}
    assert run("apply", "-f", "d", files=files).out == "Successfully applied 2 resource(s)\n"
    assert run("apply", "-R", "-f", "d").out == "Successfully applied 3 resource(s)\n"
    empty = run("apply", "-f", "none", files={"none/readme.txt": ""})
    assert (empty.err, empty.status) == ("No resources specified in directory none\n", 1)
    assert run("apply", "-f", "none", "--skip-empty").status == 0


def test_each_file_holds_something_unless_told(run: Run) -> None:
    files = {"d/1.yaml": POOL, "d/2.yaml": "# nothing yet\n---\n", "empty.yaml": ""}
    for filename, place in (("empty.yaml", "file empty.yaml"), ("d", "file d/2.yaml"), (".git", "directory .git")):
        Path(".git").mkdir(exist_ok=True)
        refused = run("apply", "-f", filename, files=files)
        assert (refused.out, refused.err, refused.status) == ("", f"No resources specified in {place}\n", 1)
    assert run("apply", "-f", "d", "--skip-empty").out == "Successfully applied 1 'IPPool' resource(s)\n"
    skipped = run("apply", "-f", "empty.yaml", "--skip-empty")
    assert (skipped.out, skipped.err, skipped.status) == ("No resources specified\n", "", 0)
    assert run("get", "-f", "empty.yaml", "--skip-empty", "-o", "yaml").out == "No resources specified\n"


def test_links_in_folders(run: Run) -> None:
    run("validate", "-f", "d", files={"d/sub/1.yaml": POOL})
    Path("d/sub/up").symlink_to("..")
    assert run("apply", "-f", "d", "-R").out == "Successfully applied 1 'IPPool' resource(s)\n"
    Path("d/self.yaml").symlink_to("self.yaml")
    refused = run("apply", "-f", "d", "-R")
    assert (refused.status, refused.err.count("\n")) == (1, 1)
    assert "cannot read d/self.yaml: Too many levels of symbolic links" in refused.err


def test_the_forms_of_a_file(run: Run) -> None:
    node = {"apiVersion": "projectcalico.org/v3", "kind": "Node", "metadata": {"name": "n"}}
    for name, text, count in (
        ("crlf.yaml", POOL.replace("\n", "\r\n"), 1),
        ("bom.yaml", "\ufeff" + POOL, 1),
        ("gaps.yaml", f"---\n{POOL}---\n---\n# a comment\n---\n{NODE}---\n", 2),
        ("list.json", json.dumps([node, {**node, "metadata": {"name": "m"}}]), 2),
        ("kind.json", json.dumps({"apiVersion": "projectcalico.org/v3", "kind": "NodeList", "items": [node]}), 1),
    ):
        done = run("apply", "-f", name, files={name: text})
        assert (done.err, done.status) == ("", 0), name
        assert done.out.startswith(f"Successfully applied {count} "), name


def test_input_without_end_is_refused(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(manifests, "MAX_INPUT", 1000)
    refused = run("apply", "-f", "/dev/zero")
    assert (refused.err, refused.status) == (
        "failed to execute command: /dev/zero has more than 1,000 bytes\n",
        1,
    )


def test_validate_needs_no_datastore(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CALICO_DATASTORE_PATH", "/nonexistent/folder/db")
    checked = run("validate", "-f", "p.yaml", files={"p.yaml": POLICY})
    assert (checked.out, checked.status) == ("Successfully validated 1 'NetworkPolicy' resource(s)\n", 0)


@pytest.mark.parametrize(
    "arguments",
    [
        ("get", "nodes"),
        ("delete", "node", "n"),
        ("label", "nodes", "n", "a=b"),
        ("ipam", "show"),
        ("ipam", "check"),
        ("ipam", "release", "--ip", "10.0.0.1"),
        ("version",),
        ("datastore", "migrate", "export"),
        ("datastore", "backup", "copy"),
    ],
)
def test_who_only_looks_makes_no_datastore(run: Run, monkeypatch: pytest.MonkeyPatch, arguments: tuple[str]) -> None:
    """The path may be a wrong one, where an empty answer would be no answer."""
    monkeypatch.setenv("CALICO_DATASTORE_PATH", f"{Path.cwd()}/elsewhere/datastore.db")
    refused = run(*arguments)
    assert refused.status == 1
    assert "elsewhere/datastore.db: there is no datastore here" in refused.err
    assert not Path("elsewhere").exists()


def test_config_file(run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(settings, "STATE_DIR", tmp_path / "store")
    head = "apiVersion: projectcalico.org/v3\nkind: CalicoAPIConfig\nmetadata: {}\n"
    good = run("get", "nodes", "-c", "c.cfg", files={"c.cfg": head + "spec: {datastoreType: embedded}"})
    assert good.status == 0
    for text, reason in (
        (head + "spec: {datastoreKind: x}", "not recognized or is in the wrong location: datastoreKind"),
        (head.replace("CalicoAPIConfig", "Config"), "expected kind 'CalicoAPIConfig', got 'Config'"),
        (head.replace("/v3", "/v9"), "unknown APIVersion 'projectcalico.org/v9'"),
        ("{", "malformed YAML"),
        ("", "must hold one CalicoAPIConfig document"),
        (head.replace("apiVersion", "#"), "unknown APIVersion ''"),
        (head + "sepc: {}", "not recognized or is in the wrong location: sepc"),
        (head + "spec: [x]", "spec must be an object"),
        (head + "spec: {etcdEndpoints: [http://h:1]}", "etcdEndpoints = ['http://h:1']: must be text"),
        (head + "spec: {etcdPassword: 5}", "etcdPassword = 5: must be text"),
        (head + "spec: {usePodCIDR: 'yes'}", "usePodCIDR = 'yes': must be true or false"),
        (head + "spec: {k8sClientBurst: true}", "k8sClientBurst = True: must be a whole number"),
    ):
        bad = run("get", "nodes", "-c", "c.cfg", files={"c.cfg": text})
        assert bad.status == 1
        assert reason in bad.err
    assert (
        run("get", "nodes", "-c", "none.cfg").err
        == "failed to execute command: Error reading config file: none.cfg\n"
    )


def test_the_environment_adds_nothing_to_a_config_file(
    run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(settings, "STATE_DIR", tmp_path / "store")
    head = "apiVersion: projectcalico.org/v3\nkind: CalicoAPIConfig\n"
    monkeypatch.setenv("DATASTORE_TYPE", "nonsense")
    monkeypatch.setenv("CALICO_ETCD_ENDPOINTS", "http://127.0.0.1:1")
    monkeypatch.setenv("ETCD_CA_CERT_FILE", "/none")
    assert run("get", "nodes").status == 1
    good = run("get", "nodes", "-c", "c.cfg", files={"c.cfg": head + "spec: {datastoreType: embedded}"})
    assert (good.err, good.status) == ("", 0)
    shown = run(
        "node", "run", "--dryrun", "-c", "d.cfg", files={"d.cfg": head + "spec: {etcdEndpoints: 'http://h:1'}"}
    )
    assert "DATASTORE_TYPE='' ETCD_CA_CERT_FILE='' ETCD_ENDPOINTS=http://h:1 calico-node run" in shown.out


def test_patch_merges_and_checks(run: Run) -> None:
    run("apply", "-f", "p.yaml", files={"p.yaml": POLICY})
    patch = '{"spec": {"order": null, "types": ["Egress"], "ingress": [{"action": "Deny"}]}}'
    patched = run("patch", "np", "web", "-n", "prod", "-p", patch)
    assert (patched.out, patched.status) == ("Successfully patched 1 'NetworkPolicy' resource\n", 0)
    spec = yaml.safe_load(run("get", "np", "web", "-n", "prod", "-o", "yaml").out)["spec"]
    assert spec == {
        "ingress": [{"action": "Deny"}],
        "selector": "app == 'web'",
        "tier": "default",
        "types": ["Egress"],
    }
    for text, reason in (
        ("spec: {colour: red}", "NetworkPolicy(prod/web): spec.colour: field in document is not recognized"),
        ("spec: {selector: x}", "invalid selector at position 1"),
        ("metadata: {name: other}", "cannot be changed by a patch"),
        ("[]", "must be an object"),
        ("{", "malformed YAML"),
    ):
        refused = run("patch", "np", "web", "-n", "prod", "-p", text)
        assert refused.status == 1
        assert reason in refused.err


def test_label(run: Run) -> None:
    run("apply", "-f", "node.yaml", files={"node.yaml": NODE})
    assert run("label", "node", "node1", "rack=a").out == "Successfully set label rack on node node1\n"
    again = run("label", "node", "node1", "rack=b")
    assert again.status == 1
    assert again.err == (
        "failed to update label of node node1, key rack is already present. "
        "please use '--overwrite' to set a new value\n"
    )
    changed = run("label", "node", "node1", "rack=b", "--overwrite")
    assert changed.out == "Successfully updated label rack on node node1\n"
    assert yaml.safe_load(run("get", "node", "node1", "-o", "yaml").out)["metadata"]["labels"] == {"rack": "b"}
    assert (
        run("label", "node", "node1", "rack", "--remove").out == "Successfully removed label rack from node node1\n"
    )
    gone = run("label", "node", "node1", "rack", "--remove")
    assert gone.err == "cannot remove label of node node1, key rack does not exist\n"
    assert "is not a valid label value" in run("label", "node", "node1", "rack=a b").err
    assert "key=value" in run("label", "node", "node1", "rack").err


def test_version(run: Run) -> None:
    run("apply", "-f", "node.yaml", files={"node.yaml": NODE})
    shown = run("version")
    assert [line.partition(":")[0] for line in shown.out.splitlines()] == [
        "Client Version",
        "Git commit",
        "Cluster Version",
        "Cluster Type",
    ]
    assert run("version", "--client").out.count("\n") == 2


def test_version_polls(run: Run) -> None:
    run("apply", "-f", "node.yaml", files={"node.yaml": NODE})
    for wrong in ("x", "-1s", "1"):
        assert f"--poll = '{wrong}': must be a duration" in run("version", "--poll", wrong).err
    assert run("version", "--poll=0").status == 0
    command = [*COMMAND, "version", "--poll=20ms"]
    watching = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    try:
        assert watching.stdout is not None
        assert watching.stderr is not None
        lines = [watching.stdout.readline() for _ in range(4)]
        set_cluster_version("v3.1.0")
        assert watching.stdout.readline() == "Cluster Version:   v3.1.0\n"
        cluster = replace_cluster()
        assert watching.stderr.readline().startswith("unable to retrieve Cluster Version or Type: ")
        replace_cluster(by=cluster)
        assert [watching.stdout.readline() for _ in range(2)] == ["Cluster Version:   v3.1.0\n", lines[3]]
    finally:
        watching.kill()
        watching.communicate()


def test_a_poll_interrupted_ends_without_a_word(run: Run) -> None:
    run("apply", "-f", "node.yaml", files={"node.yaml": NODE})
    watching = subprocess.Popen(
        [*COMMAND, "version", "--poll=1h"],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        # Whatever started the tests may have ignored it.
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    )
    assert watching.stdout is not None
    for _ in range(4):
        watching.stdout.readline()
    watching.send_signal(signal.SIGINT)
    out, err = watching.communicate(timeout=30)
    assert (out, err, watching.returncode) == ("", "", -signal.SIGINT)


def test_a_cluster_of_another_version_is_refused_unless_allowed(run: Run) -> None:
    run("apply", "-f", "node.yaml", files={"node.yaml": NODE})
    set_cluster_version("v3.1.0")
    refused = run("get", "nodes")
    assert refused.status == 1
    assert "version mismatch.\nClient Version:   v3." in refused.err
    assert "Cluster Version:  v3.1.0\nUse --allow-version-mismatch to override" in refused.err
    assert run("get", "nodes", "--allow-version-mismatch").status == 0
    assert run("--allow-version-mismatch", "get", "nodes").status == 0


def set_cluster_version(version: str) -> None:
    import asyncio

    from calico_node.datastores import open_client
    from calico_node.settings import Settings

    async def change() -> None:
        async with open_client(Settings.load()) as client:
            information = await client.get("ClusterInformation", "default")
            information.spec.calico_version = version
            await client.update(information)

    asyncio.run(change())


def replace_cluster(by: bytes = b"") -> bytes:
    """ClusterInformation's stored text, in the place of which there is ``by`` now, or nothing."""
    import asyncio

    from calico_node.datastores import open_client
    from calico_node.datastores.kv import Delete, Put
    from calico_node.datastores.names import resource_key
    from calico_node.settings import Settings

    async def change() -> bytes:
        key = resource_key("ClusterInformation", "default")
        async with open_client(Settings.load()) as client:
            stored, _ = await client.kv.get(key)
            await client.kv.txn([], [Put(key, by) if by else Delete(key)])
            return stored.value if stored else b""

    return asyncio.run(change())


def test_the_real_executable_reads_standard_input(tmp_path: Path) -> None:
    environ = {"PATH": os.environ["PATH"], "CALICO_DATASTORE_PATH": str(tmp_path / "db")}
    applied = subprocess.run(
        [*COMMAND, "apply", "-f", "-"],
        input=POOL,
        text=True,
        capture_output=True,
        env=environ,
        timeout=60,
        check=False,
    )
    assert (applied.stdout, applied.stderr) == ("Successfully applied 1 'IPPool' resource(s)\n", "")


def imported_by(*arguments: str, environ: dict[str, str]) -> set[str]:
    """The top-level packages that a run of the executable imports."""
    command = [sys.executable, "-X", "importtime", *COMMAND[1:], *arguments]
    done = subprocess.run(command, text=True, capture_output=True, env=environ, timeout=60, check=True)
    lines = [line for line in done.stderr.splitlines() if line.startswith("import time:")]
    return {line.rpartition("|")[2].strip().partition(".")[0] for line in lines}


def test_commands_import_only_what_they_need(tmp_path: Path) -> None:
    environ = {"PATH": os.environ["PATH"], "CALICO_DATASTORE_PATH": str(tmp_path / "db")}
    subprocess.run([*COMMAND, "apply", "-f", "-"], input=POOL, text=True, env=environ, timeout=60, check=True)
    slow = {"yaml", "aiohttp", "etcd3aio", "rich", "grpc", "structlog", "calico_node.kubernetes"}
    assert not imported_by("version", "--client", environ=environ) & {*slow, "asyncio", "orjson"}
    shown = imported_by("version", environ=environ)
    assert "orjson" in shown
    assert not shown & slow
    assert not imported_by("get", "ippools", environ=environ) & slow


@pytest.mark.parametrize(
    ("words", "completed"),
    [
        ("calicoctl da", ["datastore"]),
        ("calicoctl get network", ["networkpolicy", "networkset"]),
        ("calicoctl ipam s", ["show", "split"]),
        ("calicoctl datastore migrate l", ["lock"]),
        ("calicoctl delete --sk", ["--skip-empty", "--skip-not-exists"]),
        ("calicoctl get nodes -o y", ["yaml", "yml"]),
        ("calicoctl get nodes -o go", ["go-template=", "go-template-file="]),
        ("calicoctl convert -o ", ["yaml", "json"]),
    ],
)
def test_words_are_completed(words: str, completed: list[str]) -> None:
    assert complete(words) == completed


@pytest.mark.parametrize("words", ["apply -f ma", "get -f ma", "datastore migrate import -f ma", "get nodes -c ma"])
def test_files_are_left_to_the_shell(words: str) -> None:
    assert completion(f"calicoctl {words}") == ["file,ma"]


def complete(words: str) -> list[str]:
    return [line.partition(",")[2] for line in completion(words)]


def completion(words: str) -> list[str]:
    asked = {"COMP_WORDS": words, "COMP_CWORD": str(words.count(" ")), "_CALICOCTL_COMPLETE": "bash_complete"}
    program = "from calico_node.calicoctl.main import main; main()"
    done = subprocess.run(
        [sys.executable, "-c", program], env={**os.environ, **asked}, text=True, capture_output=True, check=True
    )
    assert done.stderr == ""
    return [line for line in done.stdout.splitlines() if line]


def test_names_of_resources_are_completed(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    run("apply", "-f", "x.yaml", files={"x.yaml": f"{NODE}---\n{POOL}---\n{NODE.replace('node1', 'node2')}"})
    run("apply", "-n", "prod", "-f", "p.yaml", files={"p.yaml": POLICY})
    assert complete("calicoctl get node n") == ["node1", "node2"]
    assert complete("calicoctl delete node node1 n") == ["node2"]
    assert complete("calicoctl label ippools ") == ["pool"]
    assert complete("calicoctl get policy ") == []
    assert len(complete("calicoctl get policy -n prod ")) == 1
    assert complete("calicoctl get nonsense ") == []
    monkeypatch.setenv("ETCD_ENDPOINTS", "http://127.0.0.1:1")
    assert complete("calicoctl get node ") == []


def test_completion_prints_what_the_shell_evaluates(run: Run) -> None:
    assert "_CALICOCTL_COMPLETE=bash_complete" in run("completion", "bash").out
    assert run("completion", "csh").status == 1


@pytest.mark.parametrize("group", ["ipam", "node", "datastore", "cluster"])
def test_every_group_says_what_it_has(run: Run, group: str) -> None:
    assert "Commands:" in run(group, "--help").out
    unknown = run(group, "fly")
    assert (unknown.status, unknown.out) == (1, "")
    assert "No such command 'fly'" in unknown.err
