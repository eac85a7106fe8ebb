"""Enhanced twins for the publishers of another server's conferences, as a participant there like any other."""
