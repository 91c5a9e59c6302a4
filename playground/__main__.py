"""`python -m playground` is the same command as `python app.py`."""

from playground.command_line import main

if __name__ == "__main__":
    main()
