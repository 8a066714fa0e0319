"""The etcd v3 datastore."""
