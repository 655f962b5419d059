"""HTTP/1.1 and Reverse HTTP itself: heads, codecs, Digest formula, the worker side. Imports no other package of this project."""
