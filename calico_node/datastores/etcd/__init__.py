"""The etcd v3 datastore."""

import os

# gRPC writes its own lines about failed connections to stderr; what a user needs of them is in our errors.
os.environ.setdefault("GRPC_VERBOSITY", "NONE")
