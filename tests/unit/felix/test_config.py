"""How Felix's configuration sources combine."""

from __future__ import annotations

from typing import Any

import pytest

from calico_node.errors import SettingsError
from calico_node.model import GlobalConfigKey, HostConfigKey, Key, ResourceKey, SyncStatus, Update
from calico_node.plugins.felix.calc import CalcGraph
from calico_node.plugins.felix.calc.config import ConfigBatcher, from_file
from calico_node.resources import from_dict


def resolved(
    environ: dict[str, str] | None = None,
    file: dict[str, str] | None = None,
    host: dict[str, str] | None = None,
    cluster: dict[str, str] | None = None,
) -> Any:
    batcher = ConfigBatcher(environ or {}, file or {})
    batcher.host.update(host or {})
    batcher.cluster.update(cluster or {})
    return batcher.resolve()


def test_defaults() -> None:
    values = resolved().values
    assert values["DefaultEndpointToHostAction"] == "DROP"
    assert values["IPv4NormalRoutePriority"] == "1024"
    assert values["InterfacePrefix"] == "cali"


def test_each_source_beats_the_next_per_parameter() -> None:
    values = resolved(
        {"Felix_IPv4NormalRoutePriority": "1"},
        {"IPv4NormalRoutePriority": "2", "LogPrefix": "file"},
        {"IPv4NormalRoutePriority": "3", "LogPrefix": "host", "IPForwarding": "Disabled"},
        {"IPv4NormalRoutePriority": "4", "LogPrefix": "global", "IPForwarding": "Enabled", "VXLANPort": "1"},
    ).values
    assert [values[name] for name in ("IPv4NormalRoutePriority", "LogPrefix", "IPForwarding", "VXLANPort")] == [
        "1",
        "file",
        "Disabled",
        "1",
    ]


def test_bad_value_becomes_the_default_and_still_wins() -> None:
    config = resolved(host={"IPv4NormalRoutePriority": "many"}, cluster={"IPv4NormalRoutePriority": "7"})
    assert config.values["IPv4NormalRoutePriority"] == "1024"
    assert "many" in config.faults["IPv4NormalRoutePriority"]


def test_spellings() -> None:
    values = resolved(
        {
            "FELIX_DEFAULTENDPOINTTOHOSTACTION": "accept",
            "FELIX_IPV6SUPPORT": "0",
            "FELIX_NFTABLESMARKMASK": "0xff000000",
            "FELIX_FAILSAFEINBOUNDHOSTPORTS": "none",
            "FELIX_EXTERNALNODESCIDRLIST": "10.0.0.1, 10.1.0.0/16",
            "FELIX_LOGPREFIX": "",
        }
    ).values
    assert values["DefaultEndpointToHostAction"] == "ACCEPT"
    assert values["Ipv6Support"] == "false"
    assert values["NftablesMarkMask"] == "0xff000000"
    assert values["FailsafeInboundHostPorts"] == ""
    assert values["ExternalNodesCIDRList"] == "10.0.0.1/32,10.1.0.0/16"
    assert values["LogPrefix"] == "calico-packet"


def test_fatal_in_a_local_source() -> None:
    with pytest.raises(SettingsError, match=r"DefaultEndpointToHostAction.*'maybe'"):
        ConfigBatcher({"FELIX_DefaultEndpointToHostAction": "maybe"}, {})


def test_what_is_not_built_is_said() -> None:
    faults = resolved(cluster={"WireguardEnabled": "true", "BPFEnabled": "false"}).faults
    assert "not built" in faults["WireguardEnabled"]
    assert "BPFEnabled" not in faults


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("ServiceLoopPrevention", "Reject"),
        ("interfaceexclude", "docker0"),
        ("FailsafeInboundHostPorts", "none"),
        ("VXLANMTU", "1400"),
        ("NftablesMangleAllowAction", "Return"),
    ],
)
def test_what_is_read_and_not_enforced_is_said_when_somebody_asks_for_it(name: str, value: str) -> None:
    for config in (resolved({"FELIX_" + name.upper(): value}), resolved(cluster={name: value})):
        (fault,) = config.faults.values()
        assert "not enforced" in fault
        assert value in fault
    assert resolved(cluster={"ServiceLoopPrevention": "Disabled", "VXLANVNI": "4096"}).faults == {}


def test_what_only_the_environment_decides_is_said_when_it_stands_elsewhere() -> None:
    faults = resolved(cluster={"HealthPort": "9999", "LogSeverityScreen": "Info"}).faults
    assert list(faults) == ["HealthPort"]
    assert "FELIX_HEALTHPORT" in faults["HealthPort"]
    assert resolved({"FELIX_HEALTHPORT": "9999"}, cluster={"HealthPort": "9999"}).faults == {}


def test_what_node_start_up_and_calico_write_by_themselves_is_no_fault() -> None:
    written = {
        "ReportingIntervalSecs": "0",
        "LogSeverityScreen": "Info",
        "FloatingIPs": "Disabled",
        "BPFEnabled": "false",
    }
    assert resolved(cluster=written).faults == {}
    assert resolved().faults == {}


def test_file_sections_mean_nothing() -> None:
    assert from_file("a=1\n[x]\nB = 2\n[y]\nB = 3\n") == {"a": "1", "B": "3"}
    with pytest.raises(SettingsError):
        from_file("[x\n")


def configuration(name: str, selector: str, created: str, **spec: Any) -> Any:
    return from_dict(
        {
            "apiVersion": "projectcalico.org/v3",
            "kind": "FelixConfiguration",
            "metadata": {"name": name, "creationTimestamp": created},
            "spec": {"nodeSelector": selector, **spec},
        }
    )


def test_selector_scoped_configuration() -> None:
    graph = CalcGraph("node1")
    graph.set_status(SyncStatus.IN_SYNC)

    def put(contents: dict[Key, Any]) -> str:
        graph.feed(Update(key, value) for key, value in contents.items())
        while graph.step(10):
            pass
        return graph.config.values["LogPrefix"]

    node = from_dict(
        {"apiVersion": "projectcalico.org/v3", "kind": "Node", "metadata": {"name": "node1", "labels": {"rack": "a"}}}
    )
    young = configuration("young", "has(rack)", "2026-02-01T00:00:00Z", logPrefix="young")
    old = configuration("old", "rack == 'a'", "2026-01-01T00:00:00Z", logPrefix="old")
    assert (
        put({GlobalConfigKey("LogPrefix"): "global", ResourceKey("FelixConfiguration", "", "young"): young})
        == "global"
    )
    assert put({ResourceKey("Node", "", "node1"): node}) == "young"
    assert put({ResourceKey("FelixConfiguration", "", "old"): old}) == "old"
    assert put({HostConfigKey("node1", "LogPrefix"): "host"}) == "host"
    assert put({HostConfigKey("node1", "LogPrefix"): None, ResourceKey("Node", "", "node1"): None}) == "global"
