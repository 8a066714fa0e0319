"""``python -m calico_node.lab``."""

from calico_node.lab.cli import main

main()
