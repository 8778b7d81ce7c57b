"""`injection.mask.folder` may be a single picture: a folder of one."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from support.whole_jobs import job_file

from diffstyle.errors import ConfigError
from pipeline.jobfile.load import load_job
from pipeline.stages.masks import load_masks


def test_a_file_as_the_folder_of_masks(tmp_path: Path) -> None:
    file = tmp_path / "masks" / "cat.png"
    file.parent.mkdir()
    Image.fromarray(np.repeat([[0], [255]], [16, 16], 0).repeat(32, 1).astype(np.uint8)).save(file)
    job = load_job(job_file(tmp_path, injection={"mask": {"folder": str(file)}}), check_inputs=True)
    masks = load_masks(job.settings()[0], {"image": "photos/cat.jpg"}, 32, (4, 4))
    mask = masks.of("image")
    assert mask is not None
    assert mask.reshape(4, 4)[:, 0].tolist() == [0, 0, 1, 1]
    with pytest.raises(ConfigError, match=r"has no mask for 1 of 1 content \(e\.g\. dog\.png\)"):
        load_masks(job.settings()[0], {"image": "photos/dog.jpg"}, 32, (4, 4))
