"""Which files come next, told by a pipeline that reads none of them."""

from __future__ import annotations

from nvidia.dali.pipeline import Pipeline

from dali_mix.helpers import scratch_file
from dali_mix.loading.checkpoint import restore, with_reader
from dali_mix.sources.reading import READER_NAME, Reading, read_files


def next_batches(reading: Reading, checkpoint: bytes, batch_size: int, count: int) -> list[list[int]]:
    """Which files the next batches have, as indices into the folder, in order and each once.

    Args:
        reading: of a pipeline.
        checkpoint: of the same pipeline.
        batch_size: of the pipeline.
        count: of batches.
    """
    entries = list(reading.entries)
    with scratch_file() as file:
        file.write(b"x")
        file.flush()
        # The same reader in the same state, of files that can be read, with their indices as labels.
        pipeline = Pipeline(batch_size, num_threads=1, device_id=None, enable_checkpointing=True)
        with pipeline:
            pipeline.set_outputs(read_files([f"/proc/self/fd/{file.fileno()}"] * len(entries), entries, reading)[1])
        pipeline.build()
        restore(pipeline, with_reader(pipeline.checkpoint(), checkpoint, READER_NAME))
        batches = [pipeline.run()[0].as_array().flatten().tolist() for _ in range(count)]
    # A shard's last batch is padded with its last image.
    return [list(dict.fromkeys(batch)) for batch in batches]
