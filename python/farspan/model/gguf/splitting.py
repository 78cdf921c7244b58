"""How byte-level tokenizers cut a text before they merge, by the names of `tokenizer.ggml.pre`.

A cut is a list of patterns: each isolates its matches within the pieces that the ones before it left. The names stand
for whole tokenizers of well-known models, and several cut alike.
"""

from __future__ import annotations

from typing import NamedTuple


class Splitting(NamedTuple):
    patterns: tuple[str, ...]
    whole_words: bool = False
    """Whether a piece that is a token is that token, whatever the merges say"""
    begins: bool = False
    """Whether a text begins with the token for that where the file says nothing"""


GPT2_WORDS = r"'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)"
SHORT_FORMS = r"(?:'[sS]|'[tT]|'[rR][eE]|'[vV][eE]|'[mM]|'[lL][lL]|'[dD])"
LETTERS = r"[^\r\n\p{L}\p{N}]?\p{L}+"
MARKS = r" ?[^\s\p{L}\p{N}]+[\r\n]*"
MARKS_AND_SLASHES = r" ?[^\s\p{L}\p{N}]+[\r\n/]*"
SPACES = r"\s*[\r\n]+|\s+(?!\S)|\s+"
UPPER, LOWER = r"(?:(?=\p{L})[^a-z])", r"(?:(?=\p{L})[^A-Z])"


def _words(digits: str) -> str:
    return "|".join((SHORT_FORMS, LETTERS, digits, MARKS, SPACES))


def _cased(digits: str, ending: str) -> str:
    """Words end where lower case turns to upper case."""
    before = r"[^\r\n\p{L}\p{N}]?"
    return "|".join((
        f"{before}{UPPER}*{LOWER}+{ending}", f"{before}{UPPER}+{LOWER}*{ending}", digits, MARKS_AND_SLASHES, SPACES,
    ))  # fmt: skip


ONE_DIGIT, THREE_DIGITS = r"\p{N}", r"\p{N}{1,3}"
GPT2 = Splitting((GPT2_WORDS,))
SINGLE_DIGITS = Splitting((ONE_DIGIT, GPT2_WORDS))
LLAMA3 = Splitting((_words(THREE_DIGITS),), whole_words=True, begins=True)
GROUPS_OF_THREE = Splitting((_words(THREE_DIGITS),))
QWEN2 = Splitting((_words(ONE_DIGIT),))
GPT4O = Splitting((_cased(THREE_DIGITS, f"{SHORT_FORMS}?"),))
PUNCTUATION = r"\p{P}\$\+<=>\^~\|"

SPLITTINGS = {
    "default": Splitting((rf"[{PUNCTUATION}]+", GPT2_WORDS, r"\p{N}+", "[0-9][0-9][0-9]")),
    **dict.fromkeys(("gpt-2", "phi-2", "mpt", "olmo", "jais", "trillion", "granite-docling", "exaone4", "gigachat",
                     "a.x-4.0", "mellum", "modern-bert", "jina-es", "jina-de", "jina-v2-es", "jina-v2-de"), GPT2),
    **dict.fromkeys(("smollm", "starcoder", "refact", "command-r", "codeshell", "exaone", "minerva-7b", "mellum2"),
                    SINGLE_DIGITS),
    **dict.fromkeys(("llama3", "llama-v3", "llama-bpe", "falcon3", "falcon-h1", "pixtral", "midm-2.0", "lfm2"), LLAMA3),
    **dict.fromkeys(("dbrx", "smaug-bpe", "glm4", "chatglm-bpe"), GROUPS_OF_THREE),
    **dict.fromkeys(("qwen2", "deepseek-r1-qwen", "kormo", "megrez", "stablelm2", "hunyuan", "solar-open"), QWEN2),
    **dict.fromkeys(("gpt-4o", "llama4", "kanana2", "minimax-m2"), GPT4O),
    "tekken": Splitting((_cased(ONE_DIGIT, ""),), whole_words=True, begins=True),
    "falcon": Splitting((rf"[{PUNCTUATION}`]+", GPT2_WORDS, "[0-9][0-9][0-9]")),
}  # fmt: skip
