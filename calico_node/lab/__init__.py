"""A cluster on one machine: real nodes in network namespaces, pods wired by the CNI plugin, probes with real packets.

The command line (``cli``) reads and checks the user's documents (``intake``) and starts a keeper (``keeper``), which
makes the namespaces and the supervisor in them (``supervisor``, PID 1 of the lab).  The supervisor builds the fabric,
runs one ``calico-node run`` per node, and drives one responder and one prober process that serve every pod.
"""
