"""Certificate, Digest, policy, in that order, and the proofs that they give."""
