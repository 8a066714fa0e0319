"""etcd behind TLS with clients' certificates: who is let in, and what is said to who is not."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path

import pytest
import yaml
from attrs import frozen

from calico_node.datastores.etcd.plugin import open_etcd
from calico_node.errors import DatastoreError, SettingsError
from calico_node.settings import Settings
from tests.interop.datastores.certificates import Authority
from tests.interop.datastores.conftest import Etcd, free_port
from tests.interop.datastores.forwarder import Forwarder

pytestmark = pytest.mark.anyio


@pytest.fixture(scope="module")
def anyio_backend() -> str:
    return "asyncio"


@pytest.fixture(scope="module", autouse=True)
async def one_loop(anyio_backend: str) -> None:
    """gRPC's poller belongs to one event loop: a fixture of the module's scope keeps that loop."""


@frozen
class World:
    """An etcd that wants clients' certificates, and certificates of all kinds."""

    port: str
    ca: Path
    other_ca: Path
    good: tuple[Path, Path]
    expired: tuple[Path, Path]
    foreign: tuple[Path, Path]

    def environ(self, host: str = "127.0.0.1", *, ca: Path | None = None, pair: tuple[Path, Path]) -> dict[str, str]:
        return {
            "NODENAME": "n",
            "ETCD_ENDPOINTS": f"https://{host}:{self.port}",
            "ETCD_CA_CERT_FILE": str(ca or self.ca),
            "ETCD_CERT_FILE": str(pair[0]),
            "ETCD_KEY_FILE": str(pair[1]),
        }


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    program = shutil.which("etcd")
    if program is None:
        pytest.fail("etcd is not installed: apt-get install etcd-server")
    folder = tmp_path_factory.mktemp("tls")
    ours, other = Authority(folder, "ours"), Authority(folder, "other")
    cert, key = ours.issue("server", alternatives="IP:127.0.0.1,DNS:localhost")
    options = ["--cert-file", cert, "--key-file", key, "--trusted-ca-file", ours.certificate, "--client-cert-auth"]
    server = Etcd(program, folder, list(map(str, options)), scheme="https", health=False)
    server.start()
    port = server.endpoint.rpartition(":")[2]
    good, expired, foreign = ours.issue("node"), ours.issue("late", days=-1), other.issue("node")
    yield World(port, ours.certificate, other.certificate, good, expired, foreign)
    server.stop()


async def writes(environ: Mapping[str, str], inline: Mapping[str, str] | None = None) -> None:
    engine = await open_etcd(Settings.load(environ, inline))
    try:
        revision = await engine.put("/t/a", b"1")
        stored, _ = await engine.get("/t/a")
        assert stored is not None
        assert stored.mod_revision == revision
        batches = engine.watch("/t/", start_revision=revision)
        async for batch in batches:
            assert batch.revision == revision
            break
    finally:
        await engine.close()


async def refusal(environ: Mapping[str, str]) -> str:
    engine = await open_etcd(Settings.load(environ))
    try:
        with pytest.raises(DatastoreError) as caught:
            await engine.get("/t/a")
        with pytest.raises(DatastoreError):
            await engine.put("/t/a", b"1")
    finally:
        await engine.close()
    text = str(caught.value)
    assert "\n" not in text
    return text


@pytest.mark.parametrize("host", ["127.0.0.1", "localhost"])
async def test_a_client_with_its_certificate_is_let_in(world: World, host: str) -> None:
    await writes(world.environ(host, pair=world.good))


async def test_pem_that_is_given_itself(world: World) -> None:
    inline = {
        "etcdCACert": world.ca.read_text(),
        "etcdCert": world.good[0].read_text(),
        "etcdKey": world.good[1].read_text(),
    }
    environ = {"NODENAME": "n", "ETCD_ENDPOINTS": f"https://127.0.0.1:{world.port}"}
    await writes(environ, inline)
    with pytest.raises(SettingsError, match="either inline or in files"):
        await open_etcd(Settings.load({**environ, "ETCD_CA_CERT_FILE": str(world.ca)}, inline))


def calicoctl(
    spec: Mapping[str, str], tmp_path: Path, environ: Mapping[str, str]
) -> subprocess.CompletedProcess[str]:
    config = {"apiVersion": "projectcalico.org/v3", "kind": "CalicoAPIConfig", "metadata": {}, "spec": dict(spec)}
    (tmp_path / "calicoctl.cfg").write_text(yaml.safe_dump(config))
    return subprocess.run(
        [Path(sys.executable).parent / "calicoctl", "get", "nodes", "-c", tmp_path / "calicoctl.cfg"],
        env={**os.environ, **environ},
        capture_output=True,
        text=True,
        timeout=30,
    )


