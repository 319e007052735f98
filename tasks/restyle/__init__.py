"""Making pictures: what is made, with which networks, and where each comes from."""
