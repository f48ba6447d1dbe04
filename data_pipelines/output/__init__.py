"""How results are written for people: HTML parts, tables as text and Markdown."""
