"""Reference pipeline for images: UCI handwritten digits, from PNG files to the served model `digits`."""
