"""Checkpoints of the released code: MRA's and APTM's `.pth` files, in and out.

Such a file is {"model": state dict, "config": the run's YAML as a dict}, or a plain state dict.
Sizes are read off the tensors; what does not show there (image size, BERT's attention heads) comes
from the file's config, the stored masks, the text folder or an option. Only tensors and plain
values are unpickled, and nothing is overwritten.

    pedalign import-released checkpoint_best.pth OUT --text bert-base-uncased
    pedalign export-released OUT checkpoint.pth
"""

from tasks.released.exporting import export_released
from tasks.released.files import read_released
from tasks.released.importing import Imported, import_released

__all__ = ["Imported", "export_released", "import_released", "read_released"]
