"""`farspan.Conversation` and `farspan chat`: a template over everything said, read once, and what Ctrl-C keeps."""

from __future__ import annotations

import io
import json
import os
import pty
import select
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from support.gguf_files import llama_file

import farspan
from farspan import BackendError, Conversation
from farspan.cli import main

pytest.importorskip("gguf", reason="gguf is not installed")
LETTERS = list(range(33, 48))
"""No two of them make one token, so a reply that is read again has the tokens that were drawn."""
DRAW: dict[str, Any] = {"max_new_tokens": 8, "temperature": 0.9, "allowed": LETTERS}
OPTIONS = ("--max-new-tokens", "8", "--temperature", "0.9", "--allowed", ",".join(map(str, LETTERS)))


@pytest.fixture(scope="module")
def path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return llama_file(tmp_path_factory.mktemp("chat") / "m.gguf", context_length=90)


@pytest.fixture(scope="module")
def loaded(path: Path) -> Any:
    return farspan.load(path, dtype="float32")


def expected(loaded: Any, messages: list[dict[str, str]], **options: Any) -> list[int]:
    model, tokenizer = loaded
    (completion,) = model.generate([tokenizer.chat(messages)], **{**DRAW, **options})
    tokens: list[int] = completion.tokens
    return tokens


def test_a_reply_is_that_of_the_whole_history_and_only_new_tokens_are_read(loaded: Any) -> None:
    model, tokenizer = loaded
    talk = Conversation(model, tokenizer, "hello", seed=4, **DRAW)
    read = []
    for turn in ("world", "12", "hello world"):
        wanted = expected(loaded, [*talk.messages, {"role": "user", "content": turn}], seed=4)
        reply = talk.say(turn)
        assert reply.tokens == wanted
        read.append(talk.computed)
    assert [message["role"] for message in talk.messages] == ["system", *["user", "assistant"] * 3]
    whole = len(tokenizer.chat(talk.messages[:-1]))
    assert read[2] <= len(tokenizer.chat([{"role": "user", "content": "hello world"}])) + 3 < whole / 2
    assert talk.length == whole + 8


def test_what_the_template_changes_is_read_again(loaded: Any) -> None:
    talk = Conversation(*loaded, seed=4, **DRAW)
    talk.say("world")
    talk.messages[1] = {"role": "assistant", "content": "another"}
    wanted = expected(loaded, [*talk.messages, {"role": "user", "content": "12"}], seed=4)
    assert talk.say("12").tokens == wanted


def test_an_interrupted_reply_is_what_came_until_then(loaded: Any) -> None:
    talk, pieces = Conversation(*loaded, **DRAW), []

    def show(piece: str) -> None:
        pieces.append(piece)
        if len(pieces) == 3:
            raise KeyboardInterrupt

    reply = talk.say("world", show)
    assert (reply.finish_reason, len(reply.tokens), reply.text) == ("interrupted", 3, "".join(pieces))
    assert talk.messages[-1] == {"role": "assistant", "content": reply.text}
    wanted = expected(loaded, [*talk.messages, {"role": "user", "content": "12"}])
    assert talk.say("12").tokens == wanted


