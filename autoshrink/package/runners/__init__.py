"""One file a runtime: it is shipped as `runtime.py` beside `run.py`, and opens the compiled files of the package.

Each needs numpy and its runtime only, and offers::

    load(folder, manifest) -> run

`folder` holds the compiled files, `manifest` is what `package.json` says. `run` makes one call with the batch that was
compiled in: it takes the arrays by input name, and gives the arrays in the order of the signature's outputs.
"""
