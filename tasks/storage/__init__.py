"""Objects behind URLs: what there is, ranges of bytes, whole objects in and out; obstore does the requests."""
