"""TFDS builders of data in a form that anybody may have: a folder, a list of files, WebDataset, Hugging Face."""
