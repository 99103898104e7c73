"""A reader for each format of files."""
