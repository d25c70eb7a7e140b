"""What every method owes the algebra `guided = cond + Σ strength·(cond − branch) + Σ deltas`."""

from guidance_core.conformance.checks.algebra import invariance, neutrality, precision, structure  # noqa: F401
