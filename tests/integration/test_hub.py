"""Names on the Hugging Face hub, against a hub of our own on the loopback address."""

from __future__ import annotations

import hashlib
import http.server
import json
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from support.models import small_model

import farspan
from farspan import BackendError, CheckpointError
from farspan.embedded import FOLDER
from farspan.lab.subject import load_model
from farspan.model import Transformer

constants = pytest.importorskip("huggingface_hub.constants", reason="huggingface_hub is not installed")
COMMIT = "0123456789abcdef0123456789abcdef01234567"


class Hub:
    """Repositories as folders; what was asked for."""

    def __init__(self, root: Path) -> None:
        self.root, self.asked = root, []
        hub = self

        class Handler(http.server.BaseHTTPRequestHandler):
            def do_HEAD(self) -> None:
                self.answer(send=False)

            def do_GET(self) -> None:
                self.answer(send=True)

            def answer(self, send: bool) -> None:
                repository, _, rest = self.path.lstrip("/").partition("/resolve/")
                revision, _, name = rest.partition("/")
                folder = hub.root / repository
                if not rest or not folder.is_dir():
                    return self.refuse("RepoNotFound")
                if revision not in ("main", "tag", COMMIT):
                    return self.refuse("RevisionNotFound")
                if not (folder / name).is_file():
                    return self.refuse("EntryNotFound")
                data = (folder / name).read_bytes()
                self.send_response(200)
                self.send_header("X-Repo-Commit", COMMIT)
                self.send_header("ETag", f'"{hashlib.sha256(data).hexdigest()}"')
                self.send_header("Content-Length", str(len(data)))
                self.end_headers()
                if send:
                    hub.asked.append(name)
                    self.wfile.write(data)
                return None

            def refuse(self, code: str) -> None:
                self.send_response(404)
                self.send_header("X-Error-Code", code)
                self.send_header("Content-Length", "0")
                self.end_headers()

            def log_message(self, *_: Any) -> None:
                pass

        self.server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.server.server_address[1]}"
        self.asked: list[str]
        threading.Thread(target=self.server.serve_forever, daemon=True).start()


@pytest.fixture
def hub(tmp_path: Path) -> Iterator[Hub]:
    made = Hub(tmp_path / "hub")
    yield made
    made.server.shutdown()
    made.server.server_close()


@pytest.fixture
def offline(hub: Hub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[bool], None]:
    """The package huggingface_hub asks our hub, its cache is empty at first, and this says whether it may ask."""
    template = constants.HUGGINGFACE_CO_URL_TEMPLATE.replace(constants.ENDPOINT, hub.url)
    monkeypatch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", template)
    monkeypatch.setattr(constants, "ENDPOINT", hub.url)
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    monkeypatch.chdir(tmp_path)
    return lambda value: monkeypatch.setattr(constants, "HF_HUB_OFFLINE", value)


def repository(hub: Hub, name: str, *, shards: bool = False) -> Transformer:
    """A model there, among files that nobody asked for."""
    folder = hub.root / name
    model = small_model(vocab_size=257)
    model.save_pretrained(folder)
    for spare in ("pytorch_model.bin", "original/consolidated.safetensors", "modeling_own.py", "README.md"):
        (folder / spare).parent.mkdir(exist_ok=True)
        (folder / spare).write_text("never asked for")
    (folder / "tokenizer.json").write_bytes((FOLDER / "tokenizer.json").read_bytes())
    if shards:
        names = list(json.loads((folder / "model.safetensors").read_bytes()[8:].split(b"}}")[0] + b"}}"))
        (folder / "model.safetensors").rename(folder / "a-of-1.safetensors")
        weight_map = {tensor: "a-of-1.safetensors" for tensor in names if tensor != "__metadata__"}
        (folder / "model.safetensors.index.json").write_text(json.dumps({"weight_map": weight_map}))
    return model


@pytest.mark.parametrize("shards", [False, True])
def test_the_files_needed_and_no_others(shards: bool, hub: Hub, offline: Callable[[bool], None]) -> None:
    model = repository(hub, "org/small-1b", shards=shards)
    found, tokenizer = farspan.load("org/small-1b@tag")
    assert torch.equal(found.embedding, model.embedding)
    assert tokenizer.encode("a") == [97]
    weights = ["a-of-1.safetensors", "model.safetensors.index.json"] if shards else ["model.safetensors"]
    assert sorted(hub.asked) == sorted(["config.json", "tokenizer.json", *weights])
    hub.asked.clear()
    offline(True)
    again = load_model(Path("org/small-1b@tag"))
    assert torch.equal(again.model.embedding, model.embedding)
    assert (again.name, hub.asked) == ("org/small-1b", []), "what lies in the cache is used"


@pytest.mark.usefixtures("offline")
def test_what_the_hub_has_not(hub: Hub) -> None:
    repository(hub, "org/small-1b")
    (hub.root / "org" / "small-1b" / "model.safetensors").unlink()
    for name, told in (
        ("org/small-1b", "safetensors weights.*neither"),
        ("org/nothing", "org/nothing"),
        ("org/small-1b@other", "small-1b@other"),
    ):
        with pytest.raises(CheckpointError, match=f"^model: .*{told}") as caught:
            farspan.Config.from_pretrained(name)
        assert "\n" not in str(caught.value)


def test_a_hub_that_cannot_be_asked(hub: Hub, offline: Callable[[bool], None]) -> None:
    repository(hub, "org/small-1b")
    offline(True)
    with pytest.raises(BackendError, match="org/small-1b") as caught:
        farspan.load("org/small-1b")
    assert "\n" not in str(caught.value)
    assert hub.asked == []
    offline(False)
    hub.server.shutdown()
    hub.server.server_close()
    with pytest.raises(BackendError, match=r"org/small-1b.*(refused|connect)"):
        farspan.load("org/small-1b")


@pytest.mark.usefixtures("offline")
def test_a_folder_comes_first(hub: Hub) -> None:
    repository(hub, "org/small-1b")
    Path("org/small-1b").mkdir(parents=True)
    with pytest.raises(CheckpointError, match=r"org/small-1b/config\.json"):
        farspan.load("org/small-1b")
    assert hub.asked == []
