"""Bad networks that are the same each time, what calls become in them, and a server over a long time."""
