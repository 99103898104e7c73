"""Data sets in files, as the producer knows them: which files, columns and rows there are, and where these stand."""
