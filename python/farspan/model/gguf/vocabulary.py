"""The tokenizer of a GGUF file, as a tokenizer of the package tokenizers that gives the ids that llama.cpp gives.

`tokenizer.ggml.pre` names how a text is cut into words, which the readers in transformers do not look at.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from farspan._errors import ArgumentError, CheckpointError, message, missing_package
from farspan.chat_template import ChatTemplate
from farspan.model.gguf.splitting import SPLITTINGS, Splitting
from farspan.model.kinds import FLAG, TEXT, TOKEN, Kind, Setting, list_of, number, one_of, optional, read
from farspan.tokenizer import SubwordTokenizer

UNKNOWN, CONTROL, USER_DEFINED, BYTE = 2, 3, 4, 6
SPACE = "▁"
"""What SentencePiece writes for a space."""

IDS = ("bos", "eos", "unknown", "padding", "seperator", "mask")
TEXTS = Kind("a list of texts", lambda x: isinstance(x, list) and all(isinstance(entry, str) for entry in x))
KEYS = {
    "model": Setting(one_of("gpt2", "llama")),
    "pre": Setting(TEXT, "default"),
    "tokens": Setting(TEXTS),
    "token_type": Setting(optional(list_of(TOKEN)), None),
    "scores": Setting(optional(list_of(number())), None),
    "merges": Setting(optional(TEXTS), None),
    "add_bos_token": Setting(optional(FLAG), None),
    "add_eos_token": Setting(optional(FLAG), None),
    "add_space_prefix": Setting(optional(FLAG), None),
    **{f"{name}_token_id": Setting(optional(TOKEN), None) for name in IDS},
}
"""Settings behind `tokenizer.ggml.`"""
NAMES_IN_TEMPLATES = {
    "bos_token": "bos_token_id", "eos_token": "eos_token_id", "unk_token": "unknown_token_id",
    "pad_token": "padding_token_id",
}  # fmt: skip


def tokenizer_of(path: Path, settings: Mapping[str, Any], vocab_size: int) -> SubwordTokenizer:
    """CheckpointError: the file has none, one of another kind, or one that contradicts itself or the model."""
    try:
        given = _given(settings, vocab_size)
        made = _Maker(given).tokenizer()
        template = optional(TEXT).check("tokenizer.chat_template", settings.get("tokenizer.chat_template"))
    except ArgumentError as error:
        raise CheckpointError(f"{path}: {error}") from error
    tokens = {name: given["tokens"][given[key]] for name, key in NAMES_IN_TEMPLATES.items() if given[key] is not None}
    return SubwordTokenizer(made, None if template is None else ChatTemplate(template, tokens, path), path)


def _given(settings: Mapping[str, Any], vocab_size: int) -> dict[str, Any]:
    prefix = "tokenizer.ggml."
    own = {key.removeprefix(prefix): value for key, value in settings.items() if key.startswith(prefix)}
    given = read(KEYS, own, prefix)
    tokens = given["tokens"]
    if len(tokens) != vocab_size:
        raise ArgumentError(message(f"{prefix}tokens", f"the {vocab_size} that the model has", len(tokens)))
    for name in ("token_type", "scores"):
        if given[name] is not None and len(given[name]) != len(tokens):
            raise ArgumentError(message(prefix + name, f"an entry for each of {len(tokens)} tokens", len(given[name])))
    for name in IDS:
        index = given[f"{name}_token_id"]
        if index is not None and index >= len(tokens):
            raise ArgumentError(message(f"{prefix}{name}_token_id", f"below {len(tokens)}, the tokens", index))
    return given


class _Maker:
    """Builds a tokenizer of the package tokenizers."""

    def __init__(self, given: Mapping[str, Any]) -> None:
        try:
            import tokenizers
        except ModuleNotFoundError:
            raise missing_package("reading a tokenizer", "tokenizers") from None
        self._library, self._given = tokenizers, given
        self._tokens: list[str] = given["tokens"]
        self._types = given["token_type"] or [1] * len(self._tokens)
        self._vocabulary = {token: index for index, token in enumerate(self._tokens)}

    def tokenizer(self) -> Any:
        pieces = self._given["model"] == "llama"
        made, begins = self._of_pieces() if pieces else self._of_bytes()
        token = self._library.AddedToken
        for kind, add in ((CONTROL, made.add_special_tokens), (UNKNOWN, made.add_special_tokens),
                          (USER_DEFINED, made.add_tokens)):  # fmt: skip
            special = kind != USER_DEFINED
            texts = [text for text, type_ in zip(self._tokens, self._types, strict=True) if type_ == kind and text]
            add([token(text, normalized=False, special=special) for text in texts])
        self._add_ends(made, begins)
        return made

    def _add_ends(self, made: Any, begins: bool) -> None:
        """What stands before and behind a text that is encoded with special tokens."""
        given, around = self._given, {}
        for name, wanted in (("bos", begins), ("eos", False)):
            says, index = given[f"add_{name}_token"], given[f"{name}_token_id"]
            if index is not None and (wanted if says is None else says):
                around[name] = (self._tokens[index], index)
        if around:
            places = [around["bos"][0]] if "bos" in around else []
            places += ["$A", *([around["eos"][0]] if "eos" in around else [])]
            template = self._library.processors.TemplateProcessing
            made.post_processor = template(single=places, special_tokens=list(around.values()))

    # ---- byte-level pairs

    def _of_bytes(self) -> tuple[Any, bool]:
        name = self._given["pre"]
        if name not in SPLITTINGS:
            known = f"one of {', '.join(SPLITTINGS)}"
            raise ArgumentError(message("tokenizer.ggml.pre", known, repr(name)))
        splitting = SPLITTINGS[name]
        merges = self._given["merges"]
        if merges is None:
            raise ArgumentError(message("tokenizer.ggml.merges", TEXTS.expected, "none"))
        pairs = [_pair(merge) for merge in merges]
        made = self._pairs(pairs, ignore_merges=splitting.whole_words)
        made.pre_tokenizer = self._cut(splitting)
        made.decoder = self._library.decoders.ByteLevel()
        return made, splitting.begins

    def _cut(self, splitting: Splitting) -> Any:
        cuts, pattern = self._library.pre_tokenizers, self._library.Regex
        splits = [cuts.Split(pattern(text), "isolated") for text in splitting.patterns]
        return cuts.Sequence([*splits, cuts.ByteLevel(add_prefix_space=False, use_regex=False)])

    # ---- SentencePiece's pieces

    def _of_pieces(self) -> tuple[Any, bool]:
        if self._given["scores"] is None:
            raise ArgumentError(message("tokenizer.ggml.scores", "a list of numbers", "none"))
        unknown = self._given["unknown_token_id"]
        made = self._pairs(
            self._pairs_of_pieces(), byte_fallback=BYTE in self._types, fuse_unk=True,
            unk_token=None if unknown is None else self._tokens[unknown],
        )  # fmt: skip
        prefix = self._given["add_space_prefix"] is not False
        normalizers, decoders = self._library.normalizers, self._library.decoders
        first = [normalizers.Prepend(SPACE)] if prefix else []
        made.normalizer = normalizers.Sequence([*first, normalizers.Replace(" ", SPACE)])
        last = [decoders.Strip(" ", 1, 0)] if prefix else []
        made.decoder = decoders.Sequence(
            [decoders.Replace(SPACE, " "), decoders.ByteFallback(), decoders.Fuse(), *last]
        )
        return made, True

    def _pairs_of_pieces(self) -> list[tuple[str, str]]:
        """The pairs of pieces that make a piece, best piece first: neighbours whose whole scores best are joined."""
        whole = [
            index for index, kind in enumerate(self._types)
            if kind not in (UNKNOWN, CONTROL, BYTE) and len(self._tokens[index]) > 1
        ]  # fmt: skip
        scores = self._given["scores"]
        whole.sort(key=lambda index: (-scores[index], index))
        known = self._vocabulary
        return [
            (piece[:at], piece[at:])
            for piece in (self._tokens[index] for index in whole)
            for at in range(1, len(piece))
            if piece[:at] in known and piece[at:] in known
        ]

    def _pairs(self, merges: list[tuple[str, str]], **options: Any) -> Any:
        try:
            return self._library.Tokenizer(self._library.models.BPE(self._vocabulary, merges, **options))
        except Exception as error:  # the package raises bare Exception
            raise ArgumentError(message("tokenizer.ggml.merges", "pairs of tokens that make a token", error)) from None


def _pair(merge: str) -> tuple[str, str]:
    at = merge.find(" ", 1)
    if at < 0:
        raise ArgumentError(message("tokenizer.ggml.merges", "two tokens with a space between them", repr(merge)))
    return merge[:at], merge[at + 1 :]
