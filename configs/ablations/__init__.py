"""Parts of the mix of cover_l.py, to measure what each dataset adds: see mix.py."""
