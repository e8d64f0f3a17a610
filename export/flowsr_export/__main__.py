"""Run the command line as `python -m flowsr_export`."""

from flowsr_export.cli import main

__all__: list[str] = []

if __name__ == "__main__":
    main(prog_name="flowsr-export")
