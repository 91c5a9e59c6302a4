"""The playground: block-diffusion decoding beside autoregressive decoding, live in the browser.

    python app.py                                    # the bundled model on http://127.0.0.1:7860
    python app.py --model path/to/checkpoint --port 7861
    NBDIFF_LOGIN=name:password python app.py --host 0.0.0.0

`python -m playground` does the same, and so does `nbdiff-playground` where the project is installed.
"""

from playground.command_line import main

if __name__ == "__main__":
    main()
