"""etcd with users: log-in, tokens that run out under every kind of call, rights, and members found by DNS."""

from __future__ import annotations

import asyncio
import shutil
from collections.abc import AsyncIterator, Iterator
from contextlib import aclosing
from pathlib import Path
from typing import cast

import dns.asyncresolver
import dns.flags
import dns.message
import dns.rcode
import dns.rrset
import pytest

from calico_node.datastores.etcd import connection
from calico_node.datastores.etcd.engine import EtcdEngine
from calico_node.datastores.etcd.plugin import open_etcd
from calico_node.datastores.kv import Compare, CompareTarget, Put
from calico_node.errors import DatastoreError, OutcomeUnknown, SettingsError
from calico_node.settings import Settings
from tests.interop.datastores.certificates import signing_key
from tests.interop.datastores.conftest import Etcd, etcdctl, free_port
from tests.interop.datastores.forwarder import Forwarder

pytestmark = pytest.mark.anyio

TOKEN_LIFE = 1


@pytest.fixture(scope="module")
def anyio_backend() -> str:
    return "asyncio"


@pytest.fixture(scope="module", autouse=True)
async def one_loop(anyio_backend: str) -> None:
    """gRPC's poller belongs to one event loop: a fixture of the module's scope keeps that loop."""


@pytest.fixture(scope="module", params=["simple", "jwt"])
def guarded(tmp_path_factory: pytest.TempPathFactory, request: pytest.FixtureRequest) -> Iterator[str]:
    """An etcd that asks for users; ``node`` may do all under /t/.  Tokens live for a second.

    It knows those of etcd's own kind from a list, and JSON web tokens by their signature.
    """
    program = shutil.which("etcd")
    if program is None:
        pytest.fail("etcd is not installed: apt-get install etcd-server")
    folder = tmp_path_factory.mktemp("auth")
    tokens = ["--auth-token-ttl", str(TOKEN_LIFE)] if request.param == "simple" else ["--auth-token", signed(folder)]
    server = Etcd(program, folder, [*tokens, "--bcrypt-cost", "4"])
    server.start()
    for command in (
        ("user", "add", "root:r"),
        ("user", "add", "node:right"),
        ("role", "add", "node"),
        ("role", "grant-permission", "--prefix=true", "node", "readwrite", "/t/"),
        ("user", "grant-role", "node", "node"),
        ("auth", "enable"),
    ):
        etcdctl(server.endpoint, *command)
    yield server.endpoint
    server.stop()


def signed(folder: Path) -> str:
    """etcd's option for web tokens, with a key in ``folder``."""
    private, public = signing_key(folder)
    return f"jwt,pub-key={public},priv-key={private},sign-method=RS256,ttl={TOKEN_LIFE}s"


def environ(endpoint: str, password: str = "right") -> dict[str, str]:
    return {
        "NODENAME": "n",
        "ETCD_ENDPOINTS": f"http://{endpoint}",
        "ETCD_USERNAME": "node",
        "ETCD_PASSWORD": password,
    }


@pytest.fixture
async def engine(guarded: str) -> AsyncIterator[EtcdEngine]:
    engine = await open_etcd(Settings.load(environ(guarded)))
    assert isinstance(engine, EtcdEngine)
    yield engine
    await engine.close()


async def tokens_run_out() -> None:
    await asyncio.sleep(TOKEN_LIFE + 1.2)  # etcd looks every second


async def test_reads_and_writes_outlive_the_token(engine: EtcdEngine) -> None:
    first = await engine.put("/t/a", b"1")
    await tokens_run_out()
    stored, _ = await engine.get("/t/a")
    assert stored is not None
    await tokens_run_out()
    compare = [Compare("/t/a", CompareTarget.MOD_REVISION, first)]
    swapped = await engine.txn(compare, [Put("/t/a", b"2")])
    assert swapped.succeeded
    assert swapped.revision == first + 1
    assert not (await engine.txn(compare, [Put("/t/a", b"3")])).succeeded


async def test_watches_and_leases_outlive_the_token(engine: EtcdEngine) -> None:
    lease = await engine.grant(10)
    first = await engine.put("/t/leased", b"1", lease=lease)
    async with aclosing(engine.watch("/t/", start_revision=first)) as batches:
        assert (await anext(batches)).revision == first
        await tokens_run_out()
        await engine.keep_alive(lease)
        second = await engine.put("/t/a", b"2")
        async with asyncio.timeout(5):
            while (batch := await anext(batches)).revision < second:
                pass
        assert [event.kv.value for event in batch.events] == [b"2"]
    await tokens_run_out()
    async with asyncio.timeout(5), aclosing(engine.watch("/t/", start_revision=second)) as batches:
        assert (await anext(batches)).revision == second
    await engine.revoke(lease)
    assert (await engine.get("/t/leased"))[0] is None


async def test_many_calls_log_in_at_once(guarded: str) -> None:
    engine = await open_etcd(Settings.load(environ(guarded)))
    await asyncio.gather(*(engine.put(f"/t/many{number}", b"") for number in range(50)))
    assert len((await engine.range("/t/many")).kvs) == 50
    await engine.close()