def test_a_turn_that_failed_was_never_said(loaded: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    talk = Conversation(*loaded, **DRAW)
    first = talk.say("world").tokens
    said = list(talk.messages)
    with monkeypatch.context() as patched:
        patched.setattr(type(loaded[0]), "generate", lambda *_, **__: (_ for _ in ()).throw(KeyboardInterrupt))
        assert talk.say("12").tokens == []
    assert talk.messages == said
    talk.reset()
    assert (talk.messages, talk.length) == ([], 0)
    assert talk.say("world").tokens == first


def test_without_a_template_nothing_begins() -> None:
    with pytest.raises(BackendError, match="chat template"):
        Conversation(*farspan.load_embedded())


# ------------------------------------------------------------------------------------------------------------ command


def chat(path: Path, monkeypatch: pytest.MonkeyPatch, lines: str, *options: str) -> int:
    monkeypatch.setattr(sys, "stdin", io.StringIO(lines))
    return main(["chat", "--model", str(path), *OPTIONS, *options])


def test_lines_are_turns_and_commands(
    path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    saved = tmp_path / "turns.json"
    lines = f"hello\n\n/seed 9\n/usr/bin\n/save {saved}\n/reset\nhello\n/nonsense\n/seed x\n/save\n/save {tmp_path}\n"
    assert chat(path, monkeypatch, lines, "--seed", "4") == 0
    out, err = capsys.readouterr()
    loaded = farspan.load(path)
    talk, replies = Conversation(*loaded, seed=4, **DRAW), []
    replies.append(talk.say("hello").text)
    talk.seed = 9
    replies.append(talk.say("/usr/bin").text)
    assert json.loads(saved.read_text()) == talk.messages
    talk.reset()
    replies.append(talk.say("hello").text)
    assert out == "".join(f"{reply}\n" for reply in replies)
    told = err.splitlines()
    assert [line.split(":")[1].strip() for line in told] == ["/nonsense", "/seed", "/save", "/save"]


def test_a_long_conversation_says_so_or_goes_on_by_a_scheme(
    path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    lines = "hello world\n" * 6
    assert chat(path, monkeypatch, lines) == 0
    err = capsys.readouterr().err
    assert err.count("longer than the 90 tokens") == 1
    assert chat(path, monkeypatch, lines, "--scheme", "streaming") == 0
    out, err = capsys.readouterr()
    assert (out.count("\n") >= 6, err) == (True, "")
    with pytest.raises(SystemExit) as wrong:
        chat(path, monkeypatch, "", "--scheme", "warp")
    assert wrong.value.code == 2
    with pytest.raises(SystemExit):
        chat(path, monkeypatch, "", "--context", "400")


def test_stop_strings(path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    assert chat(path, monkeypatch, "hello\n") == 0
    free = capsys.readouterr().out
    assert chat(path, monkeypatch, "hello\n", f"--stop={free[3:7]}") == 0
    assert capsys.readouterr().out == f"{free[: free.find(free[3:7])]}\n"


def test_ctrl_c_ends_a_reply_and_keeps_the_conversation(path: Path, tmp_path: Path) -> None:
    """In a terminal, as people sit before it."""
    leader, follower = pty.openpty()
    letters = ",".join(map(str, range(97, 123)))
    options = ["--max-new-tokens", "100000", "--temperature", "1", "--allowed", letters, "--scheme", "streaming"]
    command = [sys.executable, "-m", "farspan", "chat", "--model", str(path), *options]
    child = subprocess.Popen(
        command, stdin=follower, stdout=follower, stderr=follower, start_new_session=True,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),  # jobs in the background ignore it
    )  # fmt: skip
    os.close(follower)
    seen = b""

    def read_until(enough: Callable[[], bool]) -> None:
        nonlocal seen
        limit = time.monotonic() + 120
        while not enough():
            assert select.select([leader], [], [], max(0.0, limit - time.monotonic()))[0], seen[-500:]
            seen += os.read(leader, 4096)

    def wait_for(text: bytes, since: int = 0) -> None:
        read_until(lambda: text in seen[since:])

    try:
        wait_for(b"> ")
        os.write(leader, b"hello\n")
        wait_for(b"hello")
        begun = len(seen)
        read_until(lambda: len(seen) >= begun + 40)
        child.send_signal(signal.SIGINT)
        wait_for(b"interrupted", begun)
        wait_for(b"> ", seen.index(b"interrupted", begun))
        os.write(leader, f"/save {tmp_path / 'turns.json'}\n".encode())
        wait_for(b"[saved 2 messages", begun)
        wait_for(b"> ", seen.index(b"[saved", begun))  # before the prompt the terminal would make it something else
        os.write(leader, b"\x04")
        assert child.wait(timeout=60) == 0
    finally:
        child.kill()
        child.wait()
        os.close(leader)
    user, assistant = json.loads((tmp_path / "turns.json").read_text())
    assert user == {"role": "user", "content": "hello"}
    assert len(assistant["content"]) > 20
