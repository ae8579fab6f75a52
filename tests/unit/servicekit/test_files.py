"""Files: synced whole or not there; scratch of a killed process is swept."""

import subprocess
import sys
from io import BytesIO
from pathlib import Path

import pytest

from servicekit.files import scratch_folder, write_synced


def test_a_synced_file_is_written_whole_and_never_over_another(tmp_path: Path) -> None:
    data = bytes(range(256)) * 8192
    write_synced(tmp_path / "new", BytesIO(data))
    assert (tmp_path / "new").read_bytes() == data
    with pytest.raises(FileExistsError):
        write_synced(tmp_path / "new", BytesIO(b"other"))
    assert (tmp_path / "new").read_bytes() == data


HOLD_SCRATCH = """
import sys
from pathlib import Path
from servicekit.files import scratch_folder
with scratch_folder(Path(sys.argv[1])) as folder:
    (folder / "file").touch()
    print(folder, flush=True)
    sys.stdin.read()
"""


def test_the_scratch_of_a_killed_process_is_removed_at_the_next_start(tmp_path: Path) -> None:
    scratch = tmp_path / "state" / "scratch"
    with scratch_folder(scratch) as first:
        assert first.parent == scratch
    (scratch / "of-another-kind").touch()
    with subprocess.Popen(
        [sys.executable, "-c", HOLD_SCRATCH, str(scratch)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout
        other = Path(process.stdout.readline().strip())
        with scratch_folder(scratch) as own:
            assert own != other and (other / "file").exists()
        assert not own.exists()
        process.kill()
    assert (other / "file").exists()
    with scratch_folder(scratch):
        assert not other.exists()
    assert [path.name for path in scratch.iterdir()] == ["of-another-kind"]
