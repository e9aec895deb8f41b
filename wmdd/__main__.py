"""`python -m wmdd` is the command `wmdd`."""

from wmdd.cli import main

main()
