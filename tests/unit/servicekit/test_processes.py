"""What a process may open."""

import subprocess
import sys

SCRIPT = """
import resource
from servicekit.processes import raise_file_limit
soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
resource.setrlimit(resource.RLIMIT_NOFILE, (64, min(hard, 500) if hard != resource.RLIM_INFINITY else 500))
raise_file_limit()
print(*resource.getrlimit(resource.RLIMIT_NOFILE))
"""


def test_a_service_may_open_all_files_that_the_machine_allows_it() -> None:
    ran = subprocess.run([sys.executable, "-c", SCRIPT], capture_output=True, text=True, check=True)
    assert ran.stdout.split() == ["500", "500"]
