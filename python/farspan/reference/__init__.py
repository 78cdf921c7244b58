"""The definition of every operation: short eager torch programs, differentiable, in any floating dtype.

Every backend must agree with these under the tolerance table of `farspan.testing`. Here `[T, T]` scores and
`[rows, vocab]` logits do exist: these programs are for reading, for tests, and for training small models.
"""

from farspan.reference.attention import attention
from farspan.reference.loss import divergence, linear_cross_entropy
from farspan.reference.noise import noise, philox, unsigned
from farspan.reference.statistics import attention_statistics
from farspan.reference.unembed import greedy, linear, logits, sample, score, top

__all__ = [
    "attention", "attention_statistics", "divergence", "greedy", "linear", "linear_cross_entropy", "logits", "noise",
    "philox", "sample", "score", "top", "unsigned",
]  # fmt: skip
