"""The parts of benchmarks/service_speed.py."""

import sys
from pathlib import Path

# A PostgreSQL of one's own, servers that are gone afterwards: the tests' own means
sys.path.append(str(Path(__file__).parents[2] / "tests" / "support"))
