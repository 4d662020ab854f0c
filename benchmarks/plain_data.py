"""A data set as other tools read it: 8-bit pictures, and labels in the forms of COCO and of YOLO-seg.

``images/SPLIT/000000.jpg`` …, links where a file is plain already; ``SPLIT.json`` in COCO's form; with a
polygon for each object ``labels/SPLIT/000000.txt`` …; and ``data.yaml``. Images and classes are numbered from
0, in the order of the data set. Crowd regions are left out.
"""

from pathlib import Path

import numpy as np
from jaxtyping import Float
from PIL import Image

from maskrcnn.data.dataset import Dataset, Mask
from maskrcnn.data.pictures import read_picture
from maskrcnn.files import write_json
from maskrcnn.masks.polygons import polygons
from maskrcnn.masks.rle import decode

_PLAIN_FORMATS = {"JPEG": ".jpg", "PNG": ".png"}
_ORIENTATION = 0x0112  # of EXIF


def write_plain(dataset: Dataset, folder: Path, split: str) -> None:
    """Write one split of a data set to `folder`."""
    pictures, labels = (folder / kind / split for kind in ("images", "labels"))
    for created in (pictures, labels):
        created.mkdir(parents=True)
    images, annotations = [], []
    for index in range(len(dataset)):
        file = _write_picture(dataset.path(index), pictures / f"{index:06d}", dataset.white)
        height, width = dataset.sizes_hw[index].tolist()
        images.append({"id": index, "file_name": file.name, "height": height, "width": width})
        objects, lines = dataset.objects(index), []
        for box, label, crowd, mask in zip(
            objects.boxes, objects.labels.tolist(), objects.crowd, objects.masks, strict=True
        ):
            if crowd:
                continue
            rings = outlines(mask, box)
            x1, y1, x2, y2 = box.tolist()
            annotations.append(
                {
                    "id": len(annotations) + 1,
                    "image_id": index,
                    "category_id": label,
                    "iscrowd": 0,
                    "bbox": [x1, y1, x2 - x1, y2 - y1],
                    "segmentation": mask if isinstance(mask, dict) else [r.ravel().tolist() for r in rings],
                }
            )
            points = (one_ring(rings) / [width, height]).clip(0, 1)
            lines.append(" ".join([str(label), *(f"{value:.6f}" for value in points.ravel())]))
        (labels / f"{index:06d}.txt").write_text("\n".join(lines))
    categories = [{"id": label, "name": name} for label, name in enumerate(dataset.class_names)]
    write_json(
        folder / f"{split}.json", {"images": images, "annotations": annotations, "categories": categories}
    )
    names = "".join(f"  {label}: class{label}\n" for label in range(len(categories)))
    (folder / "data.yaml").write_text(
        f"path: {folder.resolve()}\ntrain: images/train\nval: images/val\nnames:\n{names}"
    )


def usual_long_side(dataset: Dataset) -> int:
    """Return the median long side of the pictures, a multiple of 32 px."""
    return max(32, 32 * round(float(np.median(dataset.sizes_hw.max(1))) / 32))


def outlines(mask: Mask, box: Float[np.ndarray, "4"]) -> list[Float[np.ndarray, "_ 2"]]:
    """Return the rings of a mask; of the box where there is no mask, or an empty one."""
    if isinstance(mask, dict):
        pixels = decode(mask)
        rows, columns = pixels.any(1).nonzero()[0], pixels.any(0).nonzero()[0]
        if len(rows):
            y, x = int(rows[0]), int(columns[0])
            return polygons(pixels[y : rows[-1] + 1, x : columns[-1] + 1], (x, y))
    elif mask:
        return list(mask)
    x1, y1, x2, y2 = box.tolist()
    return [np.array([[x1, y1], [x2, y1], [x2, y2], [x1, y2]])]


def one_ring(rings: list[Float[np.ndarray, "_ 2"]]) -> Float[np.ndarray, "_ 2"]:
    """Join rings to one, which goes to the nearest point of the next one and back on the same line.

    Filled by the even-odd rule, as OpenCV does, it is the same mask: the line there and back has no width.
    """
    joined, *others = rings
    for ring in others:
        distances = ((joined[:, None] - ring[None]) ** 2).sum(-1)
        at, start = np.unravel_index(distances.argmin(), distances.shape)
        turn = np.concatenate([ring[start:], ring[: start + 1]])
        joined = np.concatenate([joined[: at + 1], turn, joined[at:]])
    return joined


def _write_picture(source: Path, target: Path, white: int | None) -> Path:
    """Link a picture that every library reads alike; write any other as an upright 8-bit PNG."""
    with Image.open(source) as picture:
        is_plain = picture.mode in ("L", "RGB") and picture.getexif().get(_ORIENTATION, 1) == 1
        suffix = _PLAIN_FORMATS.get(picture.format or "") if is_plain else None
    if suffix:
        file = target.with_suffix(suffix)
        file.symlink_to(source.resolve())
    else:
        file = target.with_suffix(".png")
        Image.fromarray(read_picture(source, 3, white).permute(1, 2, 0).numpy()).save(file)
    return file
