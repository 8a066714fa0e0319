"""Go's text/template language, for ``calicoctl get -o go-template``: parse once, execute over Go-like values.

What templates may do is what Go's documentation of text/template says.  A template can neither reach Python objects
nor run without end: it sees only the values of ``values.py``, and its steps, depth and output are bounded.
"""

from calico_node.calicoctl.gotemplate.execute import Template
from calico_node.calicoctl.gotemplate.nodes import TemplateError
from calico_node.calicoctl.gotemplate.values import GoStruct, Pointer

__all__ = ["GoStruct", "Pointer", "Template", "TemplateError"]
