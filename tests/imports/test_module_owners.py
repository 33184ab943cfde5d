"""Whose modules a plugin's are: all that its list may mean, and all that nobody lists; or nothing starts."""

import importlib
import importlib.util
import os
import sys
import zipfile

import pytest

from ringfence.hooks.errors import RingfenceError
from ringfence.imports import module_owners
from ringfence.imports.import_guard import Guard
from ringfence.imports.module_owners import modules_in, owned_modules

POINTS = "[ringfence.plugins]\nacme = acme:Plugin\n"


class Library:
    """A prefix with a folder of packages in its library, as without a virtual environment."""

    def __init__(self, root):
        self.root = root
        self.library = root / "lib" / "python3.11"
        self.site = self.library / "site-packages"
        self.site.mkdir(parents=True)
        self.install(
            "honest", "honest/__init__.py", "shared/honest/__init__.py", "_honest.so", "hon.libs/libz.so.1"
        )

    def install(self, name, *files, rows=(), points=None, info=None, record=True):
        info = info or f"{name}-1.0.dist-info"
        told = {} if points is None else {f"{info}/entry_points.txt": points}
        for file in (*files, f"{info}/METADATA", *told):
            path = self.site / file
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(told.get(file, ""))
        if record:
            lines = [f"{file},," for file in (*files, *told)] + list(rows)
            (self.site / info / "RECORD").write_text("".join(f"{line}\n" for line in lines))

    def plugin(self, *files, **told):
        self.install("acme", *files, **{"points": POINTS, **told})

    def owned(self, *more):
        return owned_modules([str(self.library), str(self.site), *map(str, more)])


@pytest.fixture
def library(tmp_path):
    return Library(tmp_path)


@pytest.mark.parametrize(
    ("row", "module", "folder"),
    [
        ('opt_einsum/__init__.py,sha256=x,"1,2"', "opt_einsum", "site"),
        ('"opt_einsum.py",,', "opt_einsum", "site"),
        ('"odd, name.py",,', "odd, name", "site"),
        ("x/../opt_einsum.py,,", "opt_einsum", "site"),
        ("./opt_einsum.so,,,,,", "opt_einsum", "site"),
        ("../opt_einsum.py,,", "opt_einsum", "library"),
        ("../../../lib64/python3.11/uuid.py,,", "uuid", "library"),
        ("{library}/uuid/__init__.py,,", "uuid", "library"),
        ("honest/__pycache__/core.cpython-311.pyc,,", "honest.core", "site/honest"),
        ("shared/acme.py,,", "shared.acme", "site/shared"),
        ("acme_more/opt_einsum.py,,", "opt_einsum", "site/acme_more"),
    ],
)
def test_a_row_means_what_it_may_mean_in_any_folder_that_is_searched(library, row, module, folder):
    (library.root / "lib64").symlink_to("lib")
    (library.site / "acme_more").mkdir()
    library.plugin("acme.py", rows=[row.format(library=library.library)])

    found = library.owned(library.site / "acme_more")

    top, _, below = folder.partition("/")
    assert found.owners[module] == {"acme"}
    assert str(getattr(library, top) / below) in found.places[module]
    around = {"honest"} if module.startswith("honest.") else set()
    assert {"honest", "shared", "_honest", "shared.honest"} & found.owners.keys() == around


def test_what_no_other_distribution_lists_is_nobodys(library):
    library.plugin("acme.py")
    for name in ("unlisted.py", "package/__init__.py", "native.abi3.so", "data.txt"):
        (library.site / name).parent.mkdir(exist_ok=True)
        (library.site / name).touch()

    found = library.owned()

    theirs = {name for name, whose in found.owners.items() if whose == {str(library.site)}}
    assert theirs == {"unlisted", "package", "native"}


@pytest.mark.parametrize("info", ["acme.egg-info", "acme-1.0.DIST-INFO", "acme-1.0.dist-info"])
def test_without_a_list_of_files_all_that_nobody_lists_is_its_own(library, info):
    library.plugin("acme.py", "gmpy2.py", info=info, record=False)

    found = library.owned()

    assert found.owners["gmpy2"] == found.owners["acme"] == {"acme"}
    assert "honest" not in found.owners