def test_calicoctl_with_pem_in_its_configuration(world: World, tmp_path: Path) -> None:
    spec = {
        "datastoreType": "etcdv3",
        "etcdEndpoints": f"https://127.0.0.1:{world.port}",
        "etcdCACert": world.ca.read_text(),
        "etcdCert": world.good[0].read_text(),
        "etcdKey": world.good[1].read_text(),
    }
    # The file named with -c goes before the environment, which may be that of another cluster.
    done = calicoctl(spec, tmp_path, {"ETCD_CA_CERT_FILE": str(world.other_ca)})
    assert (done.stderr, done.returncode) == ("", 0)
    assert done.stdout.split() == ["NAME"]


def test_calicoctl_says_in_one_line_what_is_wrong(world: World, tmp_path: Path) -> None:
    spec = {
        "datastoreType": "etcdv3",
        "etcdEndpoints": f"https://127.0.0.1:{world.port}",
        "etcdCACertFile": str(world.ca),
        "etcdCertFile": str(world.expired[0]),
        "etcdKeyFile": str(world.expired[1]),
    }
    done = calicoctl(spec, tmp_path, {})
    assert done.returncode == 1
    assert len(done.stderr.splitlines()) == 1
    assert "it refuses the client's certificate (ETCD_CERT_FILE, ETCD_KEY_FILE)" in done.stderr


async def test_a_dead_member_first_and_a_name_of_its_own_for_each(world: World) -> None:
    environ = world.environ(pair=world.good)
    dead = f"https://127.0.0.1:{free_port()}"
    environ["ETCD_ENDPOINTS"] = f"{dead},https://localhost:{world.port},{environ['ETCD_ENDPOINTS']}"
    await writes(environ)


async def test_no_certificate(world: World) -> None:
    environ = world.environ(pair=world.good)
    del environ["ETCD_CERT_FILE"], environ["ETCD_KEY_FILE"]
    assert "it wants a client's certificate: ETCD_CERT_FILE, ETCD_KEY_FILE are not set" in await refusal(environ)


async def test_an_expired_certificate(world: World) -> None:
    text = await refusal(world.environ(pair=world.expired))
    assert "it refuses the client's certificate (ETCD_CERT_FILE, ETCD_KEY_FILE)" in text


async def test_a_certificate_of_another_authority(world: World) -> None:
    text = await refusal(world.environ(pair=world.foreign))
    assert "it refuses the client's certificate (ETCD_CERT_FILE, ETCD_KEY_FILE)" in text


async def test_a_server_of_another_authority(world: World) -> None:
    text = await refusal(world.environ(ca=world.other_ca, pair=world.good))
    assert "its certificate is not accepted (ETCD_CA_CERT_FILE)" in text


async def test_a_server_whose_certificate_is_for_another_name(world: World) -> None:
    async with Forwarder(f"127.0.0.1:{world.port}", "127.0.0.2") as forwarder:
        environ = {**world.environ(pair=world.good), "ETCD_ENDPOINTS": f"https://{forwarder.address}"}
        text = await refusal(environ)
    assert "its certificate is not accepted" in text
    assert "127.0.0.2" in text


async def test_plain_text_at_a_server_with_tls_and_the_other_way_round(world: World, etcd: str) -> None:
    environ = {"NODENAME": "n", "ETCD_ENDPOINTS": f"http://127.0.0.1:{world.port}"}
    assert "it speaks TLS: the endpoint has to begin with https://" in await refusal(environ)
    environ = {**world.environ(pair=world.good), "ETCD_ENDPOINTS": f"https://{etcd}"}
    assert "it does not speak TLS: the endpoint has to begin with http://" in await refusal(environ)


async def test_a_renewed_certificate_is_used_without_a_restart(world: World, tmp_path: Path) -> None:
    cert, key = tmp_path / "c.pem", tmp_path / "c.key"
    cert.write_bytes(world.expired[0].read_bytes())
    key.write_bytes(world.expired[1].read_bytes())
    engine = await open_etcd(Settings.load(world.environ(pair=(cert, key))))
    with pytest.raises(DatastoreError):
        await engine.get("/t/a")
    cert.write_bytes(world.good[0].read_bytes())
    key.write_bytes(world.good[1].read_bytes())
    await engine.get("/t/a")
    await engine.close()


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"ETCD_CA_CERT_FILE": "/nowhere.pem"}, "ETCD_CA_CERT_FILE = '/nowhere.pem': No such file or directory"),
        ({"ETCD_KEY_FILE": ""}, "ETCD_KEY_FILE is not set"),
        ({"ETCD_CA_CERT_FILE": "/etc/hostname"}, "ETCD_CA_CERT_FILE = '/etc/hostname': holds no certificate"),
    ],
)
async def test_files_that_cannot_be_used(world: World, change: dict[str, str], words: str) -> None:
    with pytest.raises(SettingsError) as caught:
        await open_etcd(Settings.load({**world.environ(pair=world.good), **change}))
    assert words in str(caught.value)


async def test_a_key_of_another_certificate(world: World) -> None:
    with pytest.raises(SettingsError, match="the key is not the certificate's"):
        await open_etcd(Settings.load(world.environ(pair=(world.good[0], world.foreign[1]))))
