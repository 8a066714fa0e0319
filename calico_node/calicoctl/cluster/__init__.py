"""``calicoctl cluster``: the cluster as its datastore shows it."""
