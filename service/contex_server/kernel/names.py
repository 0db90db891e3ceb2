"""The names that both the edge and the checks of requests look at."""

from __future__ import annotations

import re

PROJECT = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,63}")
IDENTITY = re.compile(r"[A-Za-z0-9_.:/@+-]{0,128}")
