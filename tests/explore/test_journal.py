"""The running digest of a study's journal: what is lost or changed is said, what a crash leaves is dropped."""

from __future__ import annotations

import json
import os
import random
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from mase.errors import ConfigError
from mase.explore.journal import DIGEST
from mase.explore.storage import open_storage
from mase.explore.study import Study
from mase.explore.trial import Trial
from tests.explore.evaluators import OBJECTIVES, SMALL, bowl

ROOT = Path(__file__).parents[2]
COUNT = 12
DAMAGED = r"study\.journal: this study is damaged: line \d+ .*put a whole copy in its place, or move it away"


def create(storage: Path) -> Study:
    return Study.create(SMALL, OBJECTIVES, storage, seed=5)


@pytest.fixture
def journal(tmp_path: Path) -> Path:
    create(tmp_path / "study.journal").optimize(bowl, COUNT, strategy="random")
    return tmp_path / "study.journal"


@pytest.fixture
def lines(journal: Path) -> list[bytes]:
    return journal.read_bytes().splitlines(keepends=True)


def without_digests(lines: list[bytes]) -> list[bytes]:
    """Return the lines as earlier versions wrote them."""
    return [DIGEST.sub(b"}\n", line) for line in lines]


def refused(path: Path) -> bool:
    try:
        create(path)
    except ConfigError:
        return True
    return False


def test_every_line_carries_the_digest_of_all_before_it(lines: list[bytes]) -> None:
    digests = [json.loads(line)["digest"] for line in lines]
    assert len(lines) == COUNT + 2  # the study, its description, the trials
    assert len(set(digests)) == len(digests)
    assert all(DIGEST.search(line) for line in lines)


def test_a_removed_line_is_said_wherever_it_stood_before_the_last(journal: Path, lines: list[bytes]) -> None:
    for i in range(len(lines) - 1):
        journal.write_bytes(b"".join(lines[:i] + lines[i + 1 :]))
        with pytest.raises(ConfigError, match=f"line {i + 1} differs from its digest"):
            create(journal)


def test_a_study_without_its_last_line_runs_that_trial_again(journal: Path, lines: list[bytes]) -> None:
    whole = create(journal).trials
    journal.write_bytes(b"".join(lines[:-1]))
    assert create(journal).trials == whole[:-1]
    assert create(journal).optimize(bowl, COUNT, strategy="random") == whole


def test_doubled_and_exchanged_lines_are_said(journal: Path, lines: list[bytes]) -> None:
    doubled, exchanged = [*lines[:5], *lines[4:]], [*lines[:4], lines[5], lines[4], *lines[6:]]
    for changed in (doubled, exchanged, [*lines, lines[3]]):
        journal.write_bytes(b"".join(changed))
        with pytest.raises(ConfigError, match=DAMAGED):
            create(journal)


def test_300_flipped_bits_are_all_said_or_are_of_the_last_end(journal: Path) -> None:
    whole, trials = journal.read_bytes(), create(journal).trials
    rng = random.Random(0)
    for place in [len(whole) - 1] + [rng.randrange(len(whole)) for _ in range(299)]:
        flipped = bytearray(whole)
        flipped[place] ^= 1 << rng.randrange(8)
        journal.write_bytes(flipped)
        if place < len(whole) - 1:
            assert refused(journal), f"bit of byte {place} of {len(whole)}"
        else:  # as if the last line had been cut off before its end
            assert create(journal).trials == trials[:-1]


@pytest.mark.parametrize("content", [b"my only notes", b'{"precious": [1, 2]}', b"\0" * 40, b"a\nb\n", b" "])
def test_a_file_that_is_not_a_journal_is_left_as_it_is(content: bytes, tmp_path: Path) -> None:
    path = tmp_path / "notes.txt"
    path.write_bytes(content)
    with pytest.raises(ConfigError, match="this is not a study, or it is damaged: it begins with"):
        create(path)
    assert path.read_bytes() == content


@pytest.mark.parametrize("size", range(12))
def test_a_first_line_that_a_crash_tore_is_begun_anew(size: int, tmp_path: Path) -> None:
    path = tmp_path / "study.journal"
    path.write_bytes(b'{"op_code":0'[:size])
    assert create(path).trials == ()


