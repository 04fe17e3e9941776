"""``python -m pitr`` is the command line."""

from pitr.faces.cli import main

if __name__ == "__main__":
    main()
