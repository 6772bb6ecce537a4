"""The download stage, with the real Kaggle client, against a loopback imitation of Kaggle that misbehaves."""

import gc
import hashlib
import io
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import time
import warnings
import zipfile
from collections.abc import Iterator
from pathlib import Path

import fake_kaggle
import pytest
import yaml
from fake_kaggle import SIGNATURE, FakeKaggle

from faces.cli import InputError
from faces.naming import LABELS
from faces.source import kaggle_client, kaggle_dataset, manifest
from stages import download, source

ROOT = Path(__file__).resolve().parents[2]
NAME = "someone/some-faces"
PATHS = (Path("downloads/source"), Path("downloads/images"), Path("data"))
STAGE = [sys.executable, "-m", "stages.download", *map(str, PATHS)]
KEY, API_TOKEN = "0123456789abcdef-key", "KGAT-secret-token"


def kaggle_layout(seed: int = 0) -> tuple[bytes, str]:
    """Return an archive of about 2 MB with Kaggle's folders and stray files, and the pin of its images."""
    rng = random.Random(seed)
    buffer, lines = io.BytesIO(), []
    with zipfile.ZipFile(buffer, "w") as archive:
        for folder, stem, label in (
            ("downSyndorme/downSyndrome", "down", "down_syndrome"),
            ("healty/healty", "healty", "healthy"),
        ):
            for number in range(20):
                data = rng.randbytes(50_000)
                archive.writestr(f"{folder}/{stem}_{number}.jpg", data)
                lines.append((f"{label}/{stem}_{number}.jpg", hashlib.sha256(data).hexdigest()))
        archive.writestr("healty/healty/Thumbs.db", b"thumbs")
        archive.writestr("labeling.xlsx", b"table")
    text = "".join(f"{digest}  {path}\n" for path, digest in sorted(lines))
    return buffer.getvalue(), hashlib.sha256(text.encode()).hexdigest()


ARCHIVE, PIN = kaggle_layout()


def write_params(folder: Path, **data: object) -> None:
    """Write the committed parameters with some of `data` replaced."""
    params = yaml.safe_load((ROOT / "params.yaml").read_text())
    params["data"] |= {"source": "kaggle", "dataset": NAME, "sha256": PIN, **data}
    (folder / "params.yaml").write_text(yaml.safe_dump(params))


