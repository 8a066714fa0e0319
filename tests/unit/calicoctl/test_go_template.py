"""``calicoctl get -o go-template``: resources by their Go field names."""

# ruff: noqa: E501 - templates stand on one line

from __future__ import annotations

import pytest

from calico_node.calicoctl.goview import ResourceObject
from calico_node.calicoctl.templates import join_and_truncate
from calico_node.resources import KINDS
from calico_node.resources import from_dict as read
from tests.unit.calicoctl.conftest import Run

V3 = "apiVersion: projectcalico.org/v3\n"
DOCUMENTS = f"""\
{V3}kind: Node
metadata: {{name: node1, labels: {{rack: a}}}}
spec: {{bgp: {{ipv4Address: 10.0.0.1/24, asNumber: 65001}}, ipv4VXLANTunnelAddr: 10.1.0.1}}
---
{V3}kind: Node
metadata: {{name: node2}}
spec: {{}}
---
{V3}kind: IPPool
metadata: {{name: pool}}
spec: {{cidr: 192.168.0.0/16, natOutgoing: true}}
---
{V3}kind: NetworkPolicy
metadata: {{name: web, namespace: prod}}
spec:
  selector: app == 'web'
  order: 1000000
  ingress:
  - {{action: Allow, protocol: TCP, destination: {{ports: [80, "1:9", http]}}}}
---
{V3}kind: BGPConfiguration
metadata: {{name: default}}
spec: {{nodeToNodeMeshEnabled: false, asNumber: 64999}}
"""


@pytest.mark.parametrize(
    ("arguments", "template", "text"),
    [
        (("nodes",), "{{range .}}{{.Kind}}{{range .Items}} {{.Name}}{{end}}{{end}}", "NodeList node1 node2"),
        (("node", "node1", "node2"), "{{range .}}{{.ObjectMeta.Name}},{{end}}", "node1,node2,"),
        (("node", "node1"), '{{range .}}{{.TypeMeta.Kind}} {{.APIVersion}} {{index .Labels "rack"}}{{end}}', "Node projectcalico.org/v3 a"),
        (("node", "node1"), "{{range .}}{{.Spec.BGP.ASNumber}} {{.Spec.BGP.IPv4Address}} {{.Spec.IPv4VXLANTunnelAddr}}{{end}}", "65001 10.0.0.1/24 10.1.0.1"),
        (("node", "node2"), "{{range .}}{{if .Spec.BGP}}yes{{else}}no{{end}} {{.Spec.BGP}} {{.Labels}}{{end}}", "no <nil> map[]"),
        (("node", "node2"), '{{config "asnumber"}}', "64999"),
        (("ippool", "pool"), "{{range .}}{{.Spec.CIDR}} {{.Spec.IPIPMode}} {{.Spec.NATOutgoing}} {{.Spec.BlockSize}} {{join .Spec.AllowedUses `+`}}{{end}}", "192.168.0.0/16 Never true 26 Workload+Tunnel"),
        (("ippool", "pool"), "{{range .}}{{joinAndTruncate .Spec.AllowedUses `,` 8}}{{end}}", "Workl..."),
        (("np", "-n", "prod"), "{{range .}}{{range .Items}}{{.Spec.Order}} {{range .Spec.Ingress}}{{.Protocol}}{{range .Destination.Ports}} {{.}}/{{.MinPort}}{{end}} {{.NotProtocol}} {{.Source.Selector}}{{.Source.Nets}}{{end}}{{end}}{{end}}", "1e+06 TCP 80/80 1:9/1 http/0 <nil> []"),
        (("bgpconfig", "default"), "{{range .}}{{if .Spec.NodeToNodeMeshEnabled}}set {{.Spec.NodeToNodeMeshEnabled}}{{end}}{{end}}", "set false"),
        (("tier", "default"), "{{range .}}{{.Spec.Order}}{{if eq .Spec.Order 1e6}} last{{end}}{{end}}", "1e+06 last"),
    ],
)  # fmt: skip
def test_templates_see_go_fields(run: Run, arguments: tuple[str, ...], template: str, text: str) -> None:
    assert run("apply", "-f", "all.yaml", files={"all.yaml": DOCUMENTS}).err == ""
    shown = run("get", *arguments, "-o", f"go-template={template}")
    assert (shown.err, shown.out, shown.status) == ("", text, 0)
    again = run("get", *arguments, "-o", "go-template-file=t.tpl", files={"t.tpl": template})
    assert again.out == text


@pytest.mark.parametrize(
    ("output", "text"),
    [
        ("go-template", "need to specify a template\n"),
        ("go-template=", "need to specify a template\n"),
        ("go-template-file=", "need to specify a template file\n"),
        ("go-template-file=none.tpl", "cannot read none.tpl: No such file or directory\n"),
        ("go-template={{", "template: get:1: unclosed action\n"),
        ("go-template={{range .}}\n{{.Nope}}{{end}}", "can't evaluate field Nope in type *v3.TierList\n"),
        ("go-template={{.Items}}", "can't evaluate field Items in type"),
        (
            "go-template={{range .}}{{range .Items}}{{.spec}}{{end}}{{end}}",
            "can't evaluate field spec in type *v3.Tier\n",
        ),
        ('go-template={{config "x"}}', "error calling config: unhandled config type\n"),
    ],
)
def test_a_bad_template_is_one_clear_text(run: Run, output: str, text: str) -> None:
    run("apply", "-f", "all.yaml", files={"all.yaml": DOCUMENTS})
    shown = run("get", "tiers", "-o", output)
    assert shown.status == 1
    assert text in shown.err
    assert shown.err.count("\n") == 1


@pytest.mark.parametrize("kind", [info.kind for info in KINDS.values() if info.names])
def test_every_kind_can_be_printed_whole(kind: str) -> None:
    resource = read({"apiVersion": "projectcalico.org/v3", "kind": kind, "metadata": {"name": "x"}})
    view = ResourceObject(resource)
    for name, _ in view.fields():
        view.field(name)
    from calico_node.calicoctl.gotemplate import Template

    assert Template("{{.}}{{.Spec}}{{.ObjectMeta}}{{.CreationTimestamp}}").execute(view).endswith("+0000 UTC")


@pytest.mark.parametrize(
    ("items", "longest", "text"),
    [
        (None, 0, ""),
        ({"b": "c", "a": "b"}, 0, "a=b,b=c"),
        ({"giraffe": "praying", "bird": "felix", "elephant": "hippo"}, 15, "bird=felix,e..."),
        ([12345, 67890], 6, "123..."),
        ([123456], 6, "123456"),
        ("HelloWorld", 0, "HelloWorld"),
    ],
)
def test_join_and_truncate(items: object, longest: int, text: str) -> None:
    assert join_and_truncate(items, ",", longest) == text
