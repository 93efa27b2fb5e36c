"""``variables.py SIZE COMMAND ...``: run a command SIZE times with the variables that torchrun sets, and wait for all.

Exits with the first code that is not 0. Unlike torchrun, it leaves ranks alone whose peer failed.
"""

import os
import socket
import subprocess
import sys


def main(size, *command):
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    joint = {**os.environ, "WORLD_SIZE": size, "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
    ranks = [subprocess.Popen(command, env={**joint, "RANK": str(rank)}) for rank in range(int(size))]
    codes = [rank.wait() for rank in ranks]
    return next((abs(code) for code in codes if code), 0)


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
