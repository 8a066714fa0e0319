"""``calicoctl``: the command-line tool for Calico's resources."""
