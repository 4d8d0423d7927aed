"""Reference pipeline for a table: UCI wine, from a CSV file to the served model `wine`."""