def test_a_distribution_without_a_list_owns_what_it_is_called_and_what_it_names(library):
    """As Debian's packages are."""
    library.install("honest_two", "honest_two.py", "three.py", info="honest_two-1.egg-info", record=False)
    (library.site / "honest_two-1.egg-info" / "top_level.txt").write_text("three\n")
    library.plugin("acme.py")

    assert not {"honest_two", "three"} & library.owned().owners.keys()


def test_of_a_distribution_that_names_nothing_it_is_told_how_it_comes_to_a_list(library, monkeypatch, fresh):
    """As PyYAML would be, whose module is called otherwise, without its top_level.txt."""
    library.install("PyHonest", "honest_yaml/__init__.py", record=False)
    info = library.site / "PyHonest-1.0.dist-info"
    library.plugin("acme.py")
    monkeypatch.setattr(sys, "path", [str(library.site), *sys.path])
    assert fresh("honest_yaml"), "the control"

    guard_of(library, monkeypatch)
    with pytest.raises(ModuleNotFoundError, match="install that anew with pip, which keeps such a list"):
        fresh("honest_yaml")

    (info / "top_level.txt").write_text("honest_yaml\n")
    monkeypatch.undo()
    guard_of(library, monkeypatch)
    assert fresh("honest_yaml")


def test_metadata_that_another_distribution_brings_make_that_one_the_plugins(library):
    library.plugin("other.py", info="other-1.0.dist-info", rows=["other.py,,"])
    library.install("carrier", "gmpy2.py", "other-1.0.dist-info/entry_points.txt")
    (library.site / "other-1.0.dist-info" / "entry_points.txt").write_text(POINTS)

    assert library.owned().owners["gmpy2"] == {"carrier"}


def test_all_modules_of_an_archive_with_plugins_are_theirs(library, tmp_path):
    path = tmp_path / "acme.egg"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("EGG-INFO/entry_points.txt", POINTS)
        archive.writestr("gmpy2.py", "")

    assert library.owned(path).owners == {"gmpy2": {str(path)}}


def test_all_modules_of_an_archive_that_a_plugin_brings_are_theirs(library):
    path = library.site / "acme_data.zip"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("gmpy2.py", "")
    assert "gmpy2" not in library.owned(path).owners

    library.plugin("acme.py", "acme.pth", rows=["acme_data.zip,,"])
    (library.site / "acme.pth").write_text("acme_data.zip\n")

    assert library.owned(path).owners["gmpy2"] == {str(path)}


def test_without_plugins_of_others_nothing_is_anybodys(library):
    library.install("ringfence", points=POINTS)
    (library.site / "unlisted.py").touch()

    assert library.owned().owners == {}


def too_long(info):
    (info / "RECORD").write_text(("x" * 120_000 + "\n") * 600)


def a_pipe(info):
    (info / "RECORD").unlink()
    os.mkfifo(info / "RECORD")


UNREADABLE = {
    "too long": (too_long, "its RECORD has 72000600 bytes"),
    "a pipe": (a_pipe, "its RECORD is no regular file"),
    "entry points in a pipe": (
        lambda info: ((info / "entry_points.txt").unlink(), os.mkfifo(info / "entry_points.txt")),
        "its entry_points.txt is no regular file",
    ),
    "undecodable": (lambda info: (info / "RECORD").write_bytes(b"\xff,,\n"), "its list of files is damaged"),
    "a field too long": (
        lambda info: (info / "RECORD").write_text(f'"{"x" * 200_000}",,\n'),
        "its list of files is damaged: field larger",
    ),
    "a zero byte": (lambda info: (info / "RECORD").write_text("a\0b,,\n"), "its list of files is damaged"),
    "a loop of links": (
        lambda info: ((info / "RECORD").unlink(), (info / "RECORD").symlink_to("RECORD")),
        "its RECORD cannot be read",
    ),
}


@pytest.mark.parametrize("damage", UNREADABLE)
def test_what_cannot_be_read_starts_nothing_and_is_named(library, damage):
    library.plugin("acme.py")
    make, told = UNREADABLE[damage]
    make(library.site / "acme-1.0.dist-info")

    with pytest.raises(RingfenceError, match="pip uninstall acme") as caught:
        library.owned()

    assert "which modules belong to 'acme' cannot be told" in str(caught.value)
    assert told in str(caught.value)