def test_an_empty_place_is_not_the_current_folder() -> None:
    with pytest.raises(ConfigError, match="storage: found an empty path"):
        open_storage("")


def test_what_is_not_a_file_is_not_a_journal(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    for path in (Path("/dev/zero"), tmp_path / "pipe", tmp_path):
        with pytest.raises(ConfigError, match="this is not a file"):
            create(path)


def test_a_digest_that_was_taken_away_is_said(journal: Path, lines: list[bytes]) -> None:
    journal.write_bytes(b"".join([*lines[:6], *without_digests(lines[6:7]), *lines[7:]]))
    with pytest.raises(ConfigError, match="line 7 has no digest, while the line before it has one"):
        create(journal)


def test_a_journal_of_an_earlier_version_loads_and_is_covered_from_then_on(journal: Path, lines: list[bytes]) -> None:
    trials = create(journal).trials
    old = without_digests(lines)
    journal.write_bytes(b"".join(old))
    assert create(journal).trials == trials
    more = create(journal).optimize(bowl, COUNT + 2, strategy="random")
    assert create(journal).trials == more
    assert more[:COUNT] == trials
    longer = journal.read_bytes().splitlines(keepends=True)
    assert longer[: len(old)] == old
    journal.write_bytes(b"".join(longer[:5] + longer[6:]))
    with pytest.raises(ConfigError, match=f"line {len(old)} differs"):
        create(journal)


def test_what_is_cut_off_while_a_study_runs_is_said(journal: Path, lines: list[bytes]) -> None:
    study = create(journal)
    journal.write_bytes(b"".join(lines[:-3]))
    with pytest.raises(ConfigError, match=r"study\.journal: this study was cut off while it ran"):
        study._store.append(Trial(COUNT, study.trials[0].point, study.trials[0].metrics))


KILLED = """
import os, signal, sys
from tests.explore.evaluators import OBJECTIVES, SMALL, bowl
from mase.explore.study import Study
count = 0
def die(file):
    global count
    count += 1
    if count == 7:  # two lines make the study, the fifth trial is the seventh
        os.ftruncate(file, os.fstat(file).st_size - 60)  # as far as the disk got
        os.kill(os.getpid(), signal.SIGKILL)
os.fsync = die
Study.create(SMALL, OBJECTIVES, sys.argv[1], seed=5).optimize(bowl, 12, strategy="random")
"""


def test_kill_9_in_the_middle_of_a_line_loses_that_line_alone(journal: Path, tmp_path: Path) -> None:
    torn, whole = tmp_path / "torn.journal", create(journal).trials
    killed = subprocess.run([sys.executable, "-c", KILLED, str(torn)], cwd=ROOT, env={**os.environ, "PYTHONPATH": "."})
    assert killed.returncode == -signal.SIGKILL
    assert not torn.read_bytes().endswith(b"\n")
    assert create(torn).trials == whole[:4]
    assert create(torn).optimize(bowl, COUNT, strategy="random") == whole


APPENDING = """
import sys, time
from mase.errors import ConfigError
from mase.explore.study import Study
from mase.explore.trial import Trial
study, first = Study.load(sys.argv[1]), int(sys.argv[2])
for number in range(first, first + 40, 2):
    while True:
        try:
            study._store.append(Trial(number, study.trials[0].point, {"loss": float(number), "bits": 1.0}))
            break
        except ConfigError as error:
            assert "another process is writing" in str(error), error
            time.sleep(0.001)
"""


def test_two_processes_that_append_in_turns_make_one_chain(journal: Path) -> None:
    starts = [COUNT, COUNT + 1]
    command = [sys.executable, "-c", APPENDING, str(journal)]
    running = [subprocess.Popen([*command, str(first)], cwd=ROOT) for first in starts]
    assert [process.wait(60) for process in running] == [0, 0]
    trials = create(journal).trials
    assert [trial.number for trial in trials] == list(range(COUNT + 40))
    assert all(trial.metrics["loss"] == trial.number for trial in trials[COUNT:])
