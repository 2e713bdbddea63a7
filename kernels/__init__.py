"""Triton kernels: one mainloop over tiles of scores (tiles.py), what each loss makes of a tile (epilogues.py), and its ends.

reduce.py: row and column statistics. gradient.py: dL/ds of a tile, used at once or left as a chunk of weights. matrix.py:
products with such chunks, the end of a gradient. histogram.py: FastAP's. characteristic.py: SIGReg's. configs.json: sizes of
tiles for each architecture, chosen by ``make gpu-static``. The host's side is ``fastssl.ops.triton``.
"""
