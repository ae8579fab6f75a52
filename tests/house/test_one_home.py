"""One rule, one home: the sign by which each rule is known stands in the files of its home and nowhere else."""

import re

import pytest

from tests.house.test_repository import HOUSE, files

PRODUCT = ("millstream/", "servicekit/", "recipekit/", "recipes/", "services/", "deploy/local/", "deploy/demo/")

HOMES = {
    "the kind of processor": (r"/proc/cpuinfo|nvidia-smi", ["recipekit/hardware.py"]),
    "when two rows are the same": (r"def row_key\(", ["recipekit/spec.py"]),
    "a run's config is valid": (r"class BadConfig|raise BadConfig", ["recipekit/catalog.py", "recipekit/spec.py"]),
    "what a text may cost": (r"unicodedata\.normalize\(", ["recipekit/text_limits.py"]),
    "rows → batches under a token budget": (r"def pack\(", ["recipekit/packing.py"]),
    "the bytes of a dataset part": (r"mtime=0", ["servicekit/blobs/parts.py"]),
    "a folder in the store": (r"/manifest\b", ["servicekit/blobs/artifacts.py"]),
    "bytes → message": (
        r"\.FromString\(|\.ParseFromString\(|\.Unpack\(",
        [
            "millstream/cli/dlq.py",  # events and error details: their bytes come from the bus and from peers
            "millstream/errors.py",
            "servicekit/blobs/stored.py",
            "servicekit/facts/events.py",
        ],
    ),
    "the cache of artifacts on disk": (r"class ArtifactCache", ["servicekit/blobs/artifact_cache.py"]),
    "the walk through all pages": (
        r"\.page_token = ",
        ["millstream/client/aio/pages.py", "millstream/client/sync/pages.py"],
    ),
    # Beside its home, the word names the champion's metrics in a report, not the alias.
    "the alias champion": (
        r"CHAMPION = |\"champion\"",
        [
            "millstream/cli/reports.py",
            "millstream/defaults.py",
            "recipekit/gate.py",
            "services/evaluator/report/page.py",
        ],
    ),
    "services and ports": (r"= \"127\.0\.0\.1\"|\"127\.0\.0\.1:\d|, 50050, 9100", ["millstream/defaults.py"]),
    "topic → message": (r"\bTopic\(\"", ["millstream/defaults.py"]),
    "ended states": (
        r"STATE_FAILED,\s+\w+\.STATE_CANCELLED|STATE_UNCHANGED,\s+\w+\.STATE_REFUSED|STATE_PENDING,\s+\w+\.STATE_RUNNING",
        ["millstream/states.py"],
    ),
    "enum → word": (r"enum\.Name\(", ["millstream/states.py"]),
    "time ↔ Timestamp": (r"\.GetCurrentTime\(|\.FromNanoseconds\(", ["millstream/timestamps.py"]),
    "the digest of a file": (r"hashlib\.file_digest", ["millstream/files.py"]),
    "credentials from the environment": (r"\"cert_file\": \"MILLSTREAM_", ["millstream/credentials.py"]),
    "worker files by pid": (r"\.files\"", ["services/trainer/launchers/worker_folder.py"]),
    "Kafka options": (r"retention_hours: ", ["servicekit/bus/kafka/options.py"]),
    "S3 options": (r"create_bucket: ", ["servicekit/blobs/s3/options.py"]),
    "what callers may have stored": (r"REASON_CHARACTERS = |GATE_RULES = |SPEC_BYTES = ", ["servicekit/limits.py"]),
    "the limits of connections": (r"grpc\.max_connection_", ["servicekit/rpc/server.py"]),
    "the role that a method needs": (r"Extensions\[role\]", ["servicekit/rpc/auth.py"]),
}


@pytest.mark.parametrize("rule", HOMES)
def test_a_rule_has_one_home(rule: str) -> None:
    sign, home = HOMES[rule]
    written = [file for file in files() if file.suffix == ".py" and "_pb2" not in file.name]
    names = [str(file.relative_to(HOUSE)) for file in written if re.search(sign, file.read_text(encoding="utf-8"))]
    found = [name for name in names if name.startswith(PRODUCT) and "/test_" not in name]
    assert found == home, f"{rule}: say it once, in {', '.join(home)}"
