"""TensorBoard scalars, written without torch."""

from __future__ import annotations

import importlib.util
import time
from collections.abc import Mapping
from pathlib import Path


class Events:
    """TensorBoard scalars without torch; does nothing where tensorboard is not installed (a robot)."""

    def __init__(self, folder: Path, purge_step: int | None) -> None:
        """Start an event file; readers drop events of step >= `purge_step` that earlier files hold."""
        self._writer = None
        if importlib.util.find_spec("tensorboard"):
            from tensorboard.summary.writer.event_file_writer import EventFileWriter

            self._writer = EventFileWriter(str(folder), flush_secs=10)
            # generated modules, whose names a type checker does not see
            self._event = importlib.import_module("tensorboard.compat.proto.event_pb2")
            self._summary = importlib.import_module("tensorboard.compat.proto.summary_pb2")
            if purge_step is not None:
                start = self._event.SessionLog(status=self._event.SessionLog.START)
                self._writer.add_event(self._event.Event(step=purge_step, session_log=start))

    def scalars(self, step: int, values: Mapping[str, float]) -> None:
        """Write one event that holds all values of a step."""
        if self._writer is None:
            return
        rows = [self._summary.Summary.Value(tag=name, simple_value=value) for name, value in values.items()]
        summary = self._summary.Summary(value=rows)
        self._writer.add_event(self._event.Event(wall_time=time.time(), step=step, summary=summary))

    def close(self) -> None:
        """Flush and close the file."""
        if self._writer is not None:
            self._writer.close()
