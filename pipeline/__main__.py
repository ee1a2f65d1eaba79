"""``python -m pipeline``: the command, where only its code was brought and nothing installed."""

from pipeline.cli import main

if __name__ == "__main__":
    main()
