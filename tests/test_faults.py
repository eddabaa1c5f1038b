"""What happens to sweeps in the world: a short trial of faults, interrupts, several drivers, other users' files."""

import contextlib
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch

from toysup import store
from toysup import sweep as sweeps
from toysup.checks import InputError
from toysup.features import SparseUniform
from toysup.grid import Grid
from toysup.measure import held_out_loss
from toysup.models import TiedAutoencoder
from toysup.results import load
from toysup.setting import Model, Setting
from toysup.store import Store
from toysup.sweep import sweep
from toysup.tasks import Identity

HERE = Path(__file__).parent
PIPES = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
FOREVER = 300  # seconds after which something hangs
LONG = """
import signal
signal.signal(signal.SIGINT, signal.default_int_handler)  # ignored by what a shell starts in the background
from toysup.features import SparseUniform
from toysup.grid import Grid
from toysup.models import TiedAutoencoder
from toysup.setting import Model, Setting
from toysup.sweep import sweep
from toysup.tasks import Identity

setting = Setting(SparseUniform(4, 0.3), Identity(), Model(TiedAutoencoder, width=2), steps=200_000, batch=256)
sweep(Grid(setting, {{"seed": range({seeds})}}), [], results={folder!r}, workers={workers}, progress=False)
"""


def test_the_short_trial():
    """Signals, kills in the midst of writes, damaged files, bad input: tests/faults/trial.py counts what it tried."""
    command = [sys.executable, str(HERE / "faults" / "trial.py"), "--quick"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=FOREVER)
    assert done.returncode == 0, done.stdout + done.stderr
    counts = {kind: int(number) for kind, number in re.findall(r"'(\w+)': (\d+)", done.stdout)}
    assert counts["signals"] >= 4 and counts["kills"] >= 8 and counts["damages"] >= 14 and counts["inputs"] >= 250


@pytest.mark.skipif(sys.platform != "linux", reason="workers are forked, and counted in /proc")
@pytest.mark.parametrize(("which", "workers"), [(signal.SIGINT, 2), (signal.SIGTERM, 1)])
def test_an_interrupt_is_one_line_and_leaves_nobody_behind(which, workers, tmp_path):
    """As the parent alone gets it, in the midst of chunks that would take minutes."""
    script = LONG.format(seeds=2000, folder=str(tmp_path), workers=workers)
    driver = subprocess.Popen([sys.executable, "-c", script], start_new_session=True, **PIPES)
    try:
        await_(lambda: any(tmp_path.glob("*/*.part")) or driver.poll() is not None)  # something was kept
        driver.send_signal(which)
        out, said = driver.communicate(timeout=FOREVER)
        assert driver.returncode == (128 + signal.SIGTERM if which == signal.SIGTERM else -signal.SIGINT), said
        assert out == "" and said.count("\n") == 1, said
        assert str(tmp_path) in said or "again" in said
        await_(lambda: not processes_of(driver.pid))
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(driver.pid, signal.SIGKILL)


def await_(true):
    limit = time.monotonic() + FOREVER
    while not true():
        assert time.monotonic() < limit, "nothing happened"
        time.sleep(0.05)


def processes_of(session):
    """Of a session, by number; those that ended and wait to be seen don't count."""
    found = []
    for stat in Path("/proc").glob("[0-9]*/stat"):
        try:
            state, _, _, own = stat.read_text().rpartition(")")[2].split()[:4]
        except OSError:
            continue
        if int(own) == session and state != "Z":
            found.append(stat.parent.name)
    return found


def small(seeds=6, steps=4):
    setting = Setting(SparseUniform(4, 0.3), Identity(), Model(TiedAutoencoder, width=2), steps=steps, batch=16)
    return Grid(setting, {"seed": range(seeds)})


@pytest.mark.parametrize("number", [0, 99_999, 100_000, 1_234_567])
def test_chunks_have_numbers_of_any_length(number, tmp_path):
    for other in (number, number + 1, 10 * number + 2):
        (tmp_path / f"{other:05d}.parquet").write_bytes(b"")
        (tmp_path / f"{other:05d}.safetensors").write_bytes(b"")
    assert Store(tmp_path).trained() == {number, number + 1, 10 * number + 2}


def test_permission_is_not_damage(tmp_path):
    """Files are as readable as the folder's owner lets files be, and who may not read them is told so, not to delete
    them."""
    before = os.umask(0o022)
    try:
        results = sweep(small(), [held_out_loss], results=tmp_path, progress=False)
    finally:
        os.umask(before)
    files = [path for path in results.path.iterdir() if not path.name.endswith(".lock")]
    assert files and all(path.stat().st_mode & 0o777 == 0o644 for path in files)


def test_who_may_not_read_is_told_so(tmp_path, monkeypatch):
    results = sweep(small(), [held_out_loss], results=tmp_path, progress=False)
    real = open

    def guarded(path, *args, **options):
        if path.name == "00000.safetensors":
            raise PermissionError(13, "Permission denied", str(path))
        return real(path, *args, **options)

    monkeypatch.setattr(store, "open", guarded, raising=False)  # whoever is root may read whatever its mode is
    with pytest.raises(InputError, match="may not be read by you") as caught:
        load(results.path, verify=True)
    assert "delete" not in str(caught.value) and "\n" not in str(caught.value)


def test_a_device_that_holds_nothing_is_refused_before_training(monkeypatch):
    monkeypatch.setattr(sweeps, "train_chunk", None)
    with pytest.raises(InputError, match="meta"):
        sweep(small(), [], device=torch.device("meta"), progress=False)


ALONE = """
import contextlib
import os
from toysup.results import load

before = os.listdir("/proc/self/task")
print(len(load({path!r}).table))
assert os.listdir("/proc/self/task") == before, "threads were made"
"""


@pytest.mark.skipif(sys.platform != "linux", reason="threads are counted in /proc")
def test_tables_are_read_where_no_threads_can_be_had(tmp_path):
    """As under a limit on processes, or after a fork, where arrow's readers would wait for ever."""
    results = sweep(small(), [held_out_loss], results=tmp_path, progress=False)
    script = ALONE.format(path=str(results.path))
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=FOREVER)
    assert done.returncode == 0 and done.stdout == "6\n", done.stderr
