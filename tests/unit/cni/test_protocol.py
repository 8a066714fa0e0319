"""CNI documents: what is accepted, what is refused with which code, and the JSON of each version."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from calico_node.errors import CNIError
from calico_node.plugins.cni.client import _request
from calico_node.plugins.cni.protocol import Call, Interface, IPAMResult, NetConf, error_json, result_json
from calico_node.plugins.cni.server import parse_request

ENVIRONMENT = {"CNI_COMMAND": "ADD", "CNI_CONTAINERID": "abc", "CNI_IFNAME": "eth0"}


def config(**members: Any) -> bytes:
    return json.dumps({"cniVersion": "1.0.0", "name": "net", "type": "calico", **members}).encode()


def test_names_are_matched_without_regard_to_case() -> None:
    conf = NetConf.parse(b'{"CNIVersion":"0.4.0","Name":"net","IPAM":{"Type":"calico-ipam","Assign_IPv6":"true"}}')
    assert (conf.cni_version, conf.name) == ("0.4.0", "net")
    assert conf.text("ipam", "type") == "calico-ipam"
    assert conf.text("ipam", "assign_ipv6") == "true"


def test_no_version_means_0_2_0() -> None:
    assert NetConf.parse(b'{"name":"net"}').cni_version == "0.2.0"


@pytest.mark.parametrize(
    ("raw", "code"),
    [
        (b"", 6),
        (b"[]", 6),
        (b"[" * 100_000, 6),
        (b'{"name":"net","cniVersion":"9.9.9"}', 1),
        (b'{"cniVersion":"1.0.0"}', 7),
        (b'{"cniVersion":"1.0.0","name":"a b"}', 7),
    ],
)
def test_a_bad_configuration_has_its_code(raw: bytes, code: int) -> None:
    with pytest.raises(CNIError) as caught:
        NetConf.parse(raw)
    assert caught.value.code == code


@pytest.mark.parametrize(
    ("change", "code"),
    [
        ({"CNI_CONTAINERID": ""}, 4),
        ({"CNI_CONTAINERID": "../x"}, 4),
        ({"CNI_IFNAME": "a/b"}, 4),
        ({"CNI_IFNAME": "a" * 16}, 4),
        ({"CNI_ARGS": "novalue"}, 4),
        ({"CNI_COMMAND": "STATUS"}, 1),
        ({"CNI_COMMAND": "GC"}, 1),
    ],
)
def test_bad_variables_have_their_code(change: dict[str, str], code: int) -> None:
    with pytest.raises(CNIError) as caught:
        Call.parse("calico", {**ENVIRONMENT, **change}, config(), None)
    assert caught.value.code == code


def test_check_needs_0_4_0() -> None:
    environment = {**ENVIRONMENT, "CNI_COMMAND": "CHECK"}
    with pytest.raises(CNIError, match="does not allow CHECK"):
        Call.parse("calico", environment, config(cniVersion="0.3.1"), None)


def test_a_pod_is_named_by_both_arguments() -> None:
    args = {"CNI_ARGS": "IgnoreUnknown=1;K8S_POD_NAMESPACE=ns;K8S_POD_NAME=web;Other=x"}
    assert Call.parse("calico", {**ENVIRONMENT, **args}, config(), None).pod == ("ns", "web")
    assert Call.parse("calico", {**ENVIRONMENT, "CNI_ARGS": "K8S_POD_NAME=web"}, config(), None).pod is None


@pytest.mark.parametrize(
    ("version", "expected"),
    [
        ("0.2.0", {"ip4": {"ip": "10.65.0.66/32", "routes": [{"dst": "10.65.0.66/26"}]}}),
        (
            "0.4.0",
            {
                "interfaces": [{"name": "cali1"}, {"name": "eth0", "mac": "ee:00:00:00:00:01", "sandbox": "/n"}],
                "ips": [{"version": "4", "interface": 1, "address": "10.65.0.66/32"}],
                "routes": [{"dst": "10.65.0.66/26"}],
            },
        ),
        (
            "1.0.0",
            {
                "interfaces": [{"name": "cali1"}, {"name": "eth0", "mac": "ee:00:00:00:00:01", "sandbox": "/n"}],
                "ips": [{"interface": 1, "address": "10.65.0.66/32"}],
                "routes": [{"dst": "10.65.0.66/26"}],
            },
        ),
    ],
)
def test_the_result_has_the_form_of_its_version(version: str, expected: dict[str, Any]) -> None:
    interfaces = (Interface("cali1"), Interface("eth0", "ee:00:00:00:00:01", 0, "/n"))
    routes = ({"dst": "10.65.0.66/26"},)
    data = json.loads(result_json(version, ["10.65.0.66/32"], interfaces=interfaces, routes=routes))
    assert data == {"cniVersion": version, **expected, "dns": {}}


def test_another_plugins_result_is_narrowed_to_single_addresses() -> None:
    text = b'{"cniVersion":"0.4.0","ips":[{"version":"4","address":"10.1.0.5/24","gateway":"10.1.0.1"}]}'
    assert IPAMResult.parse(text, "host-local").host_addresses == ("10.1.0.5/32",)
    old = b'{"cniVersion":"0.2.0","ip6":{"ip":"fd00::5/64","routes":[{"dst":"::/0"}]}}'
    assert IPAMResult.parse(old, "host-local").host_addresses == ("fd00::5/128",)


_JSON = st.recursive(st.none() | st.text(), st.lists).map(json.dumps).map(str.encode)


@given(st.one_of(st.binary(max_size=60), _JSON))
def test_a_result_that_cannot_be_read_is_a_cni_error(output: bytes) -> None:
    with pytest.raises(CNIError):
        IPAMResult.parse(output, "other")


def test_an_error_carries_code_and_text() -> None:
    data = json.loads(error_json("1.0.0", CNIError(7, "no name", "look at the file")))
    assert data == {"cniVersion": "1.0.0", "code": 7, "msg": "no name", "details": "look at the file"}


_VALUE = st.text(st.characters(exclude_characters="\0", exclude_categories=["Cs"]), max_size=20)


@given(st.dictionaries(st.from_regex(r"CNI_[A-Z]{1,8}", fullmatch=True), _VALUE, max_size=5), st.binary(max_size=100))
def test_the_server_reads_what_the_client_wrote(variables: dict[str, str], stdin: bytes) -> None:
    with pytest.MonkeyPatch.context() as patch:
        for name, value in variables.items():
            patch.setenv(name, value)
        role, environment, read = parse_request(_request("calico", stdin))
    assert (role, read) == ("calico", stdin)
    assert {name: environment[name] for name in variables} == variables


@given(st.binary(max_size=80))
def test_arbitrary_requests_are_refused(data: bytes) -> None:
    with pytest.raises(CNIError):
        parse_request(data)
