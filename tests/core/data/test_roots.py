"""What a job may read is what lies in the operator's folders, whatever it is called and wherever links lead."""

from __future__ import annotations

import struct
from collections.abc import Callable
from pathlib import Path

import pytest
from PIL import Image

from fixnorm_core.data import decode
from fixnorm_core.data.catalog import check_data
from fixnorm_core.data.folder import list_images
from fixnorm_core.data.load import check_test_split, load_test_split, load_training_data
from fixnorm_core.errors import DataError
from fixnorm_core.reach import OutsideRoots, Reach, Roots
from fixnorm_core.spec import DataSpec

CLASSES = ("rose", "tulip")


def paint(folder: Path, *, splits: tuple[str, ...] = ("",), count: int = 10) -> Path:
    for split in splits:
        for grey, name in enumerate(CLASSES):
            (folder / split / name).mkdir(parents=True)
            for number in range(count):
                Image.new("RGB", (12, 12), (grey * 90 + number,) * 3).save(folder / split / name / f"{number}.png")
    return folder


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """What may be read, with an image folder ``flowers`` in it; ``outside`` beside it has the same."""
    paint(tmp_path / "outside" / "flowers")
    paint(tmp_path / "root" / "flowers")
    return tmp_path / "root"


def fashion_mnist(raw: Path) -> Path:
    """Black pictures, in the files that torchvision reads."""
    raw.mkdir(parents=True)
    for prefix in ("train", "t10k"):
        labels = bytes(number % 10 for number in range(60))
        (raw / f"{prefix}-images-idx3-ubyte").write_bytes(struct.pack(">HBB3I", 0, 8, 3, 60, 28, 28) + bytes(60 * 784))
        (raw / f"{prefix}-labels-idx1-ubyte").write_bytes(struct.pack(">HBBI", 0, 8, 1, 60) + labels)
    return raw


def folder(path: str | Path, **fields: object) -> DataSpec:
    return DataSpec.model_validate({"name": "imagefolder", "path": str(path), "image_size": 12} | fields)


def reach_of(*roots: Path) -> Reach:
    return Reach(Roots.at(roots))


def test_what_lies_in_the_roots_is_read_by_relative_and_absolute_paths(root: Path) -> None:
    for path in ("flowers", root / "flowers", "./flowers/", f"{root}/x/../flowers", f"/{root}/flowers"):
        spec = check_data(folder(path), root=root, reach=reach_of(root))
        assert spec.path == str(root / "flowers")
        assert len(load_training_data(spec, reach=reach_of(root)).train) > 0


def test_a_root_goes_by_the_name_that_it_was_given_too(root: Path, tmp_path: Path) -> None:
    (tmp_path / "alias").symlink_to(root)
    reach = reach_of(tmp_path / "alias")
    for path in (tmp_path / "alias" / "flowers", root / "flowers"):
        assert check_data(folder(path), root=tmp_path / "alias", reach=reach).path == str(root / "flowers")


def test_links_within_the_roots_are_followed(root: Path, tmp_path: Path) -> None:
    other = paint(tmp_path / "other" / "trees", splits=("train", "test"))
    (root / "trees").symlink_to(other)
    (root / "flowers" / "rose" / "more.png").symlink_to(other / "train" / "rose" / "3.png")
    (root / "flowers" / "tulip" / "sub").symlink_to("../../trees/train/tulip")
    reach = reach_of(root, tmp_path / "other")
    spec = check_data(folder("flowers"), root=root, reach=reach)
    data = load_training_data(spec, reach=reach)
    assert len(data.train) + len(data.validation) + len(load_test_split(spec, image_size=12, reach=reach)[1]) == 31
    assert check_data(folder("trees"), root=root, reach=reach).path == str(other)


OUTSIDE: tuple[Callable[[Path], str], ...] = (
    lambda there: str(there),
    lambda there: f"../{there.parent.name}/{there.name}",
    lambda there: f"flowers/../../{there.parent.name}/{there.name}",
    lambda there: f"{there.parent.parent}/root/../{there.parent.name}/{there.name}",
    lambda there: f"{there.parent.parent}/rootless/../{there.parent.name}/{there.name}",
    lambda there: f"/{there}",
)