def test_a_long_list_of_files_of_others_is_read_and_one_beyond_all_measure_starts_nothing(library):
    library.plugin("acme.py")
    library.install("large", "hmm.py", rows=["large/data.bin,,"] * 1_100_000)
    record = library.site / "large-1.0.dist-info" / "RECORD"
    assert record.stat().st_size > 2**24
    assert "hmm" not in library.owned().owners

    os.truncate(record, 2**26 + 1)
    with pytest.raises(RingfenceError, match="'large' cannot be told, since its RECORD has 67108865 bytes"):
        library.owned()


def test_a_list_too_long_to_be_read_does_not_hide_that_it_brought_a_plugin(library):
    library.plugin("other.py", info="other-1.0.dist-info", rows=["other.py,,"])
    library.install("carrier", "gmpy2.py", rows=["x,,"] * 5_000_000)
    info = library.site / "carrier-1.0.dist-info"
    with (info / "RECORD").open("a") as record:
        record.write("other-1.0.dist-info/entry_points.txt,,\n")
    (info / "top_level.txt").write_text("gmpy2\n")

    with pytest.raises(RingfenceError, match="which modules belong to 'carrier' cannot be told"):
        library.owned()


def test_metadata_that_cannot_be_opened_starts_nothing(library, monkeypatch):
    library.plugin("acme.py")
    really = os.open

    def refuse(path, *rest):
        if str(path).endswith("acme-1.0.dist-info/entry_points.txt"):
            raise PermissionError(13, "Permission denied")
        return really(path, *rest)

    monkeypatch.setattr(module_owners.os, "open", refuse)

    with pytest.raises(RingfenceError, match=r"its entry_points[.]txt cannot be read: Permission denied"):
        library.owned()


@pytest.mark.parametrize(
    "row", ["../../../lib/libstdc++.so.6,,", "hon.libs/libgomp.so.1,,", "hon.libs/libz.so.1,,"]
)
def test_a_library_among_the_files_of_others_starts_nothing(library, row):
    library.plugin("acme.py", rows=[row])

    with pytest.raises(RingfenceError, match=r"'acme', which brings plugins, has installed .*[.]so"):
        library.owned()


def test_libraries_of_its_own_are_its_own(library, monkeypatch):
    monkeypatch.setattr(sys, "prefix", str(library.root))
    library.plugin(
        *("acme/__init__.py", "acme/_core.so", "acme.libs/libz.so.1"),
        # In a folder that is shared, where nobody else has code; no library; data.
        *("shared/_acme.so", "hon.libs/notes.so.txt"),
        rows=["../../../share/acme/libmodel.so,,"],
    )

    assert library.owned().owners["acme"] == {"acme"}


def test_pyc_files_count_for_the_module_that_they_stand_for():
    assert modules_in(["torch/__pycache__/functional.cpython-311.pyc"]) == {"torch.functional"}


@pytest.mark.parametrize("info", ["ringfence.egg-9.dist-info", "Ringfence.Egg-9.dist-info"])
def test_a_name_that_looks_like_the_cores_is_not_the_cores(library, info):
    library.plugin("opt_einsum.py", info=info)
    assert library.owned().owners["opt_einsum"] == {"ringfence-egg"}


def guard_of(library, monkeypatch, *more):
    """Return a guard for the library, in force as long as the test lasts."""
    monkeypatch.setattr(sys, "path", [str(library.library), str(library.site), *map(str, more), *sys.path])
    told = library.owned(*more)
    made = Guard(told.owners, told.libraries, told.places, told.invaded)
    monkeypatch.setattr(sys, "meta_path", [made, *sys.meta_path])
    monkeypatch.setattr(sys, "path_hooks", [made.hook, *sys.path_hooks])
    made.forget_folders()
    return made


@pytest.fixture
def fresh(monkeypatch):
    """Return a function that imports a module anew, as a library does; it is gone after the test."""
    before = set(sys.modules)

    def forget():
        for name in set(sys.modules) - before:
            del sys.modules[name]

    def bring(name):
        forget()
        importlib.invalidate_caches()
        exec(compile(f"import {name}", "<string>", "exec"), {"__name__": "somebody"})  # noqa: S102
        return sys.modules[name]

    yield bring
    forget()


def asked_by_user(folder, name):
    """Import a module as a file of the user's does."""
    exec(compile(f"import {name}", str(folder / "mine.py"), "exec"), {"__name__": "mine"})  # noqa: S102


