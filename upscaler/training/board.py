"""TensorBoard's files, written by whoever calls: no thread that could fail unseen or be copied by a fork."""

from __future__ import annotations

import time
from collections.abc import Mapping
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from upscaler.images.sheets import Picture
from upscaler.saving import explained

_BINS = 64


class Board:
    """One session's file of a run in TensorBoard's format.

    Args:
        folder: what is given to ``tensorboard --logdir``; it is made if it is missing.
        purge_from: the first step of which nothing is true any more that earlier sessions wrote.

    Raises:
        UserError: it cannot be written; so do all methods.
    """

    def __init__(self, folder: Path, purge_from: int | None = None) -> None:
        from tensorboard.summary.writer.record_writer import RecordWriter

        # TensorBoard reads the files of a folder in the order of their names.
        self._path = folder / f"events.out.tfevents.{time.time():017.6f}.srup"
        with explained(self._path):
            folder.mkdir(parents=True, exist_ok=True)
            self._file = self._path.open("xb")
        self._records = RecordWriter(self._file)
        self._write(file_version="brain.Event:2")
        if purge_from is not None:
            self.purge(purge_from)
        self.flush()

    def purge(self, step: int) -> None:
        """Hide all that was written of that step and later ones so far."""
        from tensorboard.compat.proto.event_pb2 import SessionLog

        self._write(step=step, session_log=SessionLog(status=SessionLog.START))

    def scalars(self, step: int, values: Mapping[str, float]) -> None:
        """Numbers by their tags; infinities and NaN are shown as such."""
        from tensorboard.compat.proto.summary_pb2 import Summary

        self._summary(step, [Summary.Value(tag=tag, simple_value=value) for tag, value in values.items()])

    def histogram(self, step: int, tag: str, values: NDArray[np.float32]) -> None:
        """A distribution, (N,); what is not finite is left out."""
        from tensorboard.compat.proto.summary_pb2 import HistogramProto, Summary

        finite = values[np.isfinite(values)].astype(np.float64)
        if not len(finite):
            return
        counts, edges = np.histogram(finite, _BINS)
        histogram = HistogramProto(
            min=finite.min(),
            max=finite.max(),
            num=len(finite),
            sum=finite.sum(),
            sum_squares=finite @ finite,
            bucket_limit=edges.tolist(),
            # The first bucket is all that lies below the lowest edge.
            bucket=[0, *counts.tolist()],
        )
        self._summary(step, [Summary.Value(tag=tag, histo=histogram)])

    def picture(self, step: int, tag: str, pixels: Picture) -> None:
        """A picture, (H, W, 3)."""
        from tensorboard.compat.proto.summary_pb2 import Summary

        data = BytesIO()
        Image.fromarray(pixels).save(data, "png")
        height, width = pixels.shape[:2]
        image = Summary.Image(height=height, width=width, colorspace=3, encoded_image_string=data.getvalue())
        self._summary(step, [Summary.Value(tag=tag, image=image)])

    def text(self, step: int, tag: str, text: str) -> None:
        """Words, in Markdown."""
        from tensorboard.compat.proto.summary_pb2 import Summary, SummaryMetadata
        from tensorboard.compat.proto.tensor_pb2 import TensorProto
        from tensorboard.compat.proto.tensor_shape_pb2 import TensorShapeProto
        from tensorboard.compat.proto.types_pb2 import DT_STRING

        shape = TensorShapeProto(dim=[TensorShapeProto.Dim(size=1)])
        tensor = TensorProto(dtype=DT_STRING, string_val=[text.encode()], tensor_shape=shape)
        metadata = SummaryMetadata(plugin_data=SummaryMetadata.PluginData(plugin_name="text"))
        self._summary(step, [Summary.Value(tag=f"{tag}/text_summary", tensor=tensor, metadata=metadata)])

    def flush(self) -> None:
        """Hand everything to the system."""
        with explained(self._path):
            self._records.flush()

    def close(self) -> None:
        """Write what is left and close the file, also where that fails."""
        with explained(self._path):
            self._file.close()

    def _summary(self, step: int, values: list[Any]) -> None:
        from tensorboard.compat.proto.summary_pb2 import Summary

        self._write(step=step, summary=Summary(value=values))

    def _write(self, **content: Any) -> None:
        from tensorboard.compat.proto.event_pb2 import Event

        with explained(self._path):
            self._records.write(Event(wall_time=time.time(), **content).SerializeToString())
