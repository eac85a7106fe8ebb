"""Training of the network (extra ``[train]``): mixtures, model, losses, loop and export."""
