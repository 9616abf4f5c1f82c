"""``python -m tspace_core.cli``."""

from tspace_core.cli import main

main()
