"""Any folder of video clips: their frames as JPEG, at a chosen rate and size."""

from data_pipelines.builders import folder, media


class Builder(folder.FolderBuilder, skip_registration=True):
    """A folder of video clips."""

    name = "video_folder"
    MODALITY = "video"
    OPTIONS = {
        "short_side_px": (256, "shorter side of the stored frames; smaller ones are not enlarged"),
        "fps": (10.0, "frames stored a second; all, if the file has fewer"),
    }
    READ = staticmethod(media.read_video)
