"""Files are whole or not there: a failure while writing leaves the old one and nothing else."""

import os
import stat

import pytest

from sim.cli.common import write_file


def test_a_file_is_written_with_its_folders(tmp_path):
    file = tmp_path / "a" / "b" / "x.txt"
    write_file(file, "größe\nn")
    assert file.read_bytes() == "größe\nn".encode()
    assert stat.S_IMODE(file.stat().st_mode) == 0o644
    assert list(file.parent.iterdir()) == [file]


class Broken:
    """A disk that fails after some bytes."""

    def __init__(self, file, after):
        self.file, self.after = file, after

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.file.close()

    def write(self, text):
        self.file.write(text[: self.after])
        self.file.flush()
        raise OSError(28, "No space left on device")


@pytest.fixture
def full_disk(monkeypatch):
    real = os.fdopen
    monkeypatch.setattr("sim.cli.common.os.fdopen", lambda *a, **k: Broken(real(*a, **k), after=3))


def test_a_full_disk_leaves_the_old_file_and_no_other(tmp_path, full_disk):
    file = tmp_path / "x.txt"
    file.write_text("old")
    with pytest.raises(OSError, match="No space"):
        write_file(file, "new text")
    assert [(p.name, p.read_text()) for p in tmp_path.iterdir()] == [("x.txt", "old")]


def test_an_interrupt_leaves_no_temporary_file(tmp_path, monkeypatch):
    def interrupted(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr("sim.cli.common.os.replace", interrupted)
    with pytest.raises(KeyboardInterrupt):
        write_file(tmp_path / "x.txt", "new")
    assert list(tmp_path.iterdir()) == []


def test_a_failed_run_leaves_the_last_report_whole(desk, sim, tmp_path, monkeypatch):
    out = tmp_path / "out"
    assert sim("run", desk.scenario, "--no-effects", "--out", out, "--seed", "1").code == 0
    before = {path.name: path.read_bytes() for path in (out / "small").iterdir()}

    def broken(result):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("sim.report.page.render_html", broken)
    answer = sim("run", desk.scenario, "--no-effects", "--out", out, "--seed", "2")
    assert (answer.code, answer.out) == (1, "")
    assert {path.name: path.read_bytes() for path in (out / "small").iterdir()} == before


def test_showing_into_a_folder_that_is_a_file(flagship, sim, tmp_path):
    (tmp_path / "taken").write_text("mine")
    answer = sim("show", flagship.folder, "--html", tmp_path / "taken" / "page.html")
    assert (answer.code, len(answer.complaints)) == (1, 1)
    assert (tmp_path / "taken").read_text() == "mine"
