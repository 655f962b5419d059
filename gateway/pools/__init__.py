"""Workers' slots: which is next, who waits, and the connections that hold them."""
