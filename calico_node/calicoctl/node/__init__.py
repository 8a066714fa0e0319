"""``calicoctl node``: the node on this host."""
