"""Any folder of images, each stored as a video of one frame."""

from data_pipelines.builders import folder, media


class Builder(folder.FolderBuilder, skip_registration=True):
    """A folder of images."""

    name = "image_folder"
    MODALITY = "image"
    OPTIONS = {"short_side_px": (256, "shorter side of the stored images; smaller ones are not enlarged")}
    READ = staticmethod(media.read_image)