@pytest.mark.parametrize("written", OUTSIDE)
@pytest.mark.parametrize("name", ["imagefolder", "cifar10"])
def test_a_path_outside_is_refused_alike_whether_it_is_there_or_not(
    root: Path, tmp_path: Path, written: Callable[[Path], str], name: str
) -> None:
    (tmp_path / "outside" / "a_file").write_text("x")
    (tmp_path / "outside" / "loop").symlink_to("loop")
    (tmp_path / "outside" / "back").symlink_to(root / "flowers")
    refusals = set()
    for there in ("flowers", "a_file", "missing", "loop", "back", "x" * 5000):
        path = written(tmp_path / "outside" / there)
        with pytest.raises(OutsideRoots) as refused:
            check_data(folder(path, name=name), root=root, reach=reach_of(root))
        refusals.add(str(refused.value).replace(repr(path[:200]), "PATH"))
    assert len(refusals) == 1
    assert "FIXNORM_ALLOWED_DATA_ROOTS" in refusals.pop()


@pytest.mark.parametrize("path", ["/", "..", "~", "~root/x", "~nobody-of-this-name/x", "/proc/self/environ", "/etc"])
def test_well_known_places_are_outside(root: Path, path: str) -> None:
    with pytest.raises(OutsideRoots):
        check_data(folder(path), root=root, reach=reach_of(root))


def test_a_sibling_whose_name_begins_like_the_roots_is_outside(root: Path, tmp_path: Path) -> None:
    paint(tmp_path / "root-of-another")
    with pytest.raises(OutsideRoots):
        check_data(folder(tmp_path / "root-of-another"), root=root, reach=reach_of(root))


def test_a_name_that_no_file_can_have_is_an_error_and_no_crash(root: Path) -> None:
    with pytest.raises(DataError):
        check_data(folder("x" * 5000), root=root, reach=reach_of(root))
    with pytest.raises(ValueError, match="NUL"):
        folder("flowers\0")


def link_the_folder(root: Path, target: Path) -> str:
    (root / "linked").symlink_to(target)
    return "linked"


def link_a_parent(root: Path, target: Path) -> str:
    (root / "parent").symlink_to(target.parent)
    return f"parent/{target.name}"


def link_by_steps(root: Path, target: Path) -> str:
    (root / "one").symlink_to("two")
    (root / "two").symlink_to(f"flowers/../../{target.parent.name}/{target.name}")
    return "one"


def link_a_class(root: Path, target: Path) -> str:
    (root / "flowers" / "violet").symlink_to(target / "rose")
    return "flowers"


def link_a_split(root: Path, target: Path) -> str:
    paint(root / "split", splits=("train",))
    (root / "split" / "val").symlink_to(target)
    return "split"


def link_the_training_split(root: Path, target: Path) -> str:
    (root / "trained").mkdir()
    (root / "trained" / "train").symlink_to(target)
    return "trained"


def link_a_class_of_a_split(root: Path, target: Path) -> str:
    paint(root / "deep", splits=("train", "test"))
    (root / "deep" / "test" / "violet").symlink_to(target / "rose")
    return "deep"


def link_up_from_a_linked_folder(root: Path, target: Path) -> str:
    """By its text it stays in the root; the system takes ``..`` from where ``near`` leads, and leaves it."""
    (root / "deep").mkdir()
    (root / "deep" / "near").symlink_to(root / "flowers")
    (root / "deep" / "up").symlink_to(f"near/../../{target.parent.name}/{target.name}")
    return "deep/up"


def link_up_from_a_folder_linked_upwards(root: Path, target: Path) -> str:
    (root / "a" / "b" / "c").mkdir(parents=True)
    (root / "a" / "b" / "c" / "top").symlink_to("../../..")
    (root / "a" / "b" / "c" / "up").symlink_to(f"top/../{target.parent.name}/{target.name}")
    return "a/b/c/up"


def link_a_class_up_from_a_linked_folder(root: Path, target: Path) -> str:
    (root / "x").mkdir()
    (root / "flowers" / "near").symlink_to(root / "x")
    (root / "flowers" / "violet").symlink_to(f"near/../../{target.parent.name}/{target.name}/rose")
    return "flowers"


def link_through_outside_and_back(root: Path, target: Path) -> str:
    """Where ``..`` leads from there only a look at what is outside could tell."""
    (root / "back").symlink_to(f"{target}/../../root/flowers")
    return "back"


