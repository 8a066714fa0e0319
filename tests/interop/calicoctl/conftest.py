from tests.interop.datastores.conftest import etcd as etcd
from tests.interop.datastores.conftest import etcd_server as etcd_server
from tests.unit.calicoctl.conftest import run as run
