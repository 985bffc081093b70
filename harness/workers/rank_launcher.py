"""torchrun, tied to the process that started it:
`python -m harness.workers.rank_launcher PARENT TORCHRUN-ARGUMENT…`.
"""

from __future__ import annotations

import sys

from harness.machine.lifeline import die_with_parent


def main() -> None:
    """Run torchrun until it ends or the parent dies."""
    die_with_parent(int(sys.argv[1]))
    from torch.distributed.run import main as torchrun

    torchrun(sys.argv[2:])


if __name__ == "__main__":
    main()
