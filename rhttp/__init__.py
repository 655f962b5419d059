"""HTTP/1.1 and Reverse HTTP: heads, codecs, Digest formula, the worker side. Imports no other package of ours."""
