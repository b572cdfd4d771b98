"""``python -m ganaug`` is ``ganaug``."""

from ganaug.cli import main

if __name__ == "__main__":
    main()
