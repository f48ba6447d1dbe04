"""Any folder of video clips: their frames as JPEG, at a chosen rate and size."""

from data_pipelines.prepare import base, folder


class Builder(base.VideoFiles, folder.FolderBuilder, skip_registration=True):
    """A folder of video clips."""

    name = "video_folder"