def test_who_is_let_through_lets_nobody_else_through(library, monkeypatch, fresh):
    library.install("good", "good_one/__init__.py", "good_one/core.py", "good_two.py", points=POINTS)
    library.install("evil", "good_one/more/__init__.py", points=POINTS.replace("acme", "evil"))
    guard = guard_of(library, monkeypatch)
    guard.allow("good")
    assert fresh("good_two")
    with pytest.raises(
        ModuleNotFoundError, match="'evil', which brings plugins for ringfence, put files into"
    ):
        fresh("good_one.core")
    # The control: who chooses both gets them.
    guard.allow("evil")
    assert fresh("good_one.more")
    assert fresh("good_one.core")


@pytest.mark.parametrize("first", ["agood", "zgood"])
def test_a_file_that_two_have_installed_needs_both(library, monkeypatch, fresh, first):
    """A later wheel overwrites a file of an earlier one; which of them came later is not told."""
    library.install(first, "good_one/__init__.py", points=POINTS)
    library.install("evil", "good_one/__init__.py", points=POINTS.replace("acme", "evil"))
    guard = guard_of(library, monkeypatch)
    guard.allow_module("good_one")
    with pytest.raises(ModuleNotFoundError, match=f"{first}.* bring plugins for ringfence"):
        asked_by_user(library.root, "good_one")
    guard.allow(first)
    for ask in (fresh, lambda name: asked_by_user(library.root, name)):
        with pytest.raises(ModuleNotFoundError, match="belongs to 'evil', which brings plugins"):
            ask("good_one")
    guard.allow("evil")
    assert fresh("good_one")


EXECUTES = (
    "from pathlib import Path\nRAN = {}\nexec((Path(__file__).parent / 'config.py').read_text(), RAN)\n"
)


@pytest.mark.parametrize("file", ["config.py", "deep/data.bin"])
@pytest.mark.parametrize("whose", ["a distribution's", "nobody's"])
def test_a_package_that_a_plugin_has_put_a_file_into_is_withheld(library, monkeypatch, fresh, file, whose):
    """A package may run what lies in it without importing it, as cv2 does with its config.py."""
    if whose == "nobody's":
        (library.site / "vision").mkdir()
        (library.site / "vision" / "__init__.py").touch()
    else:
        library.install("vision", "vision/__init__.py", "vision/core.py", "vision/config.py")
    (library.site / "vision" / "__init__.py").write_text(EXECUTES)
    library.plugin("acme.py", f"vision/{file}")
    (library.site / "vision" / "config.py").write_text("MARK = 1\n")
    monkeypatch.setattr(sys, "path", [str(library.site), *sys.path])
    assert fresh("vision").RAN["MARK"] == 1, "the control: without a guard it runs"

    guard = guard_of(library, monkeypatch)
    guard.allow_module("vision")
    with pytest.raises(ModuleNotFoundError, match=r"'acme', which brings .* put files into 'vision'"):
        fresh("vision")
    with pytest.raises(ModuleNotFoundError, match="pip uninstall acme"):
        asked_by_user(library.root, "vision")


@pytest.mark.parametrize(
    ("row", "name"),
    [
        ("vision/__init__.py", "vision"),
        ("__pycache__/six_one.cpython-311.pyc", "six_one"),
        ("space/part/__init__.py", "space.part"),
        ("listless.py", "listless"),
        ("../__pycache__/msvcrt.cpython-311.pyc", "msvcrt"),
    ],
)
def test_who_asks_for_what_a_plugin_has_overwritten_has_not_chosen_the_plugin(
    library, monkeypatch, fresh, row, name
):
    """A user's file imports cv2 because it is cv2; a compiled file counts before its source."""
    library.install("vision", "vision/__init__.py", "six_one.py", "space/part/__init__.py")
    library.install("listless", "listless.py", record=False)
    (library.library / "msvcrt.py").touch()
    library.plugin("acme.py", rows=[f"{row},,"])
    monkeypatch.setattr(module_owners, "_LIBRARY", str(library.library))
    guard = guard_of(library, monkeypatch)

    guard.allow_module(name)
    with pytest.raises(ModuleNotFoundError, match=f"module '{name}' belongs to 'acme'"):
        fresh(name)
    with pytest.raises(ModuleNotFoundError, match=f"module '{name}' belongs to 'acme'"):
        asked_by_user(library.root, name)
    # The control: what is the plugin's alone is chosen by who asks for it.
    asked_by_user(library.root, "acme")
    assert guard._allowed == {"acme"}


