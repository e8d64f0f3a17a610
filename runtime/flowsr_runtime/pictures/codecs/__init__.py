"""Files of single formats: PNG and TIFF beyond Pillow, deep pixels, checks before decoding."""
