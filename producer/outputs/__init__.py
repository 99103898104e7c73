"""Jobs whose predictions are written: to a file, a folder of files, or objects behind a URL."""
