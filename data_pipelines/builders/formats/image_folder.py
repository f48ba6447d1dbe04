"""Any folder of images, each stored as a video of one frame."""

from data_pipelines.prepare import base, folder


class Builder(base.ImageFiles, folder.FolderBuilder, skip_registration=True):
    """A folder of images."""

    name = "image_folder"
