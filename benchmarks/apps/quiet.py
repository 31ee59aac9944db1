"""An app as it is, on a waitress that does not complain of its load: ``BENCH_APP`` is ``module:attribute``.

Waitress logs a warning for each request that finds no idle thread, which under `wrk` is nearly each,
and has no option for the level of that log.
"""

from __future__ import annotations

import logging
import os
import pkgutil

logging.getLogger("waitress").setLevel(logging.ERROR)
app = pkgutil.resolve_name(os.environ["BENCH_APP"])
