"""Clipping a residual to a bound, with an account of what was thrown away."""

__all__: list[str] = []
