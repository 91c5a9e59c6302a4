"""`python -m playground` does what `python app.py` does."""

from playground.command_line import main

if __name__ == "__main__":
    main()
