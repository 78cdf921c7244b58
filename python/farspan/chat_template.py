"""Chat templates: what a checkpoint says of how a conversation is written down."""

from __future__ import annotations

import datetime
import functools
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from farspan._errors import ArgumentError, BackendError, CheckpointError, message, missing_package
from farspan._files import read_json

Message = Mapping[str, Any]
"""`role` (`system`, `user`, `assistant`) and `content`."""


class ChatTemplate:
    """A template in Jinja, which runs in that package's sandbox: it comes with a checkpoint from anywhere.

    `tokens`: the texts of special tokens by the names that templates have for them, such as `bos_token`.
    """

    def __init__(self, source: str, tokens: Mapping[str, str], where: Path) -> None:
        self.source, self.tokens, self._where = source, dict(tokens), where

    def render(self, messages: Sequence[Message]) -> str:
        """The conversation up to where the next answer begins. CheckpointError: the template is no template.
        BackendError: it raised, as some do for roles that their models do not know, or it wrote nothing."""
        _require_messages(messages)
        template = self._compiled
        where, expected = f"the chat template of {self._where}", "one that can write this conversation"
        try:
            text: str = template.render(
                messages=list(messages), add_generation_prompt=True, tools=None, documents=None, **self.tokens
            )
        except Exception as error:
            raise BackendError(message(where, expected, error)) from error
        if not text:
            raise BackendError(message(where, expected, "no text"))
        return text

    @functools.cached_property
    def _compiled(self) -> Any:
        try:
            import jinja2.ext
            import jinja2.sandbox
        except ModuleNotFoundError:
            raise missing_package("chat templates", "jinja2") from None
        environment = jinja2.sandbox.ImmutableSandboxedEnvironment(
            trim_blocks=True, lstrip_blocks=True, extensions=[jinja2.ext.loopcontrols, _generation_tag()]
        )
        environment.filters["tojson"] = _to_json
        environment.globals["raise_exception"] = _refuse
        environment.globals["strftime_now"] = lambda form: datetime.datetime.now().strftime(form)
        try:
            return environment.from_string(self.source)
        except jinja2.TemplateError as error:
            raise CheckpointError(message(f"the chat template of {self._where}", "a Jinja template", error)) from error


def _require_messages(messages: Any) -> None:
    expected = "a list of dicts with role and content"
    if isinstance(messages, (str, bytes, Mapping)) or not isinstance(messages, Sequence) or not messages:
        raise ArgumentError(message("messages", expected, repr(messages)[:80]))
    for index, entry in enumerate(messages):
        if not isinstance(entry, Mapping) or not isinstance(entry.get("role"), str) or "content" not in entry:
            raise ArgumentError(message(f"messages[{index}]", "a dict with role and content", repr(entry)[:80]))


def _to_json(value: Any, indent: int | None = None, **options: Any) -> str:
    """Jinja's own filter escapes what HTML does not bear."""
    return json.dumps(value, ensure_ascii=False, indent=indent, **options)


def _refuse(reason: str) -> None:
    raise ValueError(reason)


def _generation_tag() -> Any:
    """`{% generation %}` marks what training learns from; here its content is text like any other."""
    import jinja2.ext
    import jinja2.nodes

    class Generation(jinja2.ext.Extension):
        tags = {"generation"}  # noqa: RUF012 - so declared by the base

        def parse(self, parser: Any) -> Any:
            line = next(parser.stream).lineno
            body = parser.parse_statements(["name:endgeneration"], drop_needle=True)
            return jinja2.nodes.Scope(body, lineno=line)

    return Generation


# ----------------------------------------------------------------------------------------------------- in model folders


def folder_template(folder: Path) -> ChatTemplate | None:
    """The template of a model folder: a file of its own, or an entry of `tokenizer_config.json`. None: it has none."""
    settings = read_json(folder / "tokenizer_config.json") if (folder / "tokenizer_config.json").is_file() else {}
    if not isinstance(settings, dict):
        raise CheckpointError(message(str(folder / "tokenizer_config.json"), "an object", type(settings).__name__))
    source = _source(folder, settings.get("chat_template"))
    if source is None:
        return None
    beside = folder / "special_tokens_map.json"
    named = read_json(beside) if beside.is_file() else {}
    tokens = {**(named if isinstance(named, dict) else {}), **settings}
    found = {name: _text(value) for name, value in tokens.items() if name.endswith("_token")}
    return ChatTemplate(source, {name: text for name, text in found.items() if text is not None}, folder)


def _source(folder: Path, entry: Any) -> str | None:
    own = folder / "chat_template.jinja"
    if own.is_file():
        try:
            return own.read_text(encoding="utf-8")
        except (OSError, UnicodeDecodeError) as error:
            raise CheckpointError(message(str(own), "a readable template", error)) from None
    if isinstance(entry, list):  # several by name
        named = {x.get("name"): x.get("template") for x in entry if isinstance(x, dict)}
        entry = named.get("default")
    if entry is None or isinstance(entry, str):
        return entry
    where = folder / "tokenizer_config.json"
    raise CheckpointError(message(f"chat_template in {where}", "a template, or several by name", type(entry).__name__))


def _text(token: Any) -> str | None:
    content = token.get("content") if isinstance(token, dict) else token
    return content if isinstance(content, str) else None
