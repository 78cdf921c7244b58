"""What is measured: folders and what they are called, texts and how their bytes are counted."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from farspan._errors import ArgumentError, BackendError, CheckpointError
from farspan.embedded import FOLDER
from farspan.lab.embedded.byte_tokenizer import byte_tokenizer_json
from farspan.lab.subject import load_model, load_text, model_name
from farspan.model.checkpoint import Checkpoint
from farspan.tokenizer import ByteTokenizer, FolderTokenizer, Tokenizer

FRENCH = "déjà vu été\r\n" * 20


@pytest.fixture
def french(tmp_path: Path) -> Path:
    path = tmp_path / "text.txt"
    path.write_bytes(FRENCH.encode())
    return path


def folder_tokenizer(path: Path, template: str | None = None) -> Tokenizer:
    """The bytes as tokens, with what a template puts around a text: 0 for <s>, 1 for </s>."""
    tokenizers = pytest.importorskip("tokenizers")
    path.write_text(json.dumps(byte_tokenizer_json()))
    made = tokenizers.Tokenizer.from_file(str(path))
    if template:
        made.add_special_tokens(["<s>", "</s>"])
        ends = [("<s>", made.token_to_id("<s>")), ("</s>", made.token_to_id("</s>"))]
        made.post_processor = tokenizers.processors.TemplateProcessing(single=template, special_tokens=ends)
        made.save(str(path))
    return FolderTokenizer(path)


@pytest.mark.parametrize(("template", "first"), [(None, ()), ("<s> $A", (256,)), ("<s> $A </s>", (256, 257))])
def test_tokens_are_the_texts_alone_and_bytes_those_of_the_file(
    template: str | None, first: tuple[int, ...], french: Path, tmp_path: Path
) -> None:
    tokenizer = folder_tokenizer(tmp_path / "tokenizer.json", template)
    text = load_text([french, french], tokenizer)
    assert text.tokens.tolist() == list(FRENCH.encode() * 2)
    assert text.bytes_per_token == 1.0
    assert text.first_tokens == first[:1]
    assert (text.name, text.notes) == ("text.txt, text.txt", ())


def test_bytes_are_read_as_they_are(french: Path) -> None:
    assert bytes(load_text([french], ByteTokenizer()).tokens.tolist()) == b"\0" + FRENCH.encode()


@pytest.mark.parametrize(("encoding", "place"), [("latin-1", "byte 1 is 0xe9"), ("utf-16", "byte 0 is 0xff")])
def test_text_of_another_encoding_is_an_error_that_names_file_and_byte(
    encoding: str, place: str, tmp_path: Path
) -> None:
    path = tmp_path / "other.txt"
    path.write_bytes(FRENCH.encode(encoding))
    tokenizer = folder_tokenizer(tmp_path / "tokenizer.json")
    with pytest.raises(ArgumentError, match=rf"UTF-8.*other\.txt, whose {place}"):
        load_text([path], tokenizer)
    assert len(load_text([path], ByteTokenizer()).tokens) == path.stat().st_size + 1


def test_the_default_text_is_held_out_from_the_embedded_model_only(tmp_path: Path) -> None:
    own, other = load_text((), ByteTokenizer()), load_text((), folder_tokenizer(tmp_path / "tokenizer.json"))
    assert (own.name, own.notes) == ("held-out Python source", ())
    assert "held" not in other.name
    assert "embedded model only" in other.notes[0]


def test_many_files_make_a_short_name(tmp_path: Path) -> None:
    paths = [tmp_path / f"{letter}.txt" for letter in "abcde"]
    for path in paths:
        path.write_text("text")
    assert load_text(paths, ByteTokenizer()).name == "a.txt, b.txt, c.txt and 2 more"


def test_a_model_of_the_hubs_cache_has_its_name_there(tmp_path: Path) -> None:
    snapshot = tmp_path / "models--org--small-1b" / "snapshots" / "0123abcd"
    snapshot.mkdir(parents=True)
    assert model_name(snapshot) == "org/small-1b"
    assert model_name(tmp_path) == tmp_path.name
    assert load_model(FOLDER).name == "embedded"


def test_a_folder_that_is_not_there_is_named(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match=r"model: expected a folder .*nowhere"):
        load_model(tmp_path / "deeper" / "nowhere")


def test_what_is_missing_is_told_before_the_weights_are_read(monkeypatch: pytest.MonkeyPatch) -> None:
    def missing(checkpoint: Checkpoint) -> Tokenizer:
        raise BackendError("no tokenizers")

    monkeypatch.setattr(Checkpoint, "tokenizer", missing)
    monkeypatch.setattr(Checkpoint, "load", lambda *_: pytest.fail("weights were read"))
    with pytest.raises(BackendError, match="no tokenizers"):
        load_model(FOLDER)
