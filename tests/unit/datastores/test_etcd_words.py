"""What etcd's endpoints and error texts mean, without an etcd."""

from __future__ import annotations

from contextlib import suppress

import grpc  # type: ignore[import-untyped]
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from calico_node.datastores.etcd.connection import _Fate, fate, rpc_error
from calico_node.datastores.etcd.endpoints import parse_endpoint
from calico_node.errors import SettingsError

CODE = grpc.StatusCode


@pytest.mark.parametrize(
    ("code", "details", "meaning"),
    [
        # etcd says so after it has proposed the write, too.
        (CODE.UNAVAILABLE, "etcdserver: server stopped", _Fate.LOST),
        (CODE.UNAVAILABLE, "etcdserver: request timed out", _Fate.LOST),
        (CODE.UNAVAILABLE, "etcdserver: request timed out, possibly due to previous leader failure", _Fate.LOST),
        (CODE.UNAVAILABLE, "etcdserver: leader changed", _Fate.LOST),
        (CODE.UNAVAILABLE, "Socket closed", _Fate.LOST),
        (CODE.DEADLINE_EXCEEDED, "Deadline Exceeded", _Fate.LOST),
        (CODE.CANCELLED, "the connection was closed", _Fate.LOST),
        (CODE.UNAVAILABLE, "etcdserver: no leader", _Fate.LATER),
        (CODE.RESOURCE_EXHAUSTED, "etcdserver: too many requests", _Fate.LATER),
        (CODE.UNAUTHENTICATED, "etcdserver: invalid auth token", _Fate.LOG_IN),
        (CODE.INVALID_ARGUMENT, "etcdserver: user name is empty", _Fate.LOG_IN),
        (CODE.INVALID_ARGUMENT, "etcdserver: revision of auth store is old", _Fate.LOG_IN),
        (CODE.PERMISSION_DENIED, "etcdserver: permission denied", _Fate.REFUSED),
        (CODE.RESOURCE_EXHAUSTED, "etcdserver: mvcc: database space exceeded", _Fate.REFUSED),
        (CODE.OUT_OF_RANGE, "etcdserver: mvcc: required revision has been compacted", _Fate.REFUSED),
    ],
)
def test_only_an_answer_that_is_certain_says_that_a_write_failed(
    code: grpc.StatusCode, details: str, meaning: _Fate
) -> None:
    assert fate(rpc_error(code, details)) is meaning


@pytest.mark.parametrize(
    ("text", "target", "secure", "host"),
    [
        ("http://10.0.0.1:2379", "ipv4:10.0.0.1:2379", False, "10.0.0.1"),
        ("https://etcd-1.example.net", "dns:///etcd-1.example.net:2379", True, "etcd-1.example.net"),
        ("https://[2001:db8::1]:4001/", "ipv6:[2001:db8::1]:4001", True, "2001:db8::1"),
        ("127.0.0.1:1", "ipv4:127.0.0.1:1", False, "127.0.0.1"),
        ("unix:///run/etcd.sock", "unix:/run/etcd.sock", False, ""),
    ],
)
def test_endpoints(text: str, target: str, secure: bool, host: str) -> None:
    endpoint = parse_endpoint(text)
    assert (endpoint.name, endpoint.target, endpoint.secure, endpoint.host) == (text, target, secure, host)


@given(st.text() | st.from_regex(r"(https?|unix)://[^ ]*", fullmatch=True))
@example("http://[::1")
@example("http://a:99999")
@example("//")
def test_any_text_is_an_endpoint_or_named_as_none(text: str) -> None:
    with suppress(SettingsError):
        endpoint = parse_endpoint(text)
        assert endpoint.name == text
        assert endpoint.target.startswith(("ipv4:", "ipv6:", "dns:///", "unix:/"))
        assert 0 <= endpoint.port < 65536


@given(st.text(alphabet="abc%:/@[]?#.", min_size=1))
def test_a_password_in_an_endpoint_is_not_shown(password: str) -> None:
    with pytest.raises(SettingsError, match="ETCD_USERNAME and ETCD_PASSWORD") as caught:
        parse_endpoint(f"http://user:geheim{password}@10.0.0.1:2379")
    assert "geheim" not in str(caught.value)
