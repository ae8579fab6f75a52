"""`python -m deploy.servers.guarded PARENT FOLDER COMMAND…`: becomes COMMAND, which ends with its parent process (Linux)."""

import os
import sys

from servicekit.children import end_with

if __name__ == "__main__":
    parent, folder, *command = sys.argv[1:]
    end_with(int(parent))
    os.chdir(folder)
    os.execvp(command[0], command)
