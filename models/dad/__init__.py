"""Domain-aware Diffusion: a frozen text-to-image model and a ControlNet that carries a look."""
