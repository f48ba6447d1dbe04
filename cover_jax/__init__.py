"""CoVeR: co-training one TimeSformer on video and image datasets (arXiv 2112.07175)."""

__version__ = "0.2.0"
