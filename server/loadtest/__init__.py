"""Synthetic callers, and what they measure of a running server."""
