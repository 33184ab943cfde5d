"""A module is compared with what was digested before it runs; under a lock nothing else is imported."""

import hashlib
import importlib
import importlib.machinery
import importlib.util
import os
import py_compile
import shutil
import sys

import pytest

from ringfence.imports.digested_imports import (
    ChangedModuleError,
    DigestedFile,
    DigestedFiles,
    DigestedFinder,
    UnlockedModuleError,
    identity_of,
    is_same,
)

CODE = "CODE = 'digested'\n"
FORGED = "CODE = 'attacker\\'s'\n"


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """A folder that Python searches, with a package and a module; what is imported of it is forgotten."""
    before = dict(sys.modules)
    (tmp_path / "held_package").mkdir()
    (tmp_path / "held_package" / "__init__.py").write_text(CODE)
    (tmp_path / "held_package" / "inner.py").write_text(CODE)
    (tmp_path / "held.py").write_text(CODE)
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.setattr(sys, "meta_path", list(sys.meta_path))
    monkeypatch.setattr(sys, "dont_write_bytecode", True)
    yield tmp_path
    for name in sys.modules.keys() - before.keys():
        del sys.modules[name]


def digest(folder, *, free=(), is_whole=False):
    """Digest all that there is now."""
    files = {
        os.path.realpath(path): DigestedFile(_sha256(path), identity_of(path.stat()))
        for path in folder.rglob("*")
        if path.is_file()
    }
    return DigestedFiles(files, free, is_whole)


def hold(digested):
    sys.meta_path.insert(0, DigestedFinder(digested))


def _sha256(path):
    return hashlib.sha256(path.read_bytes()).hexdigest()


def code(name):
    importlib.invalidate_caches()
    return importlib.import_module(name).CODE


def test_what_is_as_it_was_is_imported_as_ever(folder):
    hold(digest(folder, is_whole=True))
    assert code("held") == code("held_package") == code("held_package.inner") == "digested"
    assert importlib.import_module("held").__file__ == str(folder / "held.py")
    assert importlib.util.find_spec("antigravity").origin is not None  # Python's own library


@pytest.mark.parametrize("name", ["held", "held_package", "held_package.inner"])
@pytest.mark.parametrize("is_held", [True, False])
def test_source_that_has_changed_is_not_run(folder, name, is_held):
    digested = digest(folder)
    path = folder.joinpath(*name.split("."))
    path = path / "__init__.py" if path.is_dir() else path.with_suffix(".py")
    path.write_text(FORGED)
    if not is_held:
        assert code(name) == "attacker's"
        return
    hold(digested)
    with pytest.raises(ChangedModuleError, match=f"module '{name}' in .* has changed since the run began"):
        code(name)


@pytest.mark.parametrize("is_held", [True, False])
def test_compiled_code_without_source_is_compared_as_any_file(folder, is_held):
    (folder / "held.py").write_text(CODE)
    py_compile.compile(folder / "held.py", cfile=folder / "held.pyc")
    (folder / "held.py").unlink()
    digested = digest(folder, is_whole=True)
    if is_held:
        hold(digested)
        assert code("held") == "digested"
        del sys.modules["held"]
    (folder / "other.py").write_text(FORGED)
    py_compile.compile(folder / "other.py", cfile=folder / "held.pyc")
    if not is_held:
        assert code("held") == "attacker's"
        return
    with pytest.raises(ChangedModuleError):
        code("held")


@pytest.mark.parametrize("is_held", [True, False])
def test_a_library_that_was_replaced_is_not_loaded(folder, is_held):
    library = _library(folder / "held_library")
    digested = digest(folder, is_whole=True)
    _rewrite(library)
    if not is_held:
        assert importlib.util.find_spec("held_library").origin == str(library)
        return
    hold(digested)
    with pytest.raises(ChangedModuleError, match=r"module 'held_library' in .* has changed"):
        importlib.util.find_spec("held_library")


def test_what_another_finder_loads_in_its_own_way_is_compared_when_it_is_found(folder):
    class Loader(importlib.machinery.SourceFileLoader):
        pass

    class Finder:
        @staticmethod
        def find_spec(name, path=None, target=None):
            file = folder / f"{name}.py"
            return importlib.util.spec_from_file_location(name, file, loader=Loader(name, str(file)))

    digested = digest(folder)
    sys.meta_path.insert(0, Finder)
    hold(digested)
    assert type(importlib.util.find_spec("held").loader) is Loader
    (folder / "held.py").write_text(FORGED)
    with pytest.raises(ChangedModuleError):
        importlib.util.find_spec("held")


