"""`python -m upscaler` is `srup`."""

from upscaler.cli.main import run

if __name__ == "__main__":
    run()
