"""Log lines: for people ("level logger message key=value") or one JSON object a line."""

from __future__ import annotations

import json
import logging
import re
import sys
import time

_FIELD = re.compile(r"\b([a-z_]+)=(\S+)")


class JsonFormatter(logging.Formatter):
    """One JSON object a record; the `key=value` pairs of the message become fields of their own."""

    def format(self, record: logging.LogRecord) -> str:
        """The line."""
        message = record.getMessage()
        line = {
            "time": time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(record.created))
            + f".{int(record.msecs):03d}Z",
            "level": record.levelname.lower(),
            "logger": record.name,
            "event": _FIELD.sub("", message).strip(),
            **dict(_FIELD.findall(message)),
        }
        if record.exc_info:
            line["exception"] = self.formatException(record.exc_info)
        return json.dumps(line)


def set_up(kind: str) -> None:
    """Log to standard error as "text" or "json"."""
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(
        JsonFormatter() if kind == "json" else logging.Formatter("%(levelname)s %(name)s %(message)s")
    )
    logging.getLogger().handlers[:] = [handler]
