"""Writes files as a C source: embed.py OUT FILE... (run by meson; see report.h)."""

import pathlib
import sys

out, *files = map(pathlib.Path, sys.argv[1:])
lines = ['#include "commands/report/report.h"']
for i, path in enumerate(files):
    data = path.read_bytes()
    lines.append(f"static const unsigned char file_{i}[] = {{")
    lines += ["".join(f"{b}," for b in data[at : at + 32]) for at in range(0, len(data), 32)]
    lines.append("};")
lines.append("const struct report_file report_files[] = {")
lines += [f'{{ "{path.name}", file_{i}, sizeof file_{i} }},' for i, path in enumerate(files)]
lines.append("{ 0, 0, 0 } };")
out.write_text("\n".join(lines) + "\n")
