"""``calicoctl datastore``: lock, export and import a whole datastore."""
