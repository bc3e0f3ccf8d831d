"""`python -m flag_rerank_integrations` is `flag-rerank`."""

from __future__ import annotations

import sys

from flag_rerank_integrations.cli import main

if __name__ == "__main__":
    sys.exit(main())
