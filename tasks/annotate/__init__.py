"""Region-phrase pairs: the phrases of a caption and where each is in the picture."""
