"""Changes to what others run, and to what files are."""

import errno
import os
import stat
import sysconfig

import msgspec

import ringfence

from .. import reasons
from ..row import Row

_PACKAGES = reasons.closed(sysconfig.get_path("purelib"), os.W_OK)
_LIBRARY = reasons.closed(os.path.dirname(os.__file__), os.W_OK)
_OWN = reasons.closed(os.path.dirname(os.path.abspath(__file__)), os.W_OK)
_OWNS_CODE = reasons.fails(lambda: os.chmod(__file__, stat.S_IMODE(os.stat(__file__).st_mode)))
#: Where the file system itself takes no changes.
_READ_ONLY = frozenset({errno.EROFS})

ROWS = (
    Row(
        6,
        "put code into installed packages",
        "landlock",
        "tampering:packages",
        also=_READ_ONLY,
        no_control=reasons.each(("new_pth", "new_module", "new_folder", "new_link"), _PACKAGES)
        | reasons.each(
            ("installed", "installed_appended", "installed_renamed", "compiled"),
            reasons.closed(os.path.dirname(msgspec.__file__), os.W_OK),
        )
        | reasons.each(("beside_the_library", "the_library"), _LIBRARY)
        | reasons.because({"ringfence": reasons.closed(ringfence.__file__, os.W_OK)}),
    ),
    Row(
        6,
        "leave something that its user starts, and spoil data",
        "landlock",
        "tampering:homes",
        also={"nameless_in_tmp": frozenset({errno.EOPNOTSUPP})},
    ),
    Row(
        6,
        "change the plugin's own code",
        "landlock",
        "tampering:own_code",
        also=_READ_ONLY,
        no_control={"*": _OWN} if _OWN else {},
    ),
    Row(
        6,
        "change owners, rights, times, lengths and attributes",
        "seccomp, landlock",
        "tampering:facts_of_files",
        no_control=reasons.because({"mkdevice": reasons.lacks("MKNOD")}),
    ),
    Row(
        6,
        "have the trainer change modes of what is not the plugin's own file",
        "seccomp",
        "tampering:modes",
        no_control=reasons.each(("by_descriptor", "by_handle", "by_link"), _OWNS_CODE)
        | reasons.because({"of_a_device": reasons.lacks("FOWNER", anywhere=True)}),
    ),
    Row(
        6,
        "leave set-uid files, files for all, and devices in a folder that may be written",
        "seccomp, environment",
        "tampering:left_behind",
        also={"whiteout": frozenset({errno.EINVAL})},
    ),
)