def test_a_library_that_has_only_another_name_or_time_is_the_same(folder):
    library = _library(folder / "held_library")
    digested = digest(folder, is_whole=True)
    os.link(library, folder / "another-name")
    os.utime(library)
    hold(digested)
    assert importlib.util.find_spec("held_library").origin == str(library)


@pytest.mark.parametrize(
    ("shadow", "name"),
    [
        *(("held.cpython-XY.so", "held"), ("held_package/inner.cpython-XY.so", "held_package.inner")),
        *(("held/__init__.py", "held"), ("unlisted.py", "unlisted"), ("unlisted.pyc", "unlisted")),
        ("held_package/unlisted.py", "held_package.unlisted"),
    ],
)
def test_under_a_lock_what_was_added_is_not_imported_though_python_finds_it_first(folder, shadow, name):
    digested = digest(folder)
    added = folder / shadow.replace(".cpython-XY.so", importlib.machinery.EXTENSION_SUFFIXES[0])
    added.parent.mkdir(exist_ok=True)
    added.write_bytes(b"")
    importlib.invalidate_caches()
    assert importlib.util.find_spec(name).origin == str(added)
    hold(digested)
    assert importlib.util.find_spec(name).origin == str(added)
    sys.meta_path.pop(0)
    hold(DigestedFiles(digested.files, digested.free, is_whole=True))
    with pytest.raises(UnlockedModuleError, match=f"module '{name}' in .* is not in the lock"):
        importlib.import_module(name)


def test_a_folder_that_is_searched_before_takes_nothings_place_under_a_lock(folder, monkeypatch):
    digested = digest(folder)
    earlier = folder.parent / "earlier"
    earlier.mkdir(exist_ok=True)
    (earlier / "held.py").write_text(FORGED)
    monkeypatch.syspath_prepend(str(earlier))
    hold(DigestedFiles(digested.files, is_whole=True))
    with pytest.raises(ModuleNotFoundError, match="not in the lock"):
        code("held")
    sys.meta_path.pop(0)
    assert code("held") == "attacker's"
    shutil.rmtree(earlier)


def test_what_ringfence_brings_is_free_and_only_that(folder):
    (folder / "held_package_more.py").write_text(CODE)
    hold(DigestedFiles({}, (f"{folder}/held_package", f"{folder}/held.py"), is_whole=True))
    assert code("held") == code("held_package.inner") == "digested"
    with pytest.raises(UnlockedModuleError):
        code("held_package_more")


def test_who_can_do_without_a_module_that_is_not_locked_goes_on(folder):
    (folder / "held.py").write_text("try:\n    import unlisted\nexcept ImportError:\n    CODE = 'without'\n")
    digested = digest(folder, is_whole=True)
    (folder / "unlisted.py").write_text("")
    hold(digested)
    assert code("held") == "without"


def test_changes_are_found_from_outside_whatever_the_clock_of_the_file_says(folder):
    digested = digest(folder)
    assert list(digested.changed()) == []
    path = folder / "held.py"
    then = path.stat()
    path.write_text(CODE.replace("digested", "attacked"))
    os.utime(path, ns=(then.st_atime_ns, then.st_mtime_ns))
    assert path.stat().st_size == then.st_size
    (folder / "held_package" / "inner.py").unlink()
    assert set(digested.changed()) == {str(path), str(folder / "held_package" / "inner.py")}


def test_a_file_is_told_by_its_bytes_where_its_identity_has_changed(folder):
    (then,) = (file for path, file in digest(folder).files.items() if path.endswith("held.py"))
    shutil.copy(folder / "held.py", folder / "copy.py")
    assert is_same(str(folder / "copy.py"), then)
    (folder / "copy.py").write_text(FORGED)
    assert not is_same(str(folder / "copy.py"), then)
    assert not is_same(str(folder / "gone.py"), then)


def _library(path):
    """Return a file that Python takes for a library, by its name."""
    library = path.with_name(f"{path.name}{importlib.machinery.EXTENSION_SUFFIXES[0]}")
    library.write_bytes(b"ELF")
    return library


def _rewrite(path):
    path.write_bytes(b"EVL")
