"""The tables of model families, one file per kind; `registry.WEIGHT_FAMILIES` lists the files in their order."""
