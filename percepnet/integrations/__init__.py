"""Plug-ins for frameworks of voice agents; each module needs the extra of its name, such as ``.[pipecat]``."""
