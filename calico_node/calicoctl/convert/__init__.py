"""``calicoctl convert``: manifests of Calico's v1 API and of Kubernetes as v3 resources."""
