"""The process of one retraining worker: `python -m assay.training.worker`, started by `retrain.py`."""

import os
import signal
import sys

from assay.training.retrain import serve


def main() -> None:
    """Answer on what was standard output; what the user's code prints goes to standard error instead."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches the whole group; the parent ends its workers itself
    with os.fdopen(os.dup(1), "wb") as answers:
        os.dup2(2, 1)
        try:
            serve(sys.stdin.buffer, answers)
        except BrokenPipeError:  # nobody waits for the answer any more
            os._exit(1)


if __name__ == "__main__":
    main()
