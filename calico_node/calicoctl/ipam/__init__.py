"""``calicoctl ipam``: addresses, blocks and their configuration."""
