"""TimeSformer with one head per dataset. Start at `cover.functional`. It imports no other package of this project."""
