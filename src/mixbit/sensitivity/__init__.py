"""How sensitive a layer is to its bits: perturbations, runs of a suffix, curvature, entropy of maps, and measuring."""
