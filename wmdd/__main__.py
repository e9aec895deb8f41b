"""`python -m wmdd` is the command `wmdd`."""

from wmdd.process import interruptions


def main() -> None:
    """Run the command; signals are handled from the start, because its imports take a second."""
    with interruptions.handled():
        # Python drops a KeyboardInterrupt that meets it in a callback of its import system.
        with interruptions.at_once():
            from wmdd.cli.main import main as run
        run()


if __name__ == "__main__":
    main()
