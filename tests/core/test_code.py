"""A Python file that comes with a job: kept by its digest, and loaded where that is allowed."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from pydantic import ValidationError

from fixnorm_core.code import has_code, keep_code, kept_code, named_by_code
from fixnorm_core.errors import DataError, ModelError, SpecError
from fixnorm_core.models.build import build_model
from fixnorm_core.models.catalog import check_model
from fixnorm_core.reach import Reach
from fixnorm_core.spec import JobSpec, ModelSpec

CODE = """
from dataclasses import dataclass

from torch import nn

@dataclass
class Shape:
    width: int = 4

def build(num_classes, width=4):
    conv = nn.Conv2d(3, Shape(width).width, 3, bias=False)
    body = nn.Sequential(conv, nn.BatchNorm2d(width), nn.AdaptiveAvgPool2d(1), nn.Flatten())
    return nn.Sequential(*body, nn.Linear(width, num_classes))
"""


@pytest.fixture(autouse=True)
def forget() -> Iterator[None]:
    yield
    for name in [name for name in sys.modules if name.startswith("code_")]:
        del sys.modules[name]


@pytest.fixture
def reach(tmp_path: Path) -> Reach:
    return Reach(code=str(tmp_path / "code"))


def job(code: str = CODE, **fields: object) -> JobSpec:
    return JobSpec.model_validate({"code": code, "model": {"name": "code:build"}} | fields)


def test_a_file_is_kept_by_its_digest_and_named_by_it(reach: Reach, tmp_path: Path) -> None:
    spec = named_by_code(job(), reach=reach)
    keep_code(CODE, folder=tmp_path / "code")
    keep_code(CODE, folder=tmp_path / "code")
    (kept,) = (tmp_path / "code").iterdir()
    assert (spec.code, spec.model.name) == (None, f"code@{kept.stem}:build")
    assert kept.read_text() == CODE
    check_model(spec.model, reach=reach)
    model = build_model(spec.model, classes=3, channels=3, image_size=8, reach=reach)
    assert sum(parameter.numel() for parameter in model.parameters()) == 4 * 27 + 8 + 15


def test_two_files_live_beside_each_other_in_one_process(reach: Reach, tmp_path: Path) -> None:
    widths = []
    for text in (CODE, CODE.replace("width=4", "width=6")):
        keep_code(text, folder=tmp_path / "code")
        model = build_model(
            named_by_code(job(text), reach=reach).model, classes=2, channels=3, image_size=8, reach=reach
        )
        widths.append(model[0].out_channels)  # type: ignore[index, union-attr]
    assert widths == [4, 6]


def test_none_may_come_unless_the_operator_says_so(reach: Reach, tmp_path: Path) -> None:
    with pytest.raises(SpecError, match="FIXNORM_ALLOW_CODE"):
        named_by_code(job(), reach=Reach())
    kept = named_by_code(job(), reach=reach).model
    keep_code(CODE, folder=tmp_path / "code")
    for check in (
        lambda: check_model(kept),
        lambda: build_model(kept, classes=2, channels=3, image_size=8),
        lambda: build_model(kept, classes=2, channels=3, image_size=8, reach=Reach(modules=("code",))),
    ):
        with pytest.raises(ModelError, match="FIXNORM_ALLOW_CODE"):
            check()


def test_a_file_that_was_changed_or_is_gone_is_not_run(reach: Reach, tmp_path: Path) -> None:
    kept = named_by_code(job(), reach=reach).model
    with pytest.raises(ModelError, match="is not there"):
        build_model(kept, classes=2, channels=3, image_size=8, reach=reach)
    keep_code(CODE, folder=tmp_path / "code")
    (path,) = (tmp_path / "code").iterdir()
    path.write_text(CODE + "\nraise SystemExit\n")
    with pytest.raises(ModelError, match="is not the file that came with the job"):
        build_model(kept, classes=2, channels=3, image_size=8, reach=reach)


@pytest.mark.parametrize("instead", ["a link", "other words", "a folder"])
def test_what_is_in_a_kept_files_place_is_not_shown_and_makes_way_for_the_file(
    reach: Reach, tmp_path: Path, instead: str
) -> None:
    """Workers can write there, beside users' code; a server shows what it has kept to whoever reads jobs."""
    spec, folder = named_by_code(job(), reach=reach), tmp_path / "code"
    digest = keep_code(CODE, folder=folder)
    (kept,) = folder.iterdir()
    assert kept_code(spec, folder=folder) == CODE
    kept.unlink()
    if instead == "a link":
        kept.symlink_to("/proc/self/environ")
    elif instead == "a folder":
        kept.mkdir()
    else:
        kept.write_text("other words")
    assert kept_code(spec, folder=folder) is None
    assert not has_code(digest, folder=folder)
    if instead != "a folder":
        keep_code(CODE, folder=folder)
        assert kept_code(spec, folder=folder) == CODE


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("def build(:", "SyntaxError"),
        ("import no_such_package", "no_such_package"),
        ("raise SystemExit(1)", "SystemExit"),
    ],
)
def test_a_file_that_cannot_be_run_says_why_each_time(reach: Reach, tmp_path: Path, text: str, told: str) -> None:
    keep_code(text, folder=tmp_path / "code")
    kept = named_by_code(job(text), reach=reach).model
    for _ in range(2):  # nothing half-loaded stays
        with pytest.raises(ModelError, match=told):
            build_model(kept, classes=2, channels=3, image_size=8, reach=reach)


def test_what_makes_no_sense_is_refused(reach: Reach) -> None:
    with pytest.raises(ModelError, match=r"none did.*--code"):
        check_model(ModelSpec(name="code:build"), reach=reach)
    with pytest.raises(SpecError, match=r"neither model\.name nor data\.name is of it"):
        named_by_code(job(model={"name": "small_resnet"}), reach=reach)
    with pytest.raises(ValidationError, match="at most 262,144"):
        job("#" * (256 * 2**10 + 1))
    with pytest.raises(ValidationError, match="NUL"):
        job("x = 1\0")


@pytest.mark.parametrize(
    "name", ["code@../../x:build", "code@" + "A" * 64 + ":build", "code@" + "0" * 63 + ":b", "code@" + "0" * 64 + ":_b"]
)
def test_a_digest_is_a_digest_and_no_path(reach: Reach, name: str) -> None:
    for refusal, check in (
        (ModelError, lambda: check_model(ModelSpec(name=name), reach=reach)),
        (DataError, lambda: build_data(name, reach)),
    ):
        with pytest.raises(refusal, match="names no factory"):
            check()


def build_data(name: str, reach: Reach) -> None:
    from fixnorm_core.data.catalog import check_data
    from fixnorm_core.spec import DataSpec

    check_data(DataSpec(name=name), reach=reach)
