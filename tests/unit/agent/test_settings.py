"""Bootstrap settings come from Calico's environment variables, and bad ones are named."""

from __future__ import annotations

from pathlib import Path

import pytest

from calico_node.errors import SettingsError
from calico_node.settings import Settings


def test_paths_hang_on_two_directories(tmp_path: Path) -> None:
    settings = Settings.load({"CALICO_RUN_DIR": "/r", "CALICO_STATE_DIR": str(tmp_path), "NODENAME": "n1"})
    assert settings.datastore_path == tmp_path / "datastore.db"
    assert settings.cni_socket == Path("/r/cni.sock")
    assert settings.node_name == "n1"


@pytest.mark.parametrize(
    ("environ", "kind"),
    [
        ({}, "embedded"),
        ({"ETCD_ENDPOINTS": "http://127.0.0.1:2379"}, "etcdv3"),
        ({"KUBECONFIG": "/k"}, "kubernetes"),
        ({"KUBERNETES_SERVICE_HOST": "10.96.0.1"}, "kubernetes"),
        ({"KUBECONFIG": "/k", "ETCD_ENDPOINTS": "http://127.0.0.1:2379"}, "etcdv3"),
        ({"DATASTORE_TYPE": "embedded", "ETCD_ENDPOINTS": "http://127.0.0.1:2379"}, "embedded"),
        ({"DATASTORE_TYPE": "etcdv3", "CALICO_DATASTORE_TYPE": "embedded"}, "embedded"),
    ],
)
def test_the_datastore_is_chosen_from_the_environment(environ: dict[str, str], kind: str) -> None:
    settings = Settings.load({"NODENAME": "n1", **environ})
    assert settings.datastore_type == kind
    assert settings.datastore_reason


def test_the_node_name_is_taken_from_the_nodename_file(tmp_path: Path) -> None:
    (tmp_path / "nodename").write_text("from-file")
    assert Settings.load({"CALICO_STATE_DIR": str(tmp_path)}).node_name == "from-file"
    assert Settings.load({"CALICO_STATE_DIR": "/nowhere", "HOSTNAME": "Host.A"}).node_name == "host.a"


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("DATASTORE_TYPE", "mysql"),
        ("FELIX_HEALTHPORT", "http"),
        ("FELIX_HEALTHPORT", "70000"),
        ("FELIX_PROMETHEUSMETRICSENABLED", "maybe"),
    ],
)
def test_a_bad_value_is_named_with_its_variable(name: str, value: str) -> None:
    with pytest.raises(SettingsError) as caught:
        Settings.load({"NODENAME": "n1", name: value})
    assert name in str(caught.value)
    assert value in str(caught.value)


def test_use_pod_cidr() -> None:
    for environ, expected in (
        ({}, False),
        ({"USE_POD_CIDR": "true"}, True),
        ({"USE_POD_CIDR": "true", "CALICO_USE_POD_CIDR": "false"}, False),
    ):
        assert Settings.load({"NODENAME": "n", **environ}).use_pod_cidr is expected
