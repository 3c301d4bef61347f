"""Pictures in and out; knows no network."""
