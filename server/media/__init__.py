"""Narrow adapters to aiortc. Each checks the attributes it was made for, and steps back with a warning."""
