"""Ports are reserved until the services listen on them."""

import random
import subprocess
import sys

from deploy.local.ports import free_ports, own_range

CHOOSE = "import random; from deploy.local.ports import free_ports; random.seed(7); print(free_ports().base)"


def test_concurrent_callers_get_different_ports() -> None:
    before = random.getstate()
    try:
        random.seed(7)
        mine = free_ports().base
        random.seed(7)
        again = free_ports().base
    finally:
        random.setstate(before)
    theirs = int(subprocess.run([sys.executable, "-c", CHOOSE], capture_output=True, text=True, check=True).stdout)
    assert len({mine, again, theirs}) == 3


def test_a_servers_own_range_stays_reserved_while_it_is_down() -> None:
    before = random.getstate()
    try:
        random.seed(8)
        mine = own_range()
        for _ in range(10):
            random.seed(8)
            assert free_ports().base != mine
    finally:
        random.setstate(before)
