"""farspan inside Hugging Face transformers.

After `register()`, `attn_implementation="farspan"` is one of the library's attention implementations.
"""

from farspan.integrations.transformers.versions import check

check()  # before the files that import names of the right version

from farspan.integrations.transformers.register import register  # noqa: E402

__all__ = ["register"]
