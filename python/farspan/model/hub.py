"""Models by their names on the Hugging Face hub, through its own package: the files that farspan reads, and no others.

They lie in that package's cache afterwards, where transformers finds them too. With `HF_HUB_OFFLINE=1`, or without a
network, what lies there already is used.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

from farspan._errors import BackendError, CheckpointError, message, missing_package
from farspan.model.index import BESIDE, INDEX, ONE_FILE, read_index

NAME = re.compile(r"(?P<repository>[\w-][\w.-]*/[\w-][\w.-]*)(?:@(?P<revision>[\w./-]+))?")


def is_name(text: str) -> bool:
    """Whether this could be `organisation/model`, or `organisation/model@revision`."""
    return NAME.fullmatch(text) is not None and not text.endswith(".gguf")


def fetched(name: str) -> Path:
    """The folder that holds this model's files, fetched where they are not there yet.

    CheckpointError: the hub has no such model, or one without safetensors. BackendError: the hub cannot be asked.
    """
    found = NAME.fullmatch(name)
    if found is None:
        raise CheckpointError(message("model", "organisation/model of the Hugging Face hub", repr(name)))
    source = _Source(name, found["repository"], found["revision"])
    config = source.file("config.json")
    if config is None:
        raise CheckpointError(message("model", "a repository with config.json", f"{name}, which has none"))
    folder = config.parent
    if re.fullmatch("[0-9a-f]{40}", folder.name):
        source.revision = folder.name  # all files are of one commit, and those that are there need no question
    for spare in BESIDE:
        source.file(spare)
    if source.file(ONE_FILE) is None:
        index = source.file(INDEX)
        if index is None:
            expected = f"a repository with safetensors weights, {ONE_FILE} or {INDEX}"
            given = f"{name}, which has neither" + (" in the cache here" if source.local else "")
            raise source.error(message("model", expected, given))
        for shard in sorted(set(read_index(index).values())):
            if source.file(shard) is None:
                raise source.error(message("model", f"{shard}, which {INDEX} names", f"{name}, which has none"))
    return folder


class _Source:
    """One repository."""

    def __init__(self, name: str, repository: str, revision: str | None) -> None:
        self.revision = revision
        self._name, self._repository = name, repository
        self._library, self._errors = _library()
        self._unreachable = self._why_unreachable()

    @property
    def local(self) -> bool:
        """Whether the hub cannot be asked, so that the files here are all there is."""
        return self._unreachable is not None

    def _why_unreachable(self) -> str | None:
        """Asked once: a download would ask for half a minute where there is no network."""
        library = self._library
        try:
            library.get_hf_file_metadata(library.hf_hub_url(self._repository, "config.json", revision=self.revision))
        except self._errors.HfHubHTTPError:  # an answer, which the download meets again
            return None
        except Exception as error:  # offline by choice, no network, no name, no route, no time
            return _first_line(error)
        return None

    @property
    def error(self) -> type[BackendError] | type[CheckpointError]:
        """What a missing file is."""
        return BackendError if self.local else CheckpointError

    def file(self, name: str) -> Path | None:
        """Where the file lies; None: the repository has no such file."""
        errors = self._errors
        try:
            return Path(
                self._library.hf_hub_download(
                    self._repository, name, revision=self.revision, local_files_only=self.local
                )
            )
        except errors.RemoteEntryNotFoundError:
            return None
        except errors.LocalEntryNotFoundError as error:
            if name != "config.json":
                self._unreachable = self._unreachable or _first_line(error)
                return None
            expected = "a folder, or a model that the Hugging Face hub or its cache here can give"
            reason = self._unreachable or _first_line(error)
            raise BackendError(message("model", expected, f"{self._name!r}: {reason}")) from None
        except (errors.RepositoryNotFoundError, errors.RevisionNotFoundError, errors.HFValidationError) as error:
            expected = "a folder, or a model on the Hugging Face hub"
            raise CheckpointError(message("model", expected, f"{self._name!r}: {_first_line(error)}")) from None
        except (errors.HfHubHTTPError, OSError) as error:
            expected = "an answer of the Hugging Face hub"
            raise BackendError(message("model", expected, f"for {self._name!r}: {_first_line(error)}")) from None


def _first_line(error: BaseException) -> str:
    return next((line.strip() for line in str(error).splitlines() if line.strip()), type(error).__name__)


def _library() -> tuple[Any, Any]:
    try:
        import huggingface_hub
        import huggingface_hub.errors
    except ModuleNotFoundError:
        raise missing_package("a model of the Hugging Face hub", "huggingface_hub") from None
    return huggingface_hub, huggingface_hub.errors
