"""Images in a tar, each read by its place in it: ``open_source("tar:train.tar")``.

Members are CLASS/NAME.jpg, in any order; the tar is neither unpacked nor read from its beginning.
"""

import os
import tarfile

import numpy as np

from dali_mix.sources import Source, register


@register
class Tar(Source):
    """The images of a tar whose folders are classes."""

    scheme = "tar"

    def __init__(self, where: str) -> None:
        with tarfile.open(where, "r:") as tar:
            members = [member for member in tar if member.isfile() and "/" in member.name]
        folders = [os.path.basename(os.path.dirname(member.name)) for member in members]
        self.classes = tuple(sorted(set(folders)))
        self.labels = np.array([self.classes.index(folder) for folder in folders], np.int32)
        self._members = [(member.name, member.size, member.offset_data) for member in members]
        self._file, self._where = os.open(where, os.O_RDONLY), where

    def describe(self, index: int) -> str:
        """What bad_files.txt and --exclude-list call an image."""
        return f"{self._where}: {self._members[index][0]}"

    def read(self, indices):
        """The bytes of images, as they are in the tar."""
        places = (self._members[index][1:] for index in indices)
        return [np.frombuffer(os.pread(self._file, *place), np.uint8) for place in places]
