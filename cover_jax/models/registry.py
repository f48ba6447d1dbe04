"""Parts of the model that are added in one new file and one line here. cover_jax/EXTENDING.md has a recipe for each.

This module imports nothing, so that the schema can list the names.
"""

# Value of config.model.attention -> MODULE:CLASS, a class with the methods of `attention.OwnForm`.
ATTENTION: dict[str, str] = {}

# Modules of cover_jax/models/pretrained/families, each with its `FAMILIES`. The first family that fits is taken, so one
# with all names of another and more comes before it.
WEIGHT_FAMILIES = ("timesformer", "clip", "dinov2", "mae", "tubelets", "vit")
