"""A third-party package for calico-node: one dataplane and one component."""