@pytest.mark.parametrize(
    "link",
    [
        link_the_folder,
        link_a_parent,
        link_by_steps,
        link_a_class,
        link_a_split,
        link_the_training_split,
        link_a_class_of_a_split,
        link_up_from_a_linked_folder,
        link_up_from_a_folder_linked_upwards,
        link_a_class_up_from_a_linked_folder,
        link_through_outside_and_back,
    ],
)
def test_a_link_out_is_refused_at_the_door_alike_whether_it_leads_to_something(
    root: Path, tmp_path: Path, link: Callable[[Path, Path], str]
) -> None:
    path = link(root, tmp_path / "outside" / "flowers")
    told = []
    for there in (True, False):
        if not there:
            (tmp_path / "outside" / "flowers").rename(tmp_path / "outside" / "gone")
        with pytest.raises(OutsideRoots) as refused:
            check_data(folder(path), root=root, reach=reach_of(root))
        told.append(str(refused.value))
    assert told[0] == told[1]
    assert "outside/flowers" not in told[0]


def test_links_that_lead_in_a_circle_are_refused(root: Path) -> None:
    (root / "a").symlink_to("b")
    (root / "b").symlink_to("a")
    (root / "x").mkdir()
    (root / "x" / "c").symlink_to("../x/c/../c")
    for path in ("a", "a/flowers", "x/c"):
        with pytest.raises(OutsideRoots):
            check_data(folder(path), root=root, reach=reach_of(root))


TARGETS = (
    "flowers/../flowers",
    "deep/../flowers",
    "deep/../../flowers",
    "deep/../down/up/flowers",
    "down/../../flowers",
    "down/up/../root/flowers",
    "down/up/down/../../../flowers",
    "down/up/down/up/../../outside/flowers",
    "../root/down/../../../outside/flowers",
    "missing/../flowers",
    "gone/../flowers",
    "./down//up/./flowers/.",
    "one/../flowers",
)


@pytest.mark.parametrize("target", TARGETS)
def test_links_lead_where_the_system_says(root: Path, tmp_path: Path, target: str) -> None:
    (root / "a" / "b" / "c").mkdir(parents=True)
    (root / "a" / "b" / "up").symlink_to("../..")
    (root / "down").symlink_to("a/b")
    (root / "deep").symlink_to(root / "a" / "b" / "c")
    (root / "gone").symlink_to("a/missing/also")
    (root / "one").symlink_to("two")
    (root / "two").symlink_to("down/c")
    (root / "link").symlink_to(target)
    real = (root / "link").resolve()
    if real.is_relative_to(root):
        assert Roots.at([root]).confine(root / "link") == str(real)
        assert Roots.at([root]).confine(root / "link" / "rose") == str(real / "rose")
    else:
        with pytest.raises(OutsideRoots):
            Roots.at([root]).confine(root / "link")


@pytest.mark.parametrize("roots", ["here", "anywhere"])
def test_a_folder_that_links_back_to_one_above_is_an_error(root: Path, roots: str) -> None:
    (root / "flowers" / "rose" / "sub").mkdir()
    (root / "flowers" / "rose" / "sub" / "again").symlink_to("..")
    reach = reach_of(root) if roots == "here" else Reach()
    with pytest.raises(DataError, match="sub/again leads back"):
        load_training_data(folder(root / "flowers"), reach=reach)


def test_linked_images_keep_the_order_of_their_names(root: Path) -> None:
    (root / "flowers" / "rose" / "0.png").rename(root / "zzz.png")
    (root / "flowers" / "rose" / "0.png").symlink_to("../../zzz.png")
    listed, free = (list_images(root / "flowers", CLASSES, roots=roots) for roots in (Roots.at([root]), Roots()))
    assert listed[0] == (root / "zzz.png", 0)
    assert [path.resolve() for path, _ in free] == [path for path, _ in listed]


def test_a_path_is_read_where_it_led_when_it_was_judged(root: Path, tmp_path: Path) -> None:
    """What was listed by a link is opened by the place that it led to, whatever the link leads to by then."""
    (root / "flowers" / "rose" / "sub").symlink_to("../tulip")
    listed = list_images(root / "flowers", CLASSES, roots=Roots.at([root]))
    assert {path.parent for path, label in listed if label == 0} == {
        root / "flowers" / "rose",
        root / "flowers" / "tulip",
    }


