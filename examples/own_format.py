"""A format of your own: python examples/own_format.py train trees.points --set data.crop=64; also evaluate, check, convert.

A file of points names an image in each line, then the middle of each object and its class: ``a.png 10,20,oak 31,40,elm``.
"""

from pathlib import Path

from ziggurat import Format, main, register_format
from ziggurat.data.formats.table import BoxRow, ImageRow, Source, Table

SIDE = 12  # pixels of the box about a point


def find_points(path: Path):
    """Return where the splits lie: ``train.points`` and ``val.points`` of a folder, or one file that is both."""
    if path.suffix == ".points":
        files = {"train": path, "val": path}
    else:
        files = {split: path / f"{split}.points" for split in ("train", "val")}
    splits = {
        split: Source("points", "boxes", file.parent, (file,), (file.parent,))
        for split, file in files.items()
        if file.is_file()
    }
    return {"boxes": splits} if splits else {}


def read_points(source: Source) -> Table:
    """Read one file; what is wrong with a line stands in the table, with the line's number."""
    table = Table(source)
    (file,) = source.files
    for number, line in enumerate(file.read_text().splitlines(), start=1):
        name, *points = line.split() or [""]
        if not name:
            continue
        for point in points:
            try:
                x, y, label = point.split(",")
                box = (float(x) - SIDE / 2, float(y) - SIDE / 2, float(x) + SIDE / 2, float(y) + SIDE / 2)
            except ValueError:
                table.add_fault(file, number, f"unreadable point: x,y,class was expected, got {point}")
                continue
            table.boxes.append(BoxRow(len(table.images), box, label, number))
        table.images.append(ImageRow(name, len(table.images) + 1, None, file, number))
    return table


register_format(Format("points", read={"boxes": read_points}, recognise=find_points))

if __name__ == "__main__":
    raise SystemExit(main())
