"""The only code that opens netlink sockets, enters or makes namespaces, and writes sysctls."""
