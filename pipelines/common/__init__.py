"""What both reference pipelines share."""
