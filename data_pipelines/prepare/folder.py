"""The common part of `builders/formats`, builders of data in a usual form: each has a source and its own flags."""

import dataclasses
from typing import Any

import tensorflow_datasets as tfds
from etils import epath

from data_pipelines.prepare import base, listing

LIST_SHA256 = "list_sha256"  # in the origin of a dataset: the hash of the list from which it was prepared


@dataclasses.dataclass(eq=False)
class FolderConfig(tfds.core.BuilderConfig):
    """A dataset made from a source; `name` is the name of the dataset.

    Attributes:
        source: the folder, or what else the builder reads; local or a URL.
        layout: how its files are divided and labelled: the builder's LAYOUT.
    """

    source: str = ""
    layout: Any = dataclasses.field(default_factory=listing.Layout)


class FolderBuilder(base.MediaBuilder, skip_registration=True):
    """Base of these builders. Each also says what it reads, in `_list`."""

    LAYOUT: type = listing.Layout  # its fields are flags of `data_pipelines.prepare`
    SOURCE, SOURCE_HELP, EXAMPLE = "FOLDER", "the folder with the files", "/data/mine"  # what --source is

    @classmethod
    def for_layout(cls, layout: Any) -> "type[FolderBuilder]":
        """The builder for a layout, if a form may have videos or images."""
        return cls

    def origin(self):
        """The source, and how its files are assigned to splits and classes."""
        config = self.builder_config
        layout = {key: list(value) if isinstance(value, tuple) else value for key, value in vars(config.layout).items()}
        if not layout.get("label_separator", True):
            del layout["label_separator"]  # datasets of version 0.2.0 do not have it
        return {**base.describe_source(config.source), **layout, **super().origin()}

    @property
    def several_labels(self) -> bool:
        """Whether its lists give any number of classes for a file."""
        return bool(getattr(self.builder_config.layout, "label_separator", ""))

    def _find(self, dl_manager):
        return self._list(self.builder_config.source)

    def _list(self, source: str) -> tuple[epath.Path, listing.Listing]:
        """The folder that holds all files, and the files."""
        return epath.Path(source), listing.find(source, self.builder_config.layout)
