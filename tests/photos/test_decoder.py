"""Costly photos are decoded in a second process, which keeps to its limits and ends when it should."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import psutil
import pytest
from PIL import Image

from lwm_edge import _processes
from lwm_edge.errors import PhotosError, ResourceError
from lwm_edge.memory import rss_bytes
from lwm_edge.photos import decoder_process, guard
from lwm_edge.photos.decoder_process import DECODER, MIN_BYTES
from lwm_edge.photos.decoding import decode
from lwm_edge.photos.folders import read_photo_folder
from lwm_edge.photos.guard import MAX_MEMORY_BYTES, MIB
from lwm_edge.photos.photo_set import PixelCache
from lwm_edge.photos.preprocessing import Preprocessing
from lwm_edge.photos.reading import (
    decoding_bytes,
    forget_decoding_peak,
    read_photo,
    separate_decoding_bytes,
)
from tests.support import odd_photos as odd
from tests.support.hostile import no_hang

PREPROCESSING = Preprocessing(image_size=32, resize_size=32, mean=(0, 0, 0), std=(1, 1, 1))
GREY = Image.linear_gradient("L").convert("RGB")
Write = Callable[..., Path]


@pytest.fixture(autouse=True)
def _no_process_left() -> Iterator[None]:
    DECODER.end()
    yield
    DECODER.end()


@pytest.fixture
def write(tmp_path: Path) -> Write:
    def write(name: str, side: int = 64, format: str = "WEBP", turn: int = 0) -> Path:
        path = tmp_path / name
        GREY.rotate(turn).resize((side, side)).save(path, format)
        return path

    return write


def pid() -> int:
    assert DECODER._process
    return DECODER._process.pid


@pytest.mark.slow
def test_the_pixels_are_the_same_in_either_process(write: Write) -> None:
    for format, side in (("WEBP", 300), ("JPEG", 5_000), ("PNG", 7_500), ("BMP", 7_500)):
        DECODER.end()
        path = write("photo", side, format)
        read = read_photo(path, PREPROCESSING)
        assert pid()
        np.testing.assert_array_equal(read, decode(path, 32, 32))


def test_ordinary_photos_need_no_second_process(write: Write) -> None:
    for format, side in (("JPEG", 3_500), ("PNG", 3_500), ("BMP", 3_500)):
        forget_decoding_peak()
        read_photo(write("small", 100, format), PREPROCESSING)
        assert separate_decoding_bytes(0) == 0  # not even with a tight limit
        read_photo(write("photo", side, format), PREPROCESSING)
        assert DECODER._process is None and separate_decoding_bytes(0) >= MIN_BYTES


def test_a_folder_needs_one_process(tmp_path: Path, write: Write) -> None:
    (tmp_path / "a").mkdir()
    for number in range(6):
        write(f"a/{number}.webp", turn=number)
    (tmp_path / "a" / "broken.webp").write_bytes((tmp_path / "a" / "0.webp").read_bytes()[:-40])
    pids = set()
    found = read_photo_folder(
        tmp_path,
        PREPROCESSING,
        PixelCache(0),
        min_photos=5,
        on_progress=lambda progress: pids.add(DECODER._process and DECODER._process.pid),
    )
    assert len(found.photos[0]) == 6 and len(pids - {None}) == 1
    assert "a/broken.webp is damaged, or takes more than 384 MiB of memory to decode" in found.skipped[0]


@pytest.mark.parametrize("how", ["killed", "interrupted", "idle"])
def test_a_new_process_takes_the_place_of_one_that_ended(
    write: Write, monkeypatch: pytest.MonkeyPatch, how: str
) -> None:
    path = write("photo.webp")
    expected = read_photo(path, PREPROCESSING)
    before = pid()
    if how == "killed":
        monkeypatch.setattr(DECODER, "_exchange", _signalling(DECODER._exchange, signal.SIGKILL))
        with pytest.raises(PhotosError, match="its process was killed, most likely because the machine's"):
            read_photo(path, PREPROCESSING)
    elif how == "interrupted":
        monkeypatch.setattr(DECODER, "_exchange", _interrupted)
        with pytest.raises(KeyboardInterrupt):
            read_photo(path, PREPROCESSING)
    else:  # as happens after ten seconds without a photo
        assert DECODER._process and DECODER._process.stdin
        duplicate = os.dup(DECODER._process.stdin.fileno())
        DECODER._process.stdin.close()
        os.close(duplicate)
        DECODER._process.wait()
        read_end, write_end = os.pipe()
        os.close(read_end)
        DECODER._process.stdin = os.fdopen(write_end, "wb")
    monkeypatch.undo()
    np.testing.assert_array_equal(read_photo(path, PREPROCESSING), expected)
    assert pid() != before


def _signalling(exchange: Callable[..., object], number: signal.Signals) -> Callable[..., object]:
    def signal_first(*job: object) -> object:
        DECODER._started().send_signal(number)
        return exchange(*job)

    return signal_first


def _interrupted(*job: object) -> None:
    raise KeyboardInterrupt


def test_a_process_that_ends_at_once_is_started_twice_and_no_more(
    write: Write, monkeypatch: pytest.MonkeyPatch
) -> None:
    started = []

    def end_at_once(*given: object, **named: object) -> subprocess.Popen[bytes]:
        started.append(given)
        pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE}
        return subprocess.Popen([sys.executable, "-c", ""], **pipes)  # type: ignore[call-overload,no-any-return]

    monkeypatch.setattr(decoder_process, "start_process", end_at_once)
    with no_hang(), pytest.raises(PhotosError, match="decodes photos ends as soon as it starts"):
        read_photo(write("photo.webp"), PREPROCESSING)
    assert len(started) == 2


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_the_decoder_ignores_sigint_and_sigterm(
    write: Write, monkeypatch: pytest.MonkeyPatch, number: signal.Signals
) -> None:
    monkeypatch.setattr(DECODER, "_exchange", _signalling(DECODER._exchange, number))
    read_photo(write("photo.webp"), PREPROCESSING)


@pytest.mark.parametrize("busy", [False, True])
def test_the_process_ends_with_its_parent(tmp_path: Path, write: Write, busy: bool) -> None:
    first, slow = write("photo.webp"), tmp_path / "slow.jpg"
    slow.write_bytes(odd.progressive_jpeg(4_470, 17_000))  # takes longer than this test waits
    code = (
        "import sys, time; from pathlib import Path; from tests.photos.test_decoder import *\n"
        f"read_photo(Path({str(first)!r}), PREPROCESSING); print(pid(), flush=True)\n"
        + (f"DECODER.decode(Path({str(slow)!r}), 32, 32, 384 * MIB)" if busy else "time.sleep(60)")
    )
    with subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True) as starter:
        assert starter.stdout
        decoder = psutil.Process(int(starter.stdout.readline()))
        while busy and decoder.cpu_times().user < 1:
            time.sleep(0.05)
        starter.kill()
    with no_hang():
        decoder.wait(5)


def test_costly_photos_are_skipped_if_no_process_can_be_started(
    write: Write, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "python").touch(mode=0o644)
    monkeypatch.setattr(sys, "executable", str(tmp_path / "python"))
    with pytest.raises(PhotosError, match=r"refuses to run .*/python \(Permission denied\); .*set sys\.exec"):
        read_photo(write("photo.webp"), PREPROCESSING)
    monkeypatch.setattr(sys, "executable", "/opt/app/viewer")
    with pytest.raises(PhotosError, match=r"decoded only in a separate process.*set sys\.executable"):
        read_photo(write("photo.webp"), PREPROCESSING)
    read_photo(write("photo.jpg", 3_500, "JPEG"), PREPROCESSING)
    monkeypatch.undo()
    monkeypatch.setattr(decoder_process, "start_process", _no_more_processes)
    with pytest.raises(ResourceError, match="cannot start a process that decodes photos"):
        read_photo(write("photo.webp"), PREPROCESSING)


def _no_more_processes(*given: object, **named: object) -> None:
    raise BlockingIOError(11, "Resource temporarily unavailable")


def test_a_limit_is_kept_by_both_processes_together(write: Write) -> None:
    costly, ordinary = write("costly.webp", 3_000), write("ordinary.jpg", 3_500, "JPEG")
    with pytest.raises(
        ResourceError, match=r"is too little to read .* pass --max-memory (\d+)MiB"
    ) as refused:
        read_photo(ordinary, PREPROCESSING, rss_bytes() + MIN_BYTES // 2)
    named = int(refused.value.message.split("--max-memory ")[1].split("MiB")[0])
    read_photo(ordinary, PREPROCESSING, named * MIB)
    assert pid()  # because a JPEG might take more than the limit leaves
    with pytest.raises(PhotosError, match=r"more than \d+ MiB .*--max-memory \d+MiB is enough") as skipped:
        read_photo(costly, PREPROCESSING, named * MIB)
    forget_decoding_peak()
    enough = int(skipped.value.message.split("--max-memory ")[1].split("MiB")[0])
    read_photo(costly, PREPROCESSING, enough * MIB)
    assert MIN_BYTES < decoding_bytes(0) < MAX_MEMORY_BYTES
    read_photo(write("small.png", 64, "PNG"), PREPROCESSING, 1)  # the plan refuses such a limit


@pytest.mark.slow
def test_memory_that_one_photo_leaves_occupied_does_not_limit_the_next(tmp_path: Path, write: Write) -> None:
    pieces, large = tmp_path / "pieces.webp", write("large.webp", 4_400)
    pieces.write_bytes(odd.webp(400, b"ABCD\0\0\0\0" * (15 * MIB // 8)))
    read_photo(pieces, PREPROCESSING)
    assert DECODER.resident_bytes < MIN_BYTES
    read_photo(large, PREPROCESSING)


def test_each_thread_gets_the_photo_that_it_asked_for(write: Write) -> None:
    paths = [write(f"{number}.webp", turn=10 * number) for number in range(8)]
    expected = [decode(path, 32, 32) for path in paths]
    found: dict[int, np.ndarray] = {}

    def read(number: int) -> None:
        found[number] = read_photo(paths[number], PREPROCESSING)

    threads = [threading.Thread(target=read, args=(number,)) for number in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for number in range(8):
        np.testing.assert_array_equal(found[number], expected[number])


def test_a_caller_that_waits_for_the_process_can_stop_waiting(write: Write) -> None:
    def enough() -> None:
        raise TimeoutError("enough")

    path = write("photo.webp")
    with DECODER._lock, pytest.raises(TimeoutError, match=r"^enough$"):
        read_photo(path, PREPROCESSING, on_wait=enough)
    read_photo(path, PREPROCESSING)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("make", "seconds", "why"),
    [
        (lambda: odd.webp(4_470, b""), 20, "takes more than 200 MiB of memory to decode"),
        (lambda: odd.progressive_jpeg(4_470, 17_000), 1, "more than 1 seconds of processor time"),
    ],
)
def test_the_process_is_watched_if_the_system_sets_no_limits(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, make: Callable[[], bytes], seconds: int, why: str
) -> None:
    taken_away = "import sys; sys.modules['fcntl'] = sys.modules['resource'] = None; "
    monkeypatch.setattr(_processes, "_START_CODE", taken_away + _processes._START_CODE)
    monkeypatch.setattr(guard, "MAX_SECONDS", seconds)
    monkeypatch.setattr(decoder_process, "_SECONDS_BETWEEN_LOOKS", 0.01)
    path = tmp_path / "photo"
    path.write_bytes(make())
    with no_hang(), pytest.raises(PhotosError, match=why):
        DECODER.decode(path, 32, 32, 200 * MIB)
    assert DECODER._process is None
    GREY.save(path, "WEBP")
    assert read_photo(path, PREPROCESSING).shape == (32, 32, 3)


def test_a_forked_process_has_a_decoder_of_its_own(write: Write) -> None:
    path = write("photo.webp")
    code = (
        "import os; from pathlib import Path; from tests.photos.test_decoder import *\n"
        f"path = Path({str(path)!r}); read_photo(path, PREPROCESSING); before = pid(); child = os.fork()\n"
        "read_photo(path, PREPROCESSING); assert (pid() == before) == bool(child)\n"
        "assert not child or os.waitpid(child, 0)[1] == 0"
    )
    done = subprocess.run([sys.executable, "-W", "error", "-c", code], capture_output=True, text=True)
    assert done.returncode == 0 and not done.stderr, done.stderr


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux has prctl")
def test_a_service_that_gave_up_its_privileges_can_read_photos_given_in_memory() -> None:
    code = (  # PR_SET_DUMPABLE; the system does the same to a process that calls setuid
        "import ctypes; from io import BytesIO; from tests.photos.test_decoder import *\n"
        "from lwm_edge.photos.in_memory import prepare_photo\n"
        "ctypes.CDLL(None).prctl(4, 0, 0, 0, 0); content = BytesIO(); GREY.save(content, 'WEBP')\n"
        "assert prepare_photo(content.getvalue(), PREPROCESSING).shape == (32, 32, 3) and pid()"
    )
    user = 65_534 if os.geteuid() == 0 else None  # root may open everything
    try:
        done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, user=user)
    except PermissionError:
        pytest.skip("only root may run this Python")
    assert done.returncode == 0, done.stderr


def test_paths_need_be_neither_absolute_nor_utf_8(
    write: Write, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write("\udcff.webp"), write("first.webp")
    read_photo(tmp_path / "first.webp", PREPROCESSING)
    monkeypatch.chdir(tmp_path)
    assert read_photo(Path("\udcff.webp"), PREPROCESSING).shape == (32, 32, 3)
