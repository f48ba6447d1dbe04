"""The common part of `video_folder` and `image_folder`, which read any folder with a layout of its own."""

import dataclasses

import tensorflow_datasets as tfds
from etils import epath

from data_pipelines.prepare import base, listing


@dataclasses.dataclass(eq=False)
class FolderConfig(tfds.core.BuilderConfig):
    """A dataset made from a folder; `name` is the name of the dataset.

    Attributes:
        source: the folder, local or a URL.
        layout: how its files are divided and labelled.
    """

    source: str = ""
    layout: listing.Layout = dataclasses.field(default_factory=listing.Layout)


class FolderBuilder(base.MediaBuilder, skip_registration=True):
    """Base of the folder builders."""

    def origin(self):
        """The folder, and how its files are assigned to splits and classes."""
        config = self.builder_config
        layout = {key: list(value) if isinstance(value, tuple) else value for key, value in vars(config.layout).items()}
        if not layout["label_separator"]:
            del layout["label_separator"]  # datasets of version 0.2.0 do not have it
        return {**base.describe_source(config.source), **layout, **super().origin()}

    @property
    def several_labels(self) -> bool:
        """Whether its lists give any number of classes for a file."""
        return bool(self.builder_config.layout.label_separator)

    def _find(self, dl_manager):
        source = epath.Path(self.builder_config.source)
        return source, listing.find(source, self.builder_config.layout)
