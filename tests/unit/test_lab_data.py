"""The text that the embedded model learns from and is measured on, and its tokenizer."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from farspan._errors import BackendError, CheckpointError, Error
from farspan.lab.embedded import data
from farspan.lab.embedded.byte_tokenizer import byte_tokenizer_json
from farspan.tokenizer import ByteTokenizer, FolderTokenizer, TextStream, load_tokenizer


@pytest.fixture
def library(tmp_path: Path) -> Path:
    files = {
        "zlast.py": "z",
        "argparse.py": "held out",
        "json/decoder.py": "held out as well",
        "json/encoder.py": "line\r\nline\r\n",
        "test/test_os.py": "a test",
        "site-packages/numpy/core.py": "a guest",
        "config-3.11-x86_64/python-config.py": "this machine",
        "_sysconfigdata__linux_.py": "this machine",
        "html/entities.py": "a table",
        "abc.py": "a",
    }
    for name, content in files.items():
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content.encode())
    return tmp_path


def test_training_files_leave_out_tests_guests_tables_and_what_is_held_out(library: Path) -> None:
    names = [path.relative_to(library).as_posix() for path in data.training_files(library)]
    assert names == ["abc.py", "json/encoder.py", "zlast.py"]


def test_held_out_files_are_those_that_exist(library: Path) -> None:
    names = [path.relative_to(library).as_posix() for path in data.held_out_files(library)]
    assert names == ["argparse.py", "json/decoder.py"]


def test_text_has_unix_line_ends_and_a_zero_byte_before_each_file(library: Path) -> None:
    assert data.read_text(data.training_files(library)) == b"\0a\0line\nline\n\0z"


def test_each_training_file_is_a_document_between_zero_bytes(library: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(data, "stdlib_folder", lambda: library)
    assert data.training_documents() == [b"\0a\0", b"\0line\nline\n\0", b"\0z\0"]


def test_this_python_has_both_texts_and_they_share_no_file() -> None:
    assert not set(data.training_files()) & set(data.held_out_files())
    assert len(data.held_out_files()) == len(data.HELD_OUT)
    assert sum(map(len, data.training_documents())) > 3_000_000
    assert 200_000 < len(data.held_out_text()) < 1_000_000


def test_a_python_without_sources_is_an_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(data, "stdlib_folder", lambda: tmp_path)
    with pytest.raises(Error, match="no source files"):
        data.held_out_text()


# ---------------------------------------------------------------------------------------------------------- tokenizers


@given(st.text())
def test_byte_tokenizer_round_trip(text: str) -> None:
    ids = ByteTokenizer().encode(text)
    assert ids == list(text.encode("utf-8"))
    assert ByteTokenizer().decode(ids) == text


def test_text_without_utf8_form_is_replaced() -> None:
    assert ByteTokenizer().decode(ByteTokenizer().encode("a\ud800b")) == "a\ufffdb"
    latin = b"caf\xe9"
    assert ByteTokenizer().encode(latin.decode(errors="surrogateescape")) == list(latin)


@given(st.text(alphabet=st.characters(codec="utf-8", exclude_characters="\ufffd")))
def test_stream_shows_whole_characters_as_they_are_completed(text: str) -> None:
    stream, shown = TextStream(ByteTokenizer()), ""
    for token in ByteTokenizer().encode(text):
        shown += stream.push(token)
        assert text.startswith(shown)
    assert shown + stream.end() == text


def test_stream_ends_with_what_was_never_completed() -> None:
    stream = TextStream(ByteTokenizer())
    assert stream.push("é".encode()[0]) == ""
    assert stream.end() == "\ufffd"


@given(st.lists(st.integers(0, 255), max_size=60))
def test_stream_of_any_bytes_shows_what_decoding_at_once_shows(ids: list[int]) -> None:
    stream = TextStream(ByteTokenizer())
    shown = "".join(map(stream.push, ids)) + stream.end()
    assert shown == ByteTokenizer().decode(ids)


@given(text=st.text())
def test_the_written_tokenizer_is_the_byte_tokenizer(text: str, tmp_path_factory: pytest.TempPathFactory) -> None:
    pytest.importorskip("tokenizers")
    path = tmp_path_factory.mktemp("tokenizer") / "tokenizer.json"
    path.write_text(json.dumps(byte_tokenizer_json()))
    loaded = FolderTokenizer(path)
    assert loaded.encode(text) == ByteTokenizer().encode(text)
    assert loaded.decode(loaded.encode(text)) == text


def test_a_folder_without_tokenizer_is_named(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match=r"tokenizer\.json"):
        load_tokenizer(tmp_path)


def test_a_damaged_tokenizer_is_named(tmp_path: Path) -> None:
    pytest.importorskip("tokenizers")
    (tmp_path / "tokenizer.json").write_text("{}")
    with pytest.raises(CheckpointError, match=r"tokenizer\.json"):
        load_tokenizer(tmp_path)


def test_without_the_package_its_name_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "tokenizer.json").write_text("{}")
    monkeypatch.setitem(sys.modules, "tokenizers", None)
    with pytest.raises(BackendError, match="pip install tokenizers"):
        load_tokenizer(tmp_path)
