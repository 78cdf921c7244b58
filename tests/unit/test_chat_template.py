"""Chat templates: what Jinja makes of them, what they may not do, and where folders keep them."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import pytest

from farspan import ArgumentError, BackendError, CheckpointError
from farspan.chat_template import ChatTemplate, folder_template

pytest.importorskip("jinja2", reason="jinja2 is not installed")
HELLO = [{"role": "user", "content": '<hé> & "q"'}]
LINES = """{%- if messages[0]['role'] == 'system' %}
    {{- raise_exception('no system here') }}
{%- endif %}
{% for message in messages %}
    {% if loop.first %}
{{ bos_token }}{% endif %}
{% generation %}{{ message['role'] }}: {{ message['content'] | trim }}
{% endgeneration %}
{% continue %}
never
{% endfor %}
{{ message | default({'a': 'é<'}) | tojson }} {{ strftime_now('%Y')|length }}"""


def template(source: str) -> ChatTemplate:
    return ChatTemplate(source, {"bos_token": "<s>"}, Path("somewhere"))


def test_blocks_loops_filters_and_tags() -> None:
    assert template(LINES).render(HELLO) == '<s>user: <hé> & "q"\n{"a": "é<"} 4'


def test_it_is_what_transformers_makes_of_it() -> None:
    utils = pytest.importorskip("transformers.utils.chat_template_utils", reason="transformers is not installed")
    made, _ = utils.render_jinja_template(
        [HELLO], chat_template=LINES, add_generation_prompt=True, bos_token="<s>", return_assistant_tokens_mask=False
    )
    assert template(LINES).render(HELLO) == made[0]


def test_its_own_refusal_is_told() -> None:
    with pytest.raises(BackendError, match=r"somewhere.*no system here"):
        template(LINES).render([{"role": "system", "content": "x"}])
    with pytest.raises(CheckpointError, match="a Jinja template"):
        template("{% for %}").render(HELLO)


def test_one_that_writes_nothing_is_told() -> None:
    with pytest.raises(BackendError, match=r"chat template of somewhere.*given no text"):
        template("{{ nobody }}").render(HELLO)


def test_a_missing_package_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "jinja2", None)
    with pytest.raises(BackendError, match="chat templates: expected the package jinja2"):
        template(LINES).render(HELLO)


@pytest.mark.parametrize("source", [
    "{{ messages.__class__.__mro__ }}{{ ''.__class__.__base__.__subclasses__() }}",
    "{% for x in range(10 ** 9) %}{% endfor %}",
    "{{ messages.append(1) }}",
    "{% include '/etc/passwd' %}",
])  # fmt: skip
def test_it_runs_in_a_sandbox(source: str) -> None:
    with pytest.raises(BackendError):
        template(source).render(HELLO)


@pytest.mark.parametrize("wrong", ["hello", [], {"role": "user"}, ["hello"], [{"role": "user"}], [{"content": "x"}]])
def test_what_is_no_conversation(wrong: Any) -> None:
    with pytest.raises(ArgumentError, match="messages"):
        template("x").render(wrong)


def test_where_a_folder_keeps_it(tmp_path: Path) -> None:
    assert folder_template(tmp_path) is None
    config = tmp_path / "tokenizer_config.json"
    tokens = {"bos_token": {"content": "<s>"}, "eos_token": "</s>", "pad_token": None}
    several = [{"name": "tools", "template": "no"}, {"name": "default", "template": "{{ bos_token }}{{ eos_token }}"}]
    config.write_text(json.dumps({**tokens, "chat_template": several}))
    found = folder_template(tmp_path)
    assert found is not None
    assert found.render(HELLO) == "<s></s>"
    (tmp_path / "chat_template.jinja").write_text("its own {{ bos_token }}")
    own = folder_template(tmp_path)
    assert own is not None
    assert own.render(HELLO) == "its own <s>"
    (tmp_path / "chat_template.jinja").unlink()
    config.write_text(json.dumps({"chat_template": 7}))
    with pytest.raises(CheckpointError, match=r"chat_template in .*tokenizer_config\.json"):
        folder_template(tmp_path)
    config.write_text("[]")
    with pytest.raises(CheckpointError, match=r"tokenizer_config\.json"):
        folder_template(tmp_path)
