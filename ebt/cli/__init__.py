"""The ``ebt`` command. Each command is a module with ``main(args) -> exit code``."""