async def test_a_wrong_password(guarded: str) -> None:
    engine = await open_etcd(Settings.load(environ(guarded, "wrong")))
    words = "ETCD_USERNAME = 'node', ETCD_PASSWORD: user or password is wrong"
    for call in (
        engine.get("/t/a"),
        engine.put("/t/a", b"1"),
        engine.grant(5),
        anext(engine.watch("/t/", start_revision=1)),
    ):
        with pytest.raises(DatastoreError, match=words) as caught:
            await call
        assert not isinstance(caught.value, OutcomeUnknown)
        assert "wrong'" not in str(caught.value)
    await engine.close()


async def test_no_user(guarded: str) -> None:
    engine = EtcdEngine([guarded])
    with pytest.raises(DatastoreError, match="it wants a user: ETCD_USERNAME and ETCD_PASSWORD are not set"):
        await engine.get("/t/a")
    await engine.close()


async def test_what_the_user_may_not_do(engine: EtcdEngine) -> None:
    words = r"permission denied: the user 'node' \(ETCD_USERNAME\) may not"
    with pytest.raises(DatastoreError, match=words):
        await engine.get("/elsewhere")
    with pytest.raises(DatastoreError, match=words):
        await engine.put("/elsewhere", b"1")
    with pytest.raises(DatastoreError, match=words):
        await anext(engine.watch("/elsewhere", start_revision=1))


async def test_a_user_where_etcd_asks_for_none(etcd: str) -> None:
    engine = await open_etcd(Settings.load(environ(etcd)))
    await engine.put("/t/a", b"1")
    await engine.close()


async def test_a_member_that_hangs_at_the_log_in(guarded: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(connection, "ATTEMPT_TIMEOUT", 0.5)
    async with Forwarder(guarded) as forwarder:
        forwarder.hang()
        engine = await open_etcd(
            Settings.load({**environ(guarded), "ETCD_ENDPOINTS": f"http://{forwarder.address},http://{guarded}"})
        )
        assert isinstance(engine, EtcdEngine)
        engine._connections._current = 0
        async with asyncio.timeout(4):  # all of them together wait for one attempt
            await asyncio.gather(*(engine.put(f"/t/many{number}", b"") for number in range(30)))
        await engine.close()


# Discovery


class Zone(asyncio.DatagramProtocol):
    """A name server for ``records``: name -> the SRV record's text; any other name does not exist."""

    def __init__(self, records: dict[str, str]) -> None:
        self._records = records
        self.rcode = dns.rcode.NXDOMAIN

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.DatagramTransport, transport)

    def datagram_received(self, data: bytes, addr: tuple[str, int]) -> None:
        query = dns.message.from_wire(data)
        answer = dns.message.make_response(query)
        answer.flags |= dns.flags.RA
        name = query.question[0].name
        text = self._records.get(name.to_text())
        if text is None:
            answer.set_rcode(self.rcode)
        else:
            answer.answer = [dns.rrset.from_text(name, 60, "IN", "SRV", *text.split(","))]
        self._transport.sendto(answer.to_wire(), addr)


@pytest.fixture
async def zone(etcd: str, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Zone]:
    """The system's resolver asks this zone: a dead member is named first, then the etcd."""
    dead, port = free_port(), etcd.rpartition(":")[2]
    records = {"_etcd-client._tcp.example.net.": f"0 0 {dead} localhost.,1 0 {port} localhost."}
    transport, zone = await asyncio.get_running_loop().create_datagram_endpoint(
        lambda: Zone(records), ("127.0.0.1", 0)
    )
    resolver = dns.asyncresolver.Resolver(configure=False)
    resolver.nameservers = ["127.0.0.1"]
    resolver.port = transport.get_extra_info("sockname")[1]
    monkeypatch.setattr(dns.asyncresolver, "Resolver", lambda: resolver)
    yield zone
    transport.close()


async def test_members_are_found_by_dns(zone: Zone) -> None:
    engine = await open_etcd(Settings.load({"NODENAME": "n", "ETCD_DISCOVERY_SRV": "example.net"}))
    await engine.put("/t/a", b"1")
    await engine.close()


async def test_a_domain_without_members(zone: Zone) -> None:
    with pytest.raises(DatastoreError) as caught:
        await open_etcd(Settings.load({"NODENAME": "n", "ETCD_DISCOVERY_SRV": "example.org"}))
    assert str(caught.value) == (
        "ETCD_DISCOVERY_SRV = 'example.org': _etcd-client-ssl._tcp.example.org. does not exist, "
        "_etcd-client._tcp.example.org. does not exist"
    )


async def test_a_name_server_in_trouble_leads_to_no_connection_without_tls(zone: Zone) -> None:
    zone.rcode = dns.rcode.SERVFAIL
    with pytest.raises(DatastoreError, match=r"ETCD_DISCOVERY_SRV = 'example.net': _etcd-client-ssl\._tcp"):
        await open_etcd(Settings.load({"NODENAME": "n", "ETCD_DISCOVERY_SRV": "example.net"}))


async def test_two_ways_to_find_members() -> None:
    with pytest.raises(SettingsError, match="ETCD_ENDPOINTS and ETCD_DISCOVERY_SRV are both set"):
        await open_etcd(Settings.load({**environ("127.0.0.1:1"), "ETCD_DISCOVERY_SRV": "example.net"}))
