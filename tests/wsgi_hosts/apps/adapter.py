"""The adapter as every application here takes it: the host's command line may choose the back end."""

from __future__ import annotations

import os
from typing import Any

from bridges import ASGIToWSGI


def adapt(app: Any, **options: Any) -> ASGIToWSGI:
    return ASGIToWSGI(app, backend=os.environ.get("ADAPTER_BACKEND", "asyncio"), **options)
