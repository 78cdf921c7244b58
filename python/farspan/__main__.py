"""`python -m farspan`: the command line."""

from __future__ import annotations

import sys

from farspan.cli import main

sys.exit(main())
