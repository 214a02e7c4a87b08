"""``python -m anchord``: the same as the command ``anchord``."""

from anchord.cli import main

main(prog_name="anchord")