@pytest.fixture
def kaggle(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[FakeKaggle]:
    """A project folder to work in, no credentials, short waits, and Kaggle at the loopback interface."""
    (tmp_path / "home" / ".kaggle").mkdir(parents=True)
    for name in [*os.environ]:
        if name.lower().endswith("_proxy") or name.startswith("KAGGLE_") or name in ("VERBOSE", "VERBOSE_OUTPUT"):
            monkeypatch.delenv(name)
    with fake_kaggle.serving(ARCHIVE) as server:
        environment = {
            **server.environment(),
            "HOME": str(tmp_path / "home"),
            "PYTHONPATH": str(ROOT),
            "DOWNLOAD_STALL_SECONDS": "30",
            "DOWNLOAD_BACKOFF_SECONDS": "0.01",
        }
        for name, value in environment.items():
            monkeypatch.setenv(name, value)
        monkeypatch.chdir(tmp_path)
        monkeypatch.setattr(os, "fsync", lambda descriptor: None)  # one test below counts them
        write_params(tmp_path)
        yield server


@pytest.fixture
def inline(kaggle: FakeKaggle, monkeypatch: pytest.MonkeyPatch) -> Iterator[FakeKaggle]:
    """The same, with the client called in this process: its import takes a second or two in each new one."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        import kaggle as client
    monkeypatch.setattr(client.api, "args", ["--local"])
    monkeypatch.setattr(client.api, "config_values", {})

    def ask(self: kaggle_dataset.Client, request: str) -> kaggle_dataset.Fault | None:
        self.dataset.arrived.parent.mkdir(parents=True, exist_ok=True)
        outcome = kaggle_client.attempt(request, self.dataset.name, str(self.dataset.arrived.parent))
        return kaggle_dataset.Fault(**outcome) if outcome else None

    monkeypatch.setattr(kaggle_dataset.Client, "ask", ask)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ResourceWarning)  # where it resumes, the client leaves a socket open
        yield kaggle
        if len(kaggle.asked("object")) > 1:
            gc.collect()


def stage() -> subprocess.CompletedProcess[str]:
    """Run the stage as DVC does."""
    return subprocess.run(STAGE, capture_output=True, text=True, timeout=60)


def content(root: Path) -> str:
    """Return the pin of the images in a folder."""
    return manifest.pin(manifest.digests(root))


def own() -> None:
    """Run the two stages on a source of one's own."""
    source.main(PATHS[0])
    download.main(*PATHS)


def assert_whole() -> None:
    """Assert that the output is the archive's images and nothing else lies beside it."""
    assert content(Path("downloads/images")) == PIN
    assert hashlib.sha256(Path("downloads/images.sha256").read_bytes()).hexdigest() == PIN
    assert sorted(path.name for path in Path("downloads").iterdir()) == ["images", "images.sha256", "kaggle"]
    assert len(list(Path("downloads/images").rglob("*"))) == 42


def assert_nothing() -> None:
    """Assert that there is no output, nor a part of one."""
    beside = {"kaggle", "source", "source.txt"}
    assert [path.name for path in Path("downloads").glob("*") if path.name not in beside] == []


def assert_silent(text: str) -> None:
    """Assert that no signed address, no credential, and no traceback is in what the user sees."""
    for secret in (SIGNATURE, "X-Goog", KEY, API_TOKEN, "Traceback", fake_kaggle.STORE):
        assert secret not in text


def test_anonymous_then_never_again(kaggle: FakeKaggle) -> None:
    first = stage()
    assert first.returncode == 0, first.stderr
    assert_whole()
    assert "https://www.kaggle.com/datasets/someone/some-faces" in first.stdout
    assert "licence  CC0-1.0" in first.stdout
    assert "left out 2: 1 .xlsx at the top, 1 .db in healty/healty" in first.stdout
    assert_silent(first.stdout + first.stderr)
    assert not any("Authorization" in request.headers for request in kaggle.requests)

    asked = len(kaggle.requests)
    shutil.rmtree("downloads/images")
    second = stage()
    assert second.returncode == 0, second.stderr
    assert_whole()
    assert len(kaggle.requests) == asked
    assert "licence  CC0-1.0" in second.stdout


def test_token_is_sent_to_kaggle_alone_and_never_printed(kaggle: FakeKaggle, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("KAGGLE_API_TOKEN", API_TOKEN)
    monkeypatch.setenv("VERBOSE", "1")  # the client then prints its requests, headers and all
    done = stage()
    assert done.returncode == 0, done.stderr
    assert_whole()
    assert kaggle.asked("download")[0].headers["Authorization"] == f"Bearer {API_TOKEN}"
    assert not any("Authorization" in request.headers for request in kaggle.asked("object"))
    assert_silent(done.stdout + done.stderr)


def test_key(inline: FakeKaggle, monkeypatch: pytest.MonkeyPatch) -> None:
    import kaggle as client

    monkeypatch.setenv("KAGGLE_USERNAME", "someone")
    monkeypatch.setenv("KAGGLE_KEY", KEY)
    client.api.authenticate()
    download.main(*PATHS)
    assert_whole()
    assert inline.asked("download")[0].headers["Authorization"].startswith("Basic ")
    assert not any("Authorization" in request.headers for request in inline.asked("object"))


def test_version_has_its_own_folder(inline: FakeKaggle, tmp_path: Path) -> None:
    write_params(tmp_path, dataset=f"{NAME}/3")
    download.main(*PATHS)
    assert_whole()
    assert inline.asked("download")[0].body["datasetVersionNumber"] == 3
    assert Path("downloads/kaggle/someone/some-faces/3/some-faces.zip").exists()


@pytest.mark.parametrize("after", [0, 1, 65535, 65536, 65537, 1_000_000, len(ARCHIVE) - 1])
def test_drop_resumes(inline: FakeKaggle, after: int) -> None:
    inline.faults["object"] = [fake_kaggle.drop(after)]
    download.main(*PATHS)
    assert_whole()
    ranges = [request.headers["Range"] for request in inline.asked("object") if "Range" in request.headers]
    kept = after - after % kaggle_client.CHUNK
    assert ranges == ([f"bytes={kept}-"] if kept else [])


def test_many_drops_with_progress_are_not_too_many(inline: FakeKaggle) -> None:
    inline.faults["object"] = [
        fault
        for part in range(2 * kaggle_dataset.ATTEMPTS)
        for fault in ([fake_kaggle.as_usual] if part else []) + [fake_kaggle.drop(100_000)]
    ]
    download.main(*PATHS)
    assert_whole()


def test_drop_resumes_in_the_next_run(inline: FakeKaggle, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(kaggle_dataset, "ATTEMPTS", 1)
    inline.faults["object"] = [fake_kaggle.drop(1_000_000)]
    with pytest.raises(InputError, match=r"983,040 bytes are kept.*goes on from there.*ARCHIVE="):
        download.main(*PATHS)
    assert_nothing()
    download.main(*PATHS)
    assert_whole()
    assert inline.requests[-2].headers["Range"] == "bytes=983040-"


def test_server_that_ignores_range(inline: FakeKaggle) -> None:
    inline.honours_range = False
    inline.faults["object"] = [fake_kaggle.drop(1_000_000)]
    download.main(*PATHS)
    assert_whole()


def test_server_that_ignores_range_and_always_drops(inline: FakeKaggle) -> None:
    inline.honours_range = False
    inline.faults["object"] = [fake_kaggle.drop(1_000_000)] * 99
    with pytest.raises(InputError, match="without progress: the connection broke"):
        download.main(*PATHS)
    assert_nothing()


def test_hang(kaggle: FakeKaggle, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(kaggle_dataset, "ATTEMPTS", 1)
    monkeypatch.setenv("DOWNLOAD_STALL_SECONDS", "1.5")
    kaggle.faults["download"] = [fake_kaggle.hang]
    with pytest.raises(InputError, match=r"nothing arrived for 1.5 s; 0 bytes are kept"):
        download.main(*PATHS)
    assert len(kaggle.asked("download")) == 1
    assert_nothing()


def test_stall(kaggle: FakeKaggle, monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest) -> None:
    monkeypatch.setattr(kaggle_dataset, "ATTEMPTS", 1)
    monkeypatch.setenv("DOWNLOAD_STALL_SECONDS", "1.5")
    kaggle.faults["object"] = [fake_kaggle.stall(1_000_000)]
    with pytest.raises(InputError, match=r"nothing arrived for 1.5 s; 983,040 bytes are kept"):
        download.main(*PATHS)
    assert_nothing()
    request.getfixturevalue("inline")
    download.main(*PATHS)
    assert_whole()


def test_client_that_dies(kaggle: FakeKaggle, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "executable", shutil.which("false"))
    with pytest.raises(InputError, match="its client ended unexpectedly"):
        download.main(*PATHS)


def test_busy_server_is_given_time(
    inline: FakeKaggle, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    waits: list[float] = []
    monkeypatch.setattr(time, "sleep", waits.append)
    inline.faults["download"] = [
        fake_kaggle.status(429, {"Retry-After": "7"}),
        fake_kaggle.status(503),
        fake_kaggle.status(500),
    ]
    inline.faults["object"] = [fake_kaggle.status(502)]
    download.main(*PATHS)
    assert_whole()
    assert waits == [7, 0.02, 0.04, 0.08]
    out = capsys.readouterr().out
    for code in (429, 503, 500, 502):
        assert f"HTTP {code}" in out
    assert_silent(out)


def test_busy_for_too_long(inline: FakeKaggle) -> None:
    inline.faults["download"] = [fake_kaggle.status(503)] * 99
    with pytest.raises(InputError, match="failed 5 times without progress: HTTP 503"):
        download.main(*PATHS)
    assert len(inline.requests) == 5


def test_asked_to_wait_too_long(inline: FakeKaggle) -> None:
    inline.faults["download"] = [fake_kaggle.status(429, {"Retry-After": "3600"})]
    with pytest.raises(InputError, match="HTTP 429, and it asks to wait 3600 s"):
        download.main(*PATHS)
    assert len(inline.requests) == 1


@pytest.mark.parametrize(
    ("endpoint", "answer", "words"),
    [
        ("download", fake_kaggle.status(401), "refused a request without credentials"),
        ("download", fake_kaggle.status(403), "refused a request without credentials"),
        ("object", fake_kaggle.status(403), "refused a request without credentials"),
        ("download", fake_kaggle.status(404), "shows no dataset someone/some-faces"),
        (
            "download",
            fake_kaggle.in_place_of_data(
                b'{"code": 403, "message": "no ' + SIGNATURE.encode() + b'"}', "application/json"
            ),
            "HTTP 403",
        ),
    ],
)
def test_refusal_says_what_to_do(
    inline: FakeKaggle, endpoint: str, answer: fake_kaggle.Fault, words: str, capsys: pytest.CaptureFixture[str]
) -> None:
    inline.faults[endpoint] = [answer]
    with pytest.raises(InputError, match=words) as refusal:
        download.main(*PATHS)
    text = str(refusal.value)
    for advice in ("https://www.kaggle.com/settings", "~/.kaggle/access_token", "KAGGLE_API_TOKEN", "ARCHIVE="):
        assert advice in text
    assert "\n" not in text
    assert_silent(text + capsys.readouterr().out)
    assert len(inline.asked("download")) == 1
    assert_nothing()


def test_refusal_names_the_credential(inline: FakeKaggle, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("KAGGLE_API_TOKEN", API_TOKEN)  # stale: the client sends it all the same
    inline.faults["download"] = [fake_kaggle.status(401)]
    with pytest.raises(InputError, match="refused the credential in KAGGLE_API_TOKEN") as refusal:
        download.main(*PATHS)
    assert_silent(str(refusal.value))
    assert API_TOKEN in inline.asked("download")[0].headers["Authorization"]


def test_other_refusals_are_not_repeated(inline: FakeKaggle) -> None:
    inline.faults["download"] = [fake_kaggle.status(451)]
    with pytest.raises(InputError, match="HTTP 451"):
        download.main(*PATHS)
    assert len(inline.requests) == 1


def test_no_network(inline: FakeKaggle, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HTTP_PROXY", "http://127.0.0.1:9")
    with pytest.raises(InputError, match=r"the connection was refused.*ARCHIVE="):
        download.main(*PATHS)


def test_licence_is_not_worth_failing_for(inline: FakeKaggle, capsys: pytest.CaptureFixture[str]) -> None:
    inline.faults["metadata"] = [fake_kaggle.status(403)]
    download.main(*PATHS)
    assert_whole()
    assert "licence  Kaggle did not say (HTTP 403); see the page" in capsys.readouterr().out


def test_licence_cannot_write_to_the_terminal(inline: FakeKaggle, capsys: pytest.CaptureFixture[str]) -> None:
    inline.licences = ("CC0\x1b[2J\n",)
    download.main(*PATHS)
    assert "licence  CC0[2J\n" in capsys.readouterr().out


def test_error_body_is_not_resumed_onto(inline: FakeKaggle, capsys: pytest.CaptureFixture[str]) -> None:
    """A drop, then two errors: the client writes the second error's body over the archive and keeps the marker."""
    broken = fake_kaggle.status(503)
    inline.faults["object"] = [fake_kaggle.drop(1_000_000), fake_kaggle.as_usual, broken, broken]
    download.main(*PATHS)
    assert_whole()
    out = capsys.readouterr().out
    assert "not of the archive's size" in out
    assert "damaged" not in out


@pytest.mark.parametrize("fault", [fake_kaggle.in_place_of_data(b"<html>sorry</html>"), fake_kaggle.flip(60_000)])
def test_damage_is_noticed_and_mended(
    inline: FakeKaggle, fault: fake_kaggle.Fault, capsys: pytest.CaptureFixture[str]
) -> None:
    inline.faults["object"] = [fault]
    download.main(*PATHS)
    assert_whole()
    assert "damaged" in capsys.readouterr().out
    assert not any("Range" in request.headers for request in inline.requests)


@pytest.mark.parametrize("fault", [fake_kaggle.in_place_of_data(b"<html>sorry</html>"), fake_kaggle.flip(60_000)])
def test_damage_twice_is_an_error(inline: FakeKaggle, fault: fake_kaggle.Fault) -> None:
    inline.faults["object"] = [fault, fault]
    with pytest.raises(InputError, match=r"is not a ZIP archive|Bad CRC"):
        download.main(*PATHS)
    assert_nothing()
    assert not [path for path in Path("downloads").rglob("*") if path.is_file()]


def test_changed_dataset(inline: FakeKaggle) -> None:
    inline.archive, other = kaggle_layout(seed=1)
    with pytest.raises(InputError, match=rf"expected {PIN} .*got {other}.*ARCHIVE=.*data.sha256"):
        download.main(*PATHS)
    assert_nothing()
    inline.archive = ARCHIVE
    download.main(*PATHS)
    assert_whole()


def test_changed_between_two_runs(inline: FakeKaggle, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(kaggle_dataset, "ATTEMPTS", 1)
    inline.archive, _ = kaggle_layout(seed=1)
    inline.faults["object"] = [fake_kaggle.drop(1_000_000)]
    with pytest.raises(InputError, match="kept"):
        download.main(*PATHS)
    inline.archive = ARCHIVE  # the second run must not append to the first archive's part
    download.main(*PATHS)
    assert_whole()


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs a device that is always full")
def test_full_disk_while_downloading(inline: FakeKaggle) -> None:
    arriving = Path("downloads/kaggle/someone/some-faces/latest/arriving")
    arriving.mkdir(parents=True)
    (arriving / "some-faces.zip").symlink_to("/dev/full")
    with pytest.raises(InputError, match="No space left on device"):
        download.main(*PATHS)
    assert_nothing()


def test_room_is_checked_before_the_download(kaggle: FakeKaggle, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shutil, "disk_usage", lambda _: shutil._ntuple_diskusage(10, 5, 5))
    kaggle.faults["object"] = [fake_kaggle.stall(1_000_000)]
    started: list[subprocess.Popen[str]] = []
    start = kaggle_dataset.Client._start
    monkeypatch.setattr(kaggle_dataset.Client, "_start", lambda self: started.append(start(self)) or started[-1])
    with pytest.raises(InputError, match=r"bytes to download and 5 free; make room"):
        download.main(*PATHS)
    assert [process.poll() for process in started] == [-signal.SIGKILL]


KEPT = Path("downloads/kaggle/someone/some-faces/latest/some-faces.zip")


def place(archive: bytes) -> Path:
    """Put an archive where the user's own goes."""
    path = Path("theirs.zip")
    path.write_bytes(archive)
    kaggle_dataset.main(path)
    return KEPT


def test_room_is_checked_before_unpacking(kaggle: FakeKaggle, monkeypatch: pytest.MonkeyPatch) -> None:
    place(ARCHIVE)
    monkeypatch.setattr(shutil, "disk_usage", lambda _: shutil._ntuple_diskusage(10, 5, 5))
    with pytest.raises(InputError, match=r"2,000,000 bytes to write and 5 free"):
        download.main(*PATHS)
    assert_nothing()


def test_all_is_on_the_disk_before_the_rename(kaggle: FakeKaggle, monkeypatch: pytest.MonkeyPatch) -> None:
    place(ARCHIVE)
    synced: set[int] = set()
    monkeypatch.setattr(os, "fsync", lambda descriptor: synced.add(os.fstat(descriptor).st_ino))
    rename = Path.rename

    def checked(self: Path, target: Path) -> Path:
        assert {path.stat().st_ino for path in (self, *self.rglob("*"))} <= synced
        return rename(self, target)

    monkeypatch.setattr(Path, "rename", checked)
    download.main(*PATHS)
    assert_whole()


def test_full_disk_while_unpacking(kaggle: FakeKaggle) -> None:
    place(ARCHIVE)
    full = "import os; os.fsync = lambda _: (_ for _ in ()).throw(OSError(28, 'No space left on device'))"
    done = subprocess.run([sys.executable, "-c", WITH.format(full)], capture_output=True, text=True, timeout=60)
    assert done.returncode == 1
    assert "error: cannot write: No space left on device" in done.stderr
    assert_silent(done.stderr)
    assert_nothing()


WITH = """
import pathlib, sys
sys.argv = ["stages.download", "downloads/source", "downloads/images", "data"]
from faces.cli import run
from stages import download, source
{}
run(download.main)
"""
DIE = "os.kill(os.getpid(), signal.SIGKILL)"


@pytest.mark.parametrize(
    "moment",
    [
        "download.shutil.disk_usage",  # the folders are made, nothing is written
        "download.sync",  # all is written
        "pathlib.Path.rename",  # all is on the disk
    ],
)
def test_kill_while_unpacking(kaggle: FakeKaggle, moment: str) -> None:
    place(ARCHIVE)
    die = f"import os, signal\n{moment} = lambda *_: {DIE}"
    done = subprocess.run([sys.executable, "-c", WITH.format(die)], capture_output=True, timeout=60)
    assert done.returncode == -signal.SIGKILL
    assert not Path("downloads/images").exists()
    download.main(*PATHS)
    assert_whole()


def test_kill_between_download_and_verification(inline: FakeKaggle) -> None:
    arriving = Path("downloads/kaggle/someone/some-faces/latest/arriving")
    arriving.mkdir(parents=True)
    (arriving / "some-faces.zip").write_bytes(ARCHIVE)
    download.main(*PATHS)
    assert_whole()
    assert inline.requests == []


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGINT])
def test_kill_while_downloading(
    kaggle: FakeKaggle, number: signal.Signals, request: pytest.FixtureRequest, capsys: pytest.CaptureFixture[str]
) -> None:
    signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell's background jobs, and their children, ignore it
    pause = 0.25  # long enough for a signal to arrive before the archive does, on a busy machine too
    kaggle.faults["object"] = [fake_kaggle.slowly(pause)]
    part = Path("downloads/kaggle/someone/some-faces/latest/arriving/some-faces.zip")
    with subprocess.Popen(STAGE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        while not (part.exists() and part.stat().st_size > 300_000):
            assert process.poll() is None
            time.sleep(0.005)
        process.send_signal(number)
        _, err = process.communicate(timeout=10)
    assert process.returncode != 0
    assert_silent(err)
    assert not Path("downloads/images").exists()
    before = part.stat().st_size
    time.sleep(2 * pause)
    assert part.stat().st_size == before < len(ARCHIVE)  # the client's process ended too
    request.getfixturevalue("inline")
    download.main(*PATHS)
    assert_whole()
    assert f"resuming from {before:,} bytes" in capsys.readouterr().out
    assert kaggle.asked("object")[-1].headers["Range"] == f"bytes={before}-"


def test_progress_in_lines_and_as_a_bar(
    kaggle: FakeKaggle, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    dataset = kaggle_dataset.Dataset(NAME)
    dataset.arrived.parent.mkdir(parents=True)
    dataset.marker.write_text('{"size": 1000}')
    for terminal in (False, True):
        monkeypatch.setattr(sys.stderr, "isatty", lambda terminal=terminal: terminal)
        with kaggle_dataset.progress(dataset) as show:
            for received in (0, 50, 250, 260, 1000):
                dataset.arrived.write_bytes(b"x" * received)
                show()
        out, err = capsys.readouterr()
        if terminal:
            assert "100%" in err
            assert out == ""
        else:
            assert out.splitlines() == [f"received {n} of 1,000 bytes" for n in ("250", "1,000")]
            assert err == ""


def test_archive_from_elsewhere(kaggle: FakeKaggle) -> None:
    place(ARCHIVE)
    download.main(*PATHS)
    assert_whole()
    assert kaggle.requests == []


def test_what_is_no_archive_of_the_set_replaces_nothing(kaggle: FakeKaggle, tmp_path: Path) -> None:
    other, pin = kaggle_layout(seed=1)
    refused = {"notes.txt": "not a ZIP archive", "other.zip": f"pinned ones.*got {pin}"}
    refused |= {"cut.zip": "cut short", "flipped.zip": "damaged"}
    Path("notes.txt").write_bytes(b"notes")
    Path("other.zip").write_bytes(other)
    Path("cut.zip").write_bytes(ARCHIVE[:-30])
    Path("flipped.zip").write_bytes(ARCHIVE[:60_000] + bytes([ARCHIVE[60_000] ^ 1]) + ARCHIVE[60_001:])
    for before in (False, True):
        if before:
            place(ARCHIVE)
        for name, words in refused.items():
            with pytest.raises(InputError, match=words):
                kaggle_dataset.main(Path(name))
            assert KEPT.exists() == before
    assert KEPT.read_bytes() == ARCHIVE
    download.main(*PATHS)
    assert_whole()


def test_the_kept_archive_and_the_arriving_one_may_be_given(kaggle: FakeKaggle) -> None:
    arriving = KEPT.parent / "arriving" / KEPT.name
    arriving.parent.mkdir(parents=True)
    arriving.write_bytes(ARCHIVE)
    kaggle_dataset.main(arriving)
    assert arriving.read_bytes() == ARCHIVE
    kaggle_dataset.main(KEPT)
    link = Path("link.zip")
    link.symlink_to(KEPT)
    kaggle_dataset.main(link)
    assert link.is_symlink()
    assert KEPT.read_bytes() == ARCHIVE
    download.main(*PATHS)
    assert content(Path("downloads/images")) == PIN


def test_a_pin_that_changes_after_an_archive_was_given(kaggle: FakeKaggle, tmp_path: Path) -> None:
    path = place(ARCHIVE)
    write_params(tmp_path, sha256="0" * 64)
    with pytest.raises(InputError, match=rf"expected 0000.*got {PIN}"):
        download.main(*PATHS)
    assert_nothing()
    assert path.read_bytes() == ARCHIVE


def own_folder(root: Path) -> Path:
    """Make a folder of one's own with a misspelt class, a link, stray files."""
    for name in ("Down Syndrome/a.JPG", "Down Syndrome/b.webp", "healthy/a.png", "notes.txt", "healthy/._a.png"):
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_bytes(name.encode())
    (root / "healthy" / "link.jpg").symlink_to(root / "Down Syndrome" / "a.JPG")
    return root


def test_own_folder_and_own_archive(tmp_path: Path, kaggle: FakeKaggle, capsys: pytest.CaptureFixture[str]) -> None:
    folder = own_folder(tmp_path / "own")
    write_params(tmp_path, source=str(folder))
    own()
    expected = {"down_syndrome/a.JPG", "down_syndrome/b.webp", "healthy/a.png", "healthy/link.jpg"}
    root = Path("downloads/images")
    assert {path.relative_to(root).as_posix() for path in root.rglob("*") if path.is_file()} == expected
    assert not any(path.is_symlink() for path in root.rglob("*"))
    out = capsys.readouterr().out
    assert "no pin" in out
    assert "left out 2: 1 .txt at the top, 1 hidden file in healthy" in out
    pin = content(root)

    packed = shutil.make_archive(str(tmp_path / "packed"), "zip", folder)
    write_params(tmp_path, source=packed)
    own()  # replaces the earlier output
    assert content(root) == pin


def test_sample(tmp_path: Path, kaggle: FakeKaggle, capsys: pytest.CaptureFixture[str]) -> None:
    write_params(tmp_path, source="sample")
    params = Path("params.yaml")
    params.write_text(params.read_text().replace("images_per_class: 60", "images_per_class: 20"))
    download.main(*PATHS)
    assert {path.name for path in Path("downloads/images").iterdir()} == {"down_syndrome", "healthy"}
    assert sorted(path.name for path in Path("downloads").iterdir()) == ["images", "images.sha256"]
    out = capsys.readouterr().out
    assert "sample: drawn faces, not the paper's data" in out
    assert "left out 1: 1 .db in down_syndrome" in out


@pytest.mark.parametrize(
    ("names", "words"),
    [
        (["healthy/a.jpg"], "no images of the class down_syndrome"),
        (["healthy/a.jpg", "down_syndrome/readme.txt"], r"left out 1: 1 \.txt in down_syndrome"),
        ([], "no images of the class"),
        (["healthy/x/a.jpg", "healthy/y/A.JPG", "down_syndrome/a.jpg"], "would both become healthy/A.JPG"),
    ],
)
def test_own_folder_that_cannot_be_used(tmp_path: Path, kaggle: FakeKaggle, names: list[str], words: str) -> None:
    folder = tmp_path / "own"
    folder.mkdir()
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(b"x")
    write_params(tmp_path, source=str(folder))
    with pytest.raises(InputError, match=words):
        own()
    assert_nothing()


def test_the_sources_own_split_is_kept_and_named(
    tmp_path: Path, kaggle: FakeKaggle, capsys: pytest.CaptureFixture[str]
) -> None:
    for label in LABELS:
        for subset in ("train", "valid", "test"):
            (tmp_path / "own" / subset / label).mkdir(parents=True)
            (tmp_path / "own" / subset / label / "1.jpg").write_bytes(b"x")
    write_params(tmp_path, source="own")
    own()
    assert Path("downloads/images/healthy/validation/1.jpg").exists()
    assert "split    the source's own: 2 test, 2 train, 2 validation; used by split.scheme folders" in (
        capsys.readouterr().out
    )


# What is in the place of the outputs


def test_a_second_run_replaces_what_the_first_one_made(tmp_path: Path, kaggle: FakeKaggle) -> None:
    folder = own_folder(tmp_path / "own")
    write_params(tmp_path, source="own")
    own()
    shutil.copytree("downloads/images", "data")  # as data.dvc does
    (folder / "healthy/a.png").unlink()
    (folder / "healthy/new.png").write_bytes(b"new")
    own()
    names = {path.name for path in Path("downloads/images/healthy").iterdir()}
    assert names == {"link.jpg", "new.png"}
    assert list(Path("data").iterdir()) == []  # DVC imports the new images there
    shutil.copytree("downloads/images", "data", dirs_exist_ok=True)
    own()
    assert {path.name for path in Path("data/healthy").iterdir()} == names  # nothing new: left as it is


@pytest.mark.parametrize("place", ["data/healthy/mine.jpg", "data/notes.txt", "downloads/images/healthy/mine.jpg"])
@pytest.mark.parametrize("record", [True, False])
def test_what_the_pipeline_did_not_make_is_not_replaced(
    tmp_path: Path, kaggle: FakeKaggle, place: str, record: bool
) -> None:
    folder = own_folder(tmp_path / "own")
    write_params(tmp_path, source="own")
    own()
    shutil.copytree("downloads/images", "data")
    if not record:
        Path("downloads/images.sha256").unlink()
    Path(place).write_bytes(b"the only copy")
    (folder / "healthy/new.png").write_bytes(b"new")
    with pytest.raises(InputError, match=rf"^{place} was not made by the pipeline, .*\(1 such file.*data.source"):
        own()
    assert Path(place).read_bytes() == b"the only copy"
    assert {path.name for path in Path("downloads/images/healthy").iterdir()} >= {"a.png", "link.jpg"}
    Path(place).unlink()
    own()
    assert Path("downloads/images/healthy/new.png").exists()


def test_an_image_edited_in_data_is_not_replaced(tmp_path: Path, kaggle: FakeKaggle) -> None:
    own_folder(tmp_path / "own")
    write_params(tmp_path, source="own")
    own()
    shutil.copytree("downloads/images", "data")
    Path("data/healthy/a.png").write_bytes(b"cropped by hand")
    (tmp_path / "own/healthy/new.png").write_bytes(b"new")
    with pytest.raises(InputError, match=r"data/healthy/a\.png was not made by the pipeline"):
        own()


def test_data_that_is_a_link_keeps_leading_there(tmp_path: Path, kaggle: FakeKaggle) -> None:
    own_folder(tmp_path / "own")
    write_params(tmp_path, source="own")
    own()
    shutil.copytree("downloads/images", tmp_path / "large disk")
    Path("data").symlink_to(tmp_path / "large disk")
    (tmp_path / "own/healthy/new.png").write_bytes(b"new")
    own()
    assert Path("data").is_symlink()
    assert list(Path("data").iterdir()) == []


# Credentials


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("kaggle.json", '{"username": "someone", "key": "' + KEY + '"}'),
        ("access_token", API_TOKEN),
    ],
)
def test_a_credential_that_powershell_wrote(
    kaggle: FakeKaggle, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str, text: str
) -> None:
    arriving = KEPT.parent / "arriving"
    arriving.mkdir(parents=True)
    (arriving / KEPT.name).write_bytes(ARCHIVE[:900_000])
    marker = {"size": len(ARCHIVE), "validator": "x"}
    (arriving / f"{KEPT.name}.kaggle-partial").write_text(json.dumps(marker))
    file = tmp_path / "home/.kaggle" / name
    file.write_bytes(text.encode("utf-16"))
    with pytest.raises(InputError, match=rf"the credential in {file} cannot be read.*PowerShell.*UTF-16") as refusal:
        download.main(*PATHS)
    assert_silent(str(refusal.value))
    assert (arriving / KEPT.name).read_bytes() == ARCHIVE[:900_000]
    assert kaggle.asked("object") == []


def test_environment_that_is_not_a_number(kaggle: FakeKaggle, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DOWNLOAD_STALL_SECONDS", "soon")
    with pytest.raises(InputError, match="DOWNLOAD_STALL_SECONDS is 'soon'"):
        download.main(*PATHS)
