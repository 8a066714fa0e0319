"""The calculation graph: datastore updates in, dataplane messages out.

Nothing here awaits, opens a socket or reads a clock.  The result depends only on the present set of inputs, never on
the order or grouping in which they came.
"""

from calico_node.plugins.felix.calc.graph import CalcGraph

__all__ = ["CalcGraph"]
