"""What certificates came to, by hand: two networks, four images."""

from __future__ import annotations

from pathlib import Path

from mixbit.certification import Certificate, Certified
from mixbit.runs import CertifiedRuns, CertifySettings

FLOAT, INT8 = "float", "W8A8 executor"


def certified(*radii: float) -> Certified:
    """Images that are right within these radii; 0 abstains."""
    made = [
        Certificate(image=at, label=1, chosen=1, hits=90, samples=100, chance=0.8, radius=radius, passes=120)
        for at, radius in enumerate(radii)
    ]
    return Certified(sigma=0.5, alpha=0.001, certificates=tuple(made))


FOUND = CertifiedRuns(
    runs=(Path("runs/one"),),
    settings=CertifySettings(sigma=0.5, radii=(0.25, 0.5), images=4, n=100),
    certified={FLOAT: certified(1.0, 0.5, 0.25, 0.0), INT8: certified(1.0, 0.25, 0.0, 0.0)},
    files={Path("one/certify.json"): "results"},
)
