"""The process ``calicoctl``.  Nothing is imported before Ctrl-C is seen to."""

from __future__ import annotations

from calico_node.calicoctl.interrupts import end_by_signal


def main() -> None:
    """The console script."""
    end_by_signal()
    from calico_node.calicoctl import main as command_line

    command_line.main()


if __name__ == "__main__":
    main()
