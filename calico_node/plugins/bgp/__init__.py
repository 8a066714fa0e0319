"""A BGP speaker: codec, session state machine, RIB and Calico's policy, all pure; an asyncio shell around them.

``packet``     messages to bytes and back (RFC 4271 and friends)
``session``    one neighbour's state machine, with no socket and no clock of its own
``rib``        routes from all sources, best paths, next-hop resolution
``policy``     Calico's import, export and kernel rules, BGPFilters, communities
``peers``      the sessions a node must have, from the datastore's view
``announcements``, ``forwarding``   what peers and the kernel are told
``speaker``    the above wired together for one address family
``transport``  TCP: listening, connecting, MD5, GTSM
``component``  the plugin: datastore and kernel in, sessions and routes out
"""