def test_any_number_of_modules_beside_those_of_others_is_told_at_once(library, monkeypatch):
    library.install("space", *(f"space/p{number}.py" for number in range(50)))
    library.plugin("acme.py", rows=[f"space/p{number}.py,," for number in range(100_000)])

    assert library.owned().invaded == {f"space.p{number}": set() for number in range(50)}


def test_data_of_others_in_a_package_of_a_plugin_do_not_keep_it_from_who_chooses_it(
    library, monkeypatch, fresh
):
    library.install("acme-data", "acme_big/weights.bin")
    library.plugin("acme_big/__init__.py")
    guard_of(library, monkeypatch)

    asked_by_user(library.root, "acme_big")


def test_a_folder_of_tests_that_many_have_is_withheld_and_nothing_else(library, monkeypatch, fresh):
    library.install("honest_two", "honest_two.py", "tests/__init__.py", "tests/test_two.py")
    library.plugin("acme.py", "tests/test_acme.py", "docs/conf.py")
    guard_of(library, monkeypatch)

    assert fresh("honest")
    assert fresh("honest_two")
    with pytest.raises(ModuleNotFoundError, match="put files into 'tests'"):
        fresh("tests.test_two")


def test_a_package_that_was_imported_before_hides_what_a_plugin_put_into_it(library, monkeypatch, fresh):
    library.plugin("acme.py", "honest/evil.py")
    monkeypatch.setattr(sys, "path", [str(library.site), *sys.path])
    assert fresh("honest.evil"), "the control"
    del sys.modules["honest.evil"]

    guard_of(library, monkeypatch)
    with pytest.raises(ModuleNotFoundError, match="belongs to 'acme'"):
        exec("import honest.evil")  # noqa: S102


def test_a_name_that_a_plugin_has_twice_is_hidden_in_both_places(library, monkeypatch, fresh):
    """The honest package is found past the first of them, and what lies in it is the second."""
    library.plugin("honest/evil.py", rows=["../honest/__init__.py,,"])
    (library.library / "honest").mkdir()
    (library.library / "honest" / "__init__.py").touch()
    guard_of(library, monkeypatch)

    with pytest.raises(ModuleNotFoundError):
        fresh("honest.evil")


@pytest.mark.parametrize("name", ["honest_link.evil", "space.acme_link", "acme_link"])
def test_a_package_that_is_a_link_is_judged_by_where_it_leads(library, tmp_path, monkeypatch, fresh, name):
    """As nix and spack make them, and farms of links."""
    store = tmp_path / "store"
    for package in ("honest_link", "space/acme_link", "acme_link", "sound_link"):
        (store / package).mkdir(parents=True)
        (store / package / "__init__.py").touch()
    for package in ("honest_link", "space", "acme_link", "sound_link"):
        (library.site / package).symlink_to(store / package)
    for owner in ("honest_link", "sound_link"):
        library.install(owner, f"{owner}/__init__.py", f"{owner}/core.py")
    library.plugin("space/acme_link/__init__.py", "acme_link/__init__.py", "honest_link/evil.py")
    monkeypatch.setattr(sys, "path", [str(library.site), *sys.path])
    assert fresh(name), "the control: without a guard it is imported"

    guard_of(library, monkeypatch)
    with pytest.raises(ModuleNotFoundError, match="'acme', which brings plugins"):
        fresh(name)
    assert fresh("sound_link.core")


def test_a_relative_folder_is_judged_by_where_it_leads_now(library, monkeypatch, tmp_path):
    (tmp_path / "elsewhere").mkdir()
    library.plugin("acme.py")
    guard = guard_of(library, monkeypatch)
    monkeypatch.chdir(tmp_path / "elsewhere")
    for path in ("", "."):
        with pytest.raises(ImportError):
            guard.hook(path)

    monkeypatch.chdir(library.site)

    for path in ("", "."):
        assert guard.hook(path).find_spec("acme") is None
        assert guard.hook(path).find_spec("honest") is not None


def test_a_module_that_the_job_names_lets_through_no_plugin_inside_it(library, monkeypatch):
    library.install("plain", "plain_one/__init__.py", "plain_one/models.py")
    library.plugin("plain_one/models/__init__.py", "acme_one.py", "spread/acme.py")
    guard = guard_of(library, monkeypatch)
    guard.allow_module("plain_one.models")
    assert guard._allowed == set()
    # A folder without an __init__ is anybody's.
    guard.allow_module("spread.acme")
    assert guard._allowed == {"acme"}
