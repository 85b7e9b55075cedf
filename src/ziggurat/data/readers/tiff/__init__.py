"""TIFF of every kind: headers by tifffile, compressions by imagecodecs, and only those strips and tiles that a region touches."""
