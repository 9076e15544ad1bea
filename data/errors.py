"""The one exception for bad input, and the wrapper that turns it into exit status 2."""

import sys
import time
from collections.abc import Callable

from data.ranks import launched_rank

INTERRUPTED = 130
"""Exit status after Ctrl-C: 128 and the number of the signal, as shells count."""


class InputError(Exception):
    """Something the person gave is wrong: what, where (file, row, key), and the mend, in one line.

    Only a list of files that are not there has a line for each.
    """


def run_cli(main: Callable[[], None]) -> None:
    """Runs an entry point; an `InputError` ends it with its message on stderr and exit status 2, Ctrl-C with 130."""
    try:
        main()
    except InputError as error:
        if launched_rank() > 0:
            # Mostly every rank finds the same: the first one says it, and the launcher ends the others meanwhile.
            time.sleep(10)
        print(f"error: {error}", file=sys.stderr, flush=True)
        sys.exit(2)
    except KeyboardInterrupt:
        print("interrupted; the same command goes on from here", file=sys.stderr, flush=True)
        sys.exit(INTERRUPTED)
