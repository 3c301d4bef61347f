"""Pictures in and out; knows no network."""

from pathlib import Path

SAMPLE = Path(__file__).with_name("sample.png")
"""The photograph that comes with srup."""
