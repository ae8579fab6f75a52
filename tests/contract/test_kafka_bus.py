"""The bus's suite on a real broker; below it, what only Kafka can show."""

import os
from pathlib import Path

from servicekit.access import KafkaAccess
from servicekit.kafka import KafkaBus
from servicekit.testing.shared_bus import SharedBusContract


class TestKafkaBus(SharedBusContract):
    def make(self, tmp_path: Path) -> KafkaBus:
        return KafkaBus([os.environ["TEST_KAFKA"]], KafkaAccess())

    def address(self, tmp_path: Path) -> str:
        return f"kafka:{os.environ['TEST_KAFKA']}"