@pytest.mark.parametrize("storage", ["memory", "stream"])
@pytest.mark.parametrize("there", [True, False])
@pytest.mark.parametrize("name", ["0.png", "zzz.png", "notes.txt", "sub"])
def test_a_link_out_among_the_images_is_refused_where_they_are_listed(
    root: Path, tmp_path: Path, storage: str, there: bool, name: str
) -> None:
    place = root / "flowers" / "rose" / "sub" / name
    place.parent.mkdir()
    place.symlink_to(tmp_path / "outside" / "flowers" / "rose" / ("0.png" if there else "missing"))
    for read in (load_training_data, check_test_split):
        with pytest.raises(OutsideRoots):
            read(folder(root / "flowers", storage=storage), reach=reach_of(root))


@pytest.mark.parametrize("fields", [{}, {"storage": "stream"}, {"crop": "random_resized"}, {"skip_corrupt": True}])
def test_a_folder_that_becomes_a_link_after_it_was_listed_is_not_read(
    root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, fields: dict[str, object]
) -> None:
    """The instant between looking and opening: whoever may write there puts a link in the folder's place."""
    real, swapped = decode._read, []

    def swap_then_read(*arguments: object) -> object:
        if not swapped:
            swapped.append((root / "flowers" / "rose").rename(tmp_path / "old"))
            (root / "flowers" / "rose").symlink_to(tmp_path / "outside" / "flowers" / "rose")
        return real(*arguments)  # type: ignore[arg-type]

    monkeypatch.setattr(decode, "_read", swap_then_read)

    def read_all() -> None:
        data = load_training_data(folder(root / "flowers", **fields), reach=reach_of(root))
        list(data.train.in_order(batch_size=4))

    with pytest.raises(OutsideRoots):
        read_all()
    assert swapped


def test_downloaded_files_are_looked_through_for_links_out(root: Path, tmp_path: Path) -> None:
    raw = root / "fashion_mnist" / "FashionMNIST" / "raw"
    raw.mkdir(parents=True)
    (raw / "train-images-idx3-ubyte").symlink_to(tmp_path / "outside" / "flowers" / "rose" / "0.png")
    with pytest.raises(OutsideRoots):
        load_training_data(DataSpec(name="fashion_mnist", path=str(root / "fashion_mnist")), reach=reach_of(root))


@pytest.mark.parametrize("target", ["near/../../outside/raw", "../../outside/raw"])
def test_downloaded_files_outside_are_not_read_by_links(root: Path, tmp_path: Path, target: str) -> None:
    fashion_mnist(tmp_path / "outside" / "raw")
    (root / "x").mkdir()
    (root / "FashionMNIST" / "a").mkdir(parents=True)
    (root / "FashionMNIST" / "near").symlink_to(root / "x")
    (root / "FashionMNIST" / "raw").symlink_to(target)
    with pytest.raises(OutsideRoots):
        load_training_data(DataSpec(name="fashion_mnist", path=str(root)), reach=reach_of(root))


def test_downloaded_files_are_looked_at_again_once_they_are_open(
    root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fashion_mnist(tmp_path / "outside" / "raw")
    raw = fashion_mnist(root / "FashionMNIST" / "raw")
    real = Roots.confine

    def confine_then_swap(self: Roots, path: str | Path, **named: str | None) -> str:
        led = real(self, path, **named)
        if led.endswith("train-images-idx3-ubyte") and not raw.is_symlink():
            raw.rename(tmp_path / "old")
            raw.symlink_to(tmp_path / "outside" / "raw")
        return led

    monkeypatch.setattr(Roots, "confine", confine_then_swap)
    with pytest.raises(OutsideRoots):
        load_training_data(DataSpec(name="fashion_mnist", path=str(root)), reach=reach_of(root))
    assert raw.is_symlink()


def test_nothing_is_made_outside_for_a_download(root: Path, tmp_path: Path) -> None:
    with pytest.raises(OutsideRoots):
        load_training_data(DataSpec(name="cifar10", path=str(tmp_path / "new")), reach=reach_of(root))
    assert not (tmp_path / "new").exists()


def test_the_whole_machine_may_be_a_root(root: Path) -> None:
    spec = check_data(folder(root / "flowers"), root=root, reach=reach_of(Path("/")))
    assert len(load_training_data(spec, reach=reach_of(Path("/"))).classes) == 2
