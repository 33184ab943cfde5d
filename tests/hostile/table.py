"""The attacks of the matrix, all rows of all kinds."""

from .rows import escapes, files, inherited, kernel, memory, network, off_list, processes, tampering

ROWS = (
    *files.ROWS,
    *escapes.ROWS,
    *tampering.ROWS,
    *processes.ROWS,
    *network.ROWS,
    *inherited.ROWS,
    *memory.ROWS,
    *kernel.ROWS,
    *off_list.ROWS,
)
