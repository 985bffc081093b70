"""`python -m harness` is the `weighbridge` command."""

from harness.cli import entry

if __name__ == "__main__":
    raise SystemExit(entry())
