"""Felix: the calculation graph (``calc``, pure) and the component that drives it."""
